"""A training step of jdl beside PyTorch's, eager and by `torch.compile`, on one NVIDIA GPU.

Forward, backward and AdamW, of models of equal shapes and parameters, on batches that are on the
GPU already. Precision is the same on both sides: "tf32" is float32 whose products may use TF32
(JAX's default on such GPUs, allowed in PyTorch), and "bf16" is `mixed_precision` of jdl and
`autocast` of PyTorch, which keeps the residual stream and the norms in float32, as jdl does not.
Images are channels-last on both sides, attention is fused in bf16, and PyTorch's LSTM is cuDNN's.
`torch.compile` has the model and the loss. jdl's step alone also computes accuracy and the norms
of gradients, updates and parameters; "jdl k steps" is K steps in one dispatch (`lax.scan`).

Each contestant runs a block of steps without waiting, then waits for the GPU; blocks take turns.
Medians of the rounds are printed, and the JSON file is written anew after every contestant: what
fails or does not fit in the time is an error there. At `--seconds` the process ends, whatever runs.

    python scripts/bench_accelerator.py --seconds 230 --json FILE [--smoke] [--only TEXT]
"""

import os
import time

os.environ["BENCH_BEGAN"] = str(time.monotonic())
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # PyTorch needs memory beside JAX

import argparse
import gc
import json
import signal
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench_peers import CLASSES, DECAY, RATE, torch_models

import jdl
from jdl.learners import jit_learner, mixed_precision
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.resnet import ResNet
from jdl.models.rnn import RNN
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT

BEGAN = float(os.environ["BENCH_BEGAN"])
K = 10
PEAK = 989e12  # FLOPs a second of an H100 SXM: dense, bfloat16
RESERVE, PER_CASE = 30, 10  # seconds: torch.compile starts if so much is left for later cases
LEAST = 12  # seconds: no case starts with less
BUILD_LIMIT, CASE_LIMIT = 80, 110  # seconds: of one contestant's build, of all builds of a case
RNG = np.random.default_rng(0)
SCANNED, COMPILED = f"jdl {K} steps", "torch.compile"


@dataclass(frozen=True)
class Contestant:
    """Starts `steps` steps; waits for all that were started; how many parameters it trains."""

    step: Callable[[], None]
    wait: Callable[[], None]
    parameters: int
    steps: int = 1


@dataclass(frozen=True)
class Case:
    """What both sides train, and on what: inputs and targets of a batch."""

    name: str
    objective: Callable[[], jdl.Objective]
    model: Callable  # PyTorch's
    data: Callable[[], tuple[np.ndarray, np.ndarray]]
    half: bool = False  # bfloat16
    compiled: bool = False  # by torch.compile too
    scanned: bool = False  # K steps in one dispatch too
    attention: int = 0  # FLOPs of attention in a step, for MFU
    tokens: int = 0
    positions: int = 0  # parameters of position embeddings, which multiply nothing

    def mfu(self, parameters: int, ms: float) -> float:
        """Model FLOPs utilization, as PaLM's: 6 N tokens + attention, over the peak.

        Attention is 12 x depth x length x width a token; that causality halves it is ignored. N is
        all parameters but positions: the table of tokens counts, as it gives the logits.
        """
        flops = 6 * (parameters - self.positions) * self.tokens + self.attention
        return flops / (ms / 1e3) / PEAK


@dataclass
class Report:
    """What is known so far, as the JSON file has it."""

    path: Path | None
    about: dict
    cases: dict = field(default_factory=dict)

    def write(self) -> None:
        """Replaces the file."""
        if self.path:
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps({**self.about, "cases": self.cases}, indent=1))
            part.replace(self.path)


def labelled(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs of this shape and labels."""
    return RNG.random(shape, np.float32), RNG.integers(0, CLASSES, shape[0]).astype(np.int32)


def torch_transformer(c: TransformerConfig, vocabulary: int = 0, patch: int = 0):
    """PyTorch's GPT of a vocabulary, or ViT of RGB patches."""
    import torch
    from torch.nn import GELU, Conv2d, Embedding, LayerNorm, Linear, Module, Parameter, Sequential
    from torch.nn import functional as F

    class Attention(Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = Linear(c.width, 3 * c.width), Linear(c.width, c.width)

        def forward(self, x):
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, c.heads, -1).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=bool(vocabulary))
            return self.out(out.transpose(1, 2).reshape(x.shape))

    class Added(Sequential):
        def forward(self, x):
            return x + super().forward(x)

    def block():
        w, gelu = c.width, GELU(approximate="tanh")
        mlp = Added(LayerNorm(w), Linear(w, 4 * w), gelu, Linear(4 * w, w))
        return Sequential(Added(LayerNorm(w), Attention()), mlp)

    class Transformer(Module):
        def __init__(self):
            super().__init__()
            self.places = Parameter(0.02 * torch.randn(c.max_length, c.width))
            self.blocks = Sequential(*(block() for _ in range(c.depth)), LayerNorm(c.width))
            if vocabulary:
                self.table = Embedding(vocabulary, c.width)
                torch.nn.init.normal_(self.table.weight, std=0.02)
            else:
                self.patches, self.head = Conv2d(3, c.width, patch, patch), Linear(c.width, CLASSES)

        def forward(self, x):
            if vocabulary:
                return F.linear(self.blocks(self.table(x) + self.places), self.table.weight)
            x = self.patches(x).flatten(2).transpose(1, 2)
            return self.head(self.blocks(x + self.places).mean(1))

    return Transformer()


