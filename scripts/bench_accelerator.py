"""A training step of jdl beside PyTorch's, eager and by `torch.compile`, on one NVIDIA GPU.

Forward, backward and AdamW, of models of equal shapes and parameters, on batches that are on the
GPU already. Precision is the same on both sides: "tf32" is float32 whose products may use TF32
(JAX's default on such GPUs, allowed in PyTorch), and "bf16" is `mixed_precision` of jdl and
`autocast` of PyTorch, which keeps the residual stream and the norms in float32, as jdl does not.
Images are channels-last on both sides, attention is fused in bf16, and PyTorch's LSTM is cuDNN's.
`torch.compile` has the model and the loss. jdl's step alone also computes accuracy and the norms
of gradients, updates and parameters; "jdl k steps" is K steps in one dispatch (`lax.scan`).

Each contestant runs a block of steps without waiting, then waits for the GPU; blocks take turns.
Medians of the rounds are printed, and written to the JSON file after each case: so nothing is lost
if the time of a borrowed GPU runs out. Cases come by falling value.

    scripts/bench accelerator [--json FILE] [--only TEXT] [--compile] [--smoke]
"""

import os

os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # PyTorch needs memory beside JAX

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench_peers import CLASSES, DECAY, RATE
from bench_peers_torch import Last, Transformer, cnn, mlp

import jdl
from jdl.learners import jit_learner, mixed_precision
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.resnet import ResNet
from jdl.models.rnn import RNN
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT

K, ROUNDS, BLOCK = 10, 7, 0.2  # steps in one dispatch; turns; seconds of a turn
PEAK = 989e12  # FLOPs a second of an H100 SXM: dense, bfloat16
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


def labelled(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs of this shape and labels."""
    return RNG.random(shape, np.float32), RNG.integers(0, CLASSES, shape[0]).astype(np.int32)


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


def gpt(name: str, c: TransformerConfig, vocabulary: int, batch: int) -> Case:
    """A language model, in bfloat16."""

    def data():
        x = RNG.integers(0, vocabulary, (batch, c.max_length + 1)).astype(np.int32)
        return x, x[:, 1:]

    return Case(
        f"{name}, batch {batch} x {c.max_length}, bf16",
        lambda: jdl.objectives.next_token(GPT(vocabulary, c)),
        lambda: Transformer(c, vocabulary),
        data,
        half=True,
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
    plain = ("CNN", lambda: CNN(CLASSES), cnn)
    dense = ("MLP", lambda: MLP(CLASSES, hidden=(512, 256)), mlp)
    last = ("LSTM 128", lambda: RNN(CLASSES, hidden=(128,)), Last)
    image = ("ViT-S", lambda: ViT(CLASSES, 4, vit), lambda: Transformer(vit, patch=4))
    return [
        gpt("GPT 124M", large, words, 2 if smoke else 16),
        classifier(*residual, rows(512), 32, 32, 3),
        classifier(*residual, rows(512), 32, 32, 3, half=True),
        classifier(*plain, rows(128), 28, 28, 1, scanned=True),
        classifier(*plain, rows(1024), 28, 28, 1, scanned=True),
        classifier(*dense, rows(128), 784, scanned=True),
        classifier(*dense, rows(4096), 784, scanned=True),
        classifier(*last, rows(128), 28, 28, scanned=True),
        classifier(*image, rows(256), 32, 32, 3, half=True),
        gpt("GPT 4 x 128", blocks(128, 4, 4, 128), 258, 2 if smoke else 32),
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


def builders(case: Case, compiled: bool) -> dict[str, Callable[[], Contestant]]:
    """Who takes part, in the order of building."""
    named = {"jdl": lambda: of_jdl(case), "torch": lambda: of_torch(case)}
    named |= {SCANNED: lambda: of_jdl(case, K)} if case.scanned else {}
    return named | ({COMPILED: lambda: of_torch(case, True)} if compiled else {})


def block(contestant: Contestant, calls: int) -> float:
    """Milliseconds a step, of a block of calls that are waited for at the end."""
    began = time.perf_counter()
    for _ in range(calls):
        contestant.step()
    contestant.wait()
    return 1e3 * (time.perf_counter() - began) / (calls * contestant.steps)


def measure(case: Case, compiled: bool) -> dict:
    """Seconds until the first step is done, and the median milliseconds of a step."""
    contestants, first = {}, {}
    for name, build in builders(case, compiled).items():
        contestants[name] = build()
        first[name] = round(block(contestants[name], 1) * contestants[name].steps / 1e3, 2)
        ours, size = contestants["jdl"].parameters, contestants[name].parameters
        if abs(size / ours - 1) > 0.02:
            raise ValueError(f"{name} has {size} parameters, not {ours}: that is not the same work")
    calls = {}
    for name, contestant in contestants.items():
        once = block(contestant, 3) * contestant.steps / 1e3
        calls[name] = max(round(BLOCK / once), 1)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            times[name].append(block(contestant, calls[name]))
    ms = {name: round(statistics.median(turns), 4) for name, turns in times.items()}
    mfu = {name: round(case.mfu(ours, t), 4) for name, t in ms.items()} if case.tokens else {}
    return {"parameters": ours, "first_step_s": first, "ms": ms, "mfu": mfu}


def free() -> None:
    """Gives the memory of the last case back."""
    import torch

    gc.collect()
    torch.compiler.reset()  # what it learned of shapes would make the next ones dynamic
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def row(case: Case, found: dict) -> str:
    """A line of the table, in Markdown."""
    ms, columns = found["ms"], ("jdl", "torch", COMPILED, SCANNED)
    cells = [f"{ms[n]:.3f} ({ms[n] / ms['jdl']:.2f})" if n in ms else "" for n in columns]
    mfu = ", ".join(f"{n} {100 * share:.1f}%" for n, share in found["mfu"].items())
    return f"| {case.name} | {' | '.join(cells)} | {mfu} |"


def about() -> dict:
    """The device and the versions; allows TF32 in PyTorch, as JAX does by default."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    packages = ("jax", "flax", "optax", "torch")
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in packages},
        "cudnn_of_torch": torch.backends.cudnn.version(),
    }


def main() -> None:
    """Measures case by case; one that fails is named, and the next goes on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="the file of results")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which is slow")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to try it on a CPU")
    args = parser.parse_args()
    report = {**about(), "cases": {}}
    print(json.dumps(report))
    print(f"| ms a step | jdl | torch | {COMPILED} | {SCANNED} | MFU |\n|---|---|---|---|---|---|")
    for case in cases(args.smoke):
        if args.only not in case.name:
            continue
        try:
            report["cases"][case.name] = found = measure(case, args.compile)
            print(row(case, found), flush=True)
        except Exception as error:
            report["cases"][case.name] = {"error": f"{type(error).__name__}: {error}"}
            print(f"| {case.name} | {type(error).__name__}: {str(error)[:300]} |", flush=True)
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n")
        free()


if __name__ == "__main__":
    main()
