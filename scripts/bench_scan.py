"""A GPT's layers unrolled and in a scan: what compiling and a step take, by depth.

    scripts/bench scan [--depths 12 48] [--width 128] [--remat]

Processor seconds, as machines are shared: of tracing and compiling, and of a step of AdamW (the
least of 5); and the temporaries of the compiled step. It is an experiment besides, for `jdl plan`:

    jdl plan scripts/bench_scan.py --topology v5e:16x16 --mesh data=16,fsdp=16 --scan --remat True
"""

import argparse
import time
from dataclasses import dataclass

import jax
import numpy as np

import jdl
from jdl.learners import jit_learner, with_data
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig

ROUNDS = 5


@dataclass(frozen=True)
class Config(jdl.Config):
    """The sizes of a GPT, and how its layers are compiled."""

    batch: int = 8
    length: int = 128
    vocabulary: int = 256
    width: int = 128
    depth: int = 12
    heads: int = 4
    chunk: int | None = None
    remat: bool | str = False
    scan: bool = False


def run(c: Config) -> jdl.Run:
    """A GPT of these sizes on random tokens."""
    form = {"max_length": c.length, "remat": c.remat, "scan": c.scan}
    sizes = TransformerConfig(c.width, c.depth, c.heads, **form)
    shape = (c.batch, c.length + 1)
    x = np.random.default_rng(0).integers(0, c.vocabulary, shape, np.int32)
    objective = jdl.objectives.next_token(GPT(c.vocabulary, sizes), chunk=c.chunk)
    learner = jdl.descent(objective, jdl.optim.adamw(1e-4))
    return jdl.Run(c, learner, jdl.data.arrays(x=x).shuffled(c.batch, c.seed))


def measure(c: Config) -> list[float]:
    """Seconds to trace, to compile and of a step; megabytes of temporaries."""
    made = run(c)
    learner = jit_learner(with_data(made.learner, made.train))
    state, raw = learner.init(jax.random.key(0), made.train[0]), next(made.train.read())
    times = [time.process_time()]
    lowered = learner.step_fn.lower(state, raw)
    times.append(time.process_time())
    step = lowered.compile()
    times.append(time.process_time())
    steps = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        state, _ = jax.block_until_ready(step(state, raw))
        steps.append(time.process_time() - begun)
    temporaries = step.memory_analysis().temp_size_in_bytes / 1e6
    return [times[1] - times[0], times[2] - times[1], min(steps), temporaries]


def main() -> None:
    """Measures and prints a row for each depth and form."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--depths", nargs="+", type=int, default=[12, 48])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--remat", action="store_true")
    given = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    print("| layers | trace, s | compile, s | step, s | temporaries, MB |\n|---|---|---|---|---|")
    for depth in given.depths:
        for scan in (False, True):
            c = Config(width=given.width, depth=depth, scan=scan, remat=given.remat)
            found = " | ".join(f"{value:.2f}" for value in measure(c))
            print(f"| {depth}, {'in a scan' if scan else 'unrolled'} | {found} |", flush=True)


if __name__ == "__main__":
    main()