def torch_resnet(stages: tuple):
    """PyTorch's residual network of basic blocks for small images."""
    from torch.nn import (
        AdaptiveAvgPool2d,
        BatchNorm2d,
        Conv2d,
        Flatten,
        Linear,
        Module,
        ReLU,
        Sequential,
        functional,
    )

    def convolution(inputs, outputs, kernel, stride):
        conv = Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return Sequential(conv, BatchNorm2d(outputs))

    class Block(Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            first, last = (inputs, outputs, 3, stride), (outputs, outputs, 3, 1)
            self.inner = Sequential(convolution(*first), ReLU(inplace=True), convolution(*last))
            same = inputs == outputs and stride == 1
            self.shortcut = Sequential() if same else convolution(inputs, outputs, 1, stride)

        def forward(self, x):
            return functional.relu(self.inner(x) + self.shortcut(x), inplace=True)

    inputs = stages[0][0]
    layers = [convolution(3, inputs, 3, 1), ReLU(inplace=True)]
    for stage, (outputs, blocks) in enumerate(stages):
        for n in range(blocks):
            layers.append(Block(inputs, outputs, 2 if stage and not n else 1))
            inputs = outputs
    return Sequential(*layers, AdaptiveAvgPool2d(1), Flatten(), Linear(inputs, CLASSES))


def gpt(name: str, c: TransformerConfig, vocabulary: int, batch: int, compiled: bool) -> Case:
    """A language model, in bfloat16."""

    def data():
        x = RNG.integers(0, vocabulary, (batch, c.max_length + 1)).astype(np.int32)
        return x, x[:, 1:]

    return Case(
        f"{name}, batch {batch} x {c.max_length}, bf16",
        lambda: jdl.objectives.next_token(GPT(vocabulary, c)),
        lambda: torch_transformer(c, vocabulary),
        data,
        half=True,
        compiled=compiled,
        tokens=batch * c.max_length,
        positions=c.max_length * c.width,
        attention=12 * c.depth * c.max_length * c.width * batch * c.max_length,
    )


def classifier(name: str, net: Callable, model: Callable, *shape: int, **options) -> Case:
    """A classifier of inputs of this shape, whose first number is the batch."""
    precision = "bf16" if options.get("half") else "tf32"
    return Case(
        f"{name}, batch {shape[0]}, {precision}",
        lambda: jdl.objectives.classify(net()),
        model,
        lambda: labelled(*shape),
        **options,
    )


def cases(smoke: bool) -> list[Case]:
    """All cases by falling value; `smoke` shrinks them."""

    def blocks(width: int, depth: int, heads: int, length: int) -> TransformerConfig:
        depth = 1 if smoke else depth
        return TransformerConfig(width, depth, heads, max_length=length, rotary=False)

    def rows(n: int) -> int:
        return n // 64 if smoke else n

    large = blocks(64, 1, 2, 32) if smoke else blocks(768, 12, 12, 1024)
    words, vit = 500 if smoke else 50304, blocks(384, 12, 6, 64)
    stages = ((8, 1), (16, 1)) if smoke else ((64, 2), (128, 2), (256, 2), (512, 2))
    residual = ("ResNet-18", lambda: ResNet(CLASSES, stages), lambda: torch_resnet(stages))
    plain = ("CNN", lambda: CNN(CLASSES), lambda: torch_models()[1])
    dense = ("MLP", lambda: MLP(CLASSES, hidden=(512, 256)), lambda: torch_models()[0])
    last = ("LSTM 128", lambda: RNN(CLASSES, hidden=(128,)), lambda: torch_models()[2])
    image = ("ViT-S", lambda: ViT(CLASSES, 4, vit), lambda: torch_transformer(vit, patch=4))
    return [
        gpt("GPT 124M", large, words, 2 if smoke else 16, compiled=True),
        classifier(*residual, rows(512), 32, 32, 3),
        classifier(*residual, rows(512), 32, 32, 3, half=True),
        classifier(*plain, rows(128), 28, 28, 1, compiled=True, scanned=True),
        classifier(*plain, rows(1024), 28, 28, 1, scanned=True),
        classifier(*dense, rows(128), 784, scanned=True),
        classifier(*dense, rows(4096), 784, scanned=True),
        classifier(*last, rows(128), 28, 28, scanned=True),
        classifier(*image, rows(256), 32, 32, 3, half=True),
        gpt("GPT 4 x 128", blocks(128, 4, 4, 128), 258, 2 if smoke else 32, compiled=False),
    ]


def of_jdl(case: Case, k: int = 1) -> Contestant:
    """`jdl.descent`, compiled as `fit` does; with k > 1, that many steps in one dispatch."""
    x, y = case.data()
    batch = {"x": jnp.asarray(x)} if case.tokens else {"x": jnp.asarray(x), "y": jnp.asarray(y)}
    learner = jdl.descent(case.objective(), optax.adamw(RATE, weight_decay=DECAY))
    learner = mixed_precision(learner, "bfloat16") if case.half else learner
    compiled = jit_learner(learner)
    state, call, metrics = compiled.init(jax.random.key(0), batch), compiled.step, None
    if k > 1:
        batch = {name: jnp.stack([column] * k) for name, column in batch.items()}
        call = jax.jit(lambda s, many: jax.lax.scan(learner.step, s, many), donate_argnums=0)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def step() -> None:
        nonlocal state, metrics
        state, metrics = call(state, batch)

    return Contestant(step, lambda: jax.block_until_ready((state.params, metrics)), parameters, k)


def of_torch(case: Case, compiled: bool = False) -> Contestant:
    """PyTorch with its fused AdamW, eager or by `torch.compile`."""
    import torch
    from torch.nn import functional as F

    gpu = torch.cuda.is_available()
    device, (x, y) = "cuda" if gpu else "cpu", case.data()
    x = torch.from_numpy(np.ascontiguousarray(x[:, :-1] if case.tokens else x)).to(device)
    y = torch.from_numpy(y.astype(np.int64)).to(device).flatten()
    with torch.device(device):
        model = case.model()
    if x.ndim == 4:
        x, model = x.permute(0, 3, 1, 2), model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY, fused=True)

    def loss(x, y):
        return F.cross_entropy(model(x).flatten(0, -2), y)

    call = torch.compile(loss, dynamic=False) if compiled else loss

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=case.half):
            value = call(x, y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    wait = torch.cuda.synchronize if gpu else lambda: None
    return Contestant(step, wait, sum(p.numel() for p in model.parameters()))


BUILDERS = {
    "jdl": of_jdl,
    "torch": of_torch,
    SCANNED: lambda case: of_jdl(case, K),
    COMPILED: lambda case: of_torch(case, True),
}  # in the order of building


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `TimeoutError` in the block after these seconds, as soon as Python runs."""

    def late(*_) -> None:
        raise TimeoutError(f"took more than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def failure(error: Exception) -> str:
    """The error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def started(name: str, case: Case, found: dict, limit: float) -> Contestant | None:
    """A contestant that has run one step, and of the same size as jdl's; notes why not."""
    try:
        with limited(limit):
            began = time.monotonic()
            contestant = BUILDERS[name](case)
            contestant.wait()
            built = time.monotonic()
            contestant.step()
            contestant.wait()
        found["build_s"][name] = round(built - began, 2)
        found["first_step_s"][name] = round(time.monotonic() - built, 2)
        print(f"  {name}: first step after {found['first_step_s'][name]} s", flush=True)
        ours = found.setdefault("parameters", contestant.parameters)
        if abs(contestant.parameters / ours - 1) > 0.02:
            raise ValueError(f"{contestant.parameters} parameters, not {ours}: not the same work")
        return contestant
    except Exception as error:
        found["errors"][name] = failure(error)
        print(f"  {name}: {failure(error)}", flush=True)
        return None


def block(contestant: Contestant, calls: int) -> float:
    """Milliseconds a step, of a block of calls that are waited for at the end."""
    began = time.perf_counter()
    for _ in range(calls):
        contestant.step()
    contestant.wait()
    return 1e3 * (time.perf_counter() - began) / (calls * contestant.steps)


def measure(contestants: dict, found: dict, rounds: int, length: float, end: float) -> None:
    """Fills in medians of the rounds, in each of which all take their turns, until the end."""
    calls = {}
    for name, contestant in contestants.items():
        block(contestant, 3)
        once = block(contestant, 3) * contestant.steps / 1e3
        calls[name] = min(max(round(length / once), 1), 2000)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in list(contestants)[:: 1 if turn % 2 else -1]:
            times[name].append(round(block(contestants[name], calls[name]), 5))
        found["rounds"], found["calls"] = times, calls
        found["ms"] = {name: statistics.median(ms) for name, ms in times.items()}
        if time.monotonic() > end:
            break


def run(case: Case, report: Report, end: float, later: int, smoke: bool) -> None:
    """Builds all contestants of a case, then measures those that run."""
    found = {"build_s": {}, "first_step_s": {}, "errors": {}, "ms": {}, "mfu": {}}
    report.cases[case.name] = found
    print(case.name, flush=True)
    contestants, case_end = {}, min(time.monotonic() + CASE_LIMIT, end - 8)
    for name in BUILDERS:
        wanted = {SCANNED: case.scanned, COMPILED: case.compiled}.get(name, True)
        limit = min(BUILD_LIMIT, case_end - time.monotonic())
        short = name == COMPILED and end - time.monotonic() < RESERVE + PER_CASE * later
        if wanted and (short or limit < 2):
            found["errors"][name] = "skipped: no time"
        elif wanted:
            contestant = started(name, case, found, limit)
            contestants |= {name: contestant} if contestant else {}
            report.write()
    try:
        with limited(max(min(30, end - 3 - time.monotonic()), 1)):
            measure(contestants, found, 2 if smoke else 7, 0.02 if smoke else 0.2, end - 6)
    except Exception as error:
        found["errors"]["measuring"] = failure(error)
        print(f"  measuring: {failure(error)}", flush=True)
    if case.tokens:
        found["mfu"] = {n: case.mfu(found["parameters"], ms) for n, ms in found["ms"].items()}
    print(f"  ms: {found['ms']}", flush=True)


def free() -> None:
    """Gives the memory of the last case back."""
    gc.collect()
    try:
        import torch

        torch.compiler.reset()  # what it learned of shapes would make the next ones dynamic
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    except Exception as error:
        print(failure(error), flush=True)


def table(cases: dict) -> str:
    """Two Markdown tables: milliseconds a step, and seconds until the first step is done."""
    columns = ["jdl", "torch", COMPILED, SCANNED]
    lines = [f"| case | {' | '.join(columns)} | note |", f"|---{'|---:' * 4}|---|"]
    compiling = [f"| first step, s | {' | '.join(columns)} |", f"|---{'|---:' * 4}|"]
    for case, found in list(cases.items()):
        ms, ours = found["ms"], found["ms"].get("jdl")
        ratios = {n: f" ({t / ours:.2f})" if ours and n != "jdl" else "" for n, t in ms.items()}
        cells = [f"{ms[n]:.3f}{ratios[n]}" if n in ms else "-" for n in columns]
        notes = [f"MFU {n} {100 * value:.1f}%" for n, value in found["mfu"].items()]
        notes += [f"{n}: {error[:80]}" for n, error in found["errors"].items()]
        note = "; ".join(notes).replace("|", "/")
        lines.append(f"| {case} | {' | '.join(cells)} | {note} |")
        seconds = [str(found["first_step_s"].get(n, "-")) for n in columns]
        compiling.append(f"| {case} | {' | '.join(seconds)} |")
    return "\n".join([*lines, "", *compiling])


def about() -> dict:
    """The device and the versions."""
    import torch

    found, versions = torch.cuda.is_available(), {}
    for name in ("jax", "jaxlib", "flax", "optax", "torch", "triton", "jax-cuda13-plugin"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return {
        "device": torch.cuda.get_device_name() if found else "cpu",
        "jax_device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "versions": versions,
        "cudnn_of_torch": torch.backends.cudnn.version(),
    }


def main() -> None:
    """Measures case by case until the time is spent, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=230, help="of the whole process")
    parser.add_argument("--json", type=Path, help="the file of results")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to try it on a CPU")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    args = parser.parse_args()
    end = BEGAN + args.seconds
    report = Report(args.json, about())
    print(json.dumps(report.about), flush=True)

    def cut() -> None:  # a compiler that never comes back to Python cannot be stopped otherwise
        print(f"cut off after {args.seconds} s\n\n{table(report.cases)}", flush=True)
        os._exit(0)

    watchdog = threading.Timer(end - time.monotonic(), cut)
    watchdog.daemon = True
    watchdog.start()
    waiting = [case for case in cases(args.smoke) if args.only in case.name]
    while waiting and end - time.monotonic() > LEAST:
        case = waiting.pop(0)
        try:
            run(case, report, end, len(waiting), args.smoke)
        except Exception as error:
            report.cases[case.name]["errors"]["case"] = failure(error)
            print(f"  {failure(error)}", flush=True)
        report.write()
        free()
    for case in waiting:
        print(f"no time: {case.name}")
    watchdog.cancel()
    print(f"\n{table(report.cases)}\n\n{time.monotonic() - BEGAN:.0f} s", flush=True)
    os._exit(0)  # compilers' worker processes would be waited for


if __name__ == "__main__":
    main()
