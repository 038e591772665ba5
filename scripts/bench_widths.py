"""At which learning rate a GPT is best, by its width: the standard parametrization and muP.

scripts/bench widths [--steps 200] [--seeds 1] [--widths 32 128]

A GPT of two blocks with heads of width 16, on the corpus of `stdlib_gpt`; the narrow model of muP
is that of the first width. Bits per byte are those of the first 512 windows of the validation
files, means of the seeds.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import jdl
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig

LENGTH, BATCH, HEAD, DECAY, WINDOWS = 64, 8, 16, 0.1, 512
RATES = [2.0**n for n in range(-9, -3)]


def bits(width: int, base: int, muP: bool, steps: int, seed: int) -> list[float]:  # noqa: N803
    """The bits per byte after training with each of the rates."""
    train, valid, _ = jdl.data.text("", jdl.data.ByteTokenizer(), LENGTH)
    data, test = train.shuffled(BATCH, seed), valid.batches(128)
    key = jax.random.key(seed)
    objective, narrow = _objective(width, valid), None
    schedule = jdl.optim.warmup_cosine(1.0, steps)
    if muP:
        narrow = jax.eval_shape(_objective(base, valid).init, key, data.spec)["params"]
        objective = jdl.objectives.mup_init(objective, narrow)

    def learner(rate: Any) -> jdl.Learner:
        optimizer = jdl.optim.adamw(lambda n: rate * schedule(n), DECAY, narrow=narrow)
        return jdl.descent(objective, optimizer)

    step = jax.jit(lambda state, batch, rate: learner(rate).step(state, batch)[0], donate_argnums=0)
    evaluate = jax.jit(lambda variables, batch: objective.loss(variables, batch, key, False))
    init, batches = jax.jit(learner(0.0).init), [test[n] for n in range(WINDOWS // 128)]
    found = []
    for rate in RATES:
        state = init(key, data[0])
        for n in range(steps):
            state = step(state, data[n], rate)
        variables = learner(rate).eval_variables(state)
        scores = [evaluate(variables, batch).metrics["bits_per_byte"] for batch in batches]
        found.append(float(sum(scores[1:], scores[0]).value()))
    return found


def _objective(width: int, data: Any) -> jdl.Objective:
    sizes = TransformerConfig(width, depth=2, heads=width // HEAD, max_length=LENGTH)
    model = GPT(jdl.data.ByteTokenizer().vocab_size, sizes, tied=False)
    return jdl.objectives.next_token(model, data.bytes_per_token)


def main(widths: Sequence[int], steps: int, seeds: int) -> None:
    """Prints a table: a row for each width and parametrization, a column for each rate."""
    print("| width | parametrization |", " | ".join(f"2^{np.log2(r):.0f}" for r in RATES), "|")
    print("|---|---|" + "---|" * len(RATES))
    widths = sorted(widths)
    for width in widths:
        for name in ("standard", "muP") if width > widths[0] else ("both",):
            runs = [bits(width, widths[0], name == "muP", steps, seed) for seed in range(seeds)]
            row = " | ".join(f"{score:.3f}" for score in np.mean(runs, 0))
            print(f"| {width} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128])
    main(**vars(parser.parse_args()))
