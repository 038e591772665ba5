"""What each part of today's language models brings a small GPT, on the corpus of `stdlib_gpt`.

scripts/bench blocks [--steps 300] [--seeds 3] [--only NAME ...]

All are trained alike but for what their name says, and none was tuned. Bits per byte are those of
the validation files, by seed.
"""

import argparse
import time
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax

import jdl
from jdl.layers import RMSNorm
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig

LENGTH, BATCH, RATE = 64, 8, 3e-3
SIZES = TransformerConfig(width=64, depth=2, heads=2, max_length=LENGTH)
OPTIMIZERS = {
    "Muon": jdl.optim.muon,
    "Lion, a tenth of the rate": lambda rate, weight_decay: jdl.optim.clip_gradients(
        optax.lion(lambda step: rate(step) / 10, weight_decay=10 * weight_decay), 1.0
    ),
}
CONFIGS = {
    "RMSNorm, no biases": {"norm": RMSNorm, "biases": ()},
    "SwiGLU, of the same size": {"gated": True, "activation": nn.silu, "mlp_width": 171},
    "grouped queries, 1 key head": {"kv_heads": 1},
    "QK-norm": {"query_key_norm": True},
    "window of 16, every 2nd global": {"window": 16, "global_every": 2},
    "4 experts, 1 a token": {"experts": 4, "experts_per_token": 1},
    "4 experts, 2 a token": {"experts": 4},
    "recurrent mixers, every 2nd attention": {"attention_every": 2},
    "recurrent mixers alone": {"attention_every": 0},
}
MODELS = {
    "soft caps 50 and 30": partial(GPT, config=replace(SIZES, attention_cap=50.0), logit_cap=30.0),
    "untied head": partial(GPT, config=SIZES, tied=False),
    **{name: partial(GPT, config=replace(SIZES, **form)) for name, form in CONFIGS.items()},
}
OBJECTIVES = {"z-loss 1e-4": {"z_loss": 1e-4}}
NAMES = ("as it is", *MODELS, *OBJECTIVES, "documents apart", *OPTIMIZERS)


def bits(name: str, steps: int, seeds: int) -> tuple[int, list[float], float]:
    """The parameters, the bits per byte of each seed, and the milliseconds of a step."""
    tokenizer = jdl.data.ByteTokenizer()
    train, valid, _ = jdl.data.text("", tokenizer, LENGTH, separate=name == "documents apart")
    model = MODELS.get(name, partial(GPT, config=SIZES))(tokenizer.vocab_size)
    objective = jdl.objectives.next_token(model, valid.bytes_per_token, **OBJECTIVES.get(name, {}))
    rate = jdl.optim.warmup_cosine(RATE, steps)
    optimizer = OPTIMIZERS.get(name, jdl.optim.adamw)(rate, weight_decay=0.1)
    learner = jdl.descent(objective, optimizer)
    step = jax.jit(learner.step, donate_argnums=0)
    key = jax.random.key(0)
    evaluate = jax.jit(lambda variables, batch: objective.loss(variables, batch, key, False))
    found, times = [], []
    for seed in range(seeds):
        data = train.shuffled(BATCH, seed)
        state = jax.jit(learner.init)(jax.random.key(seed), data[0])
        for n in range(steps):
            begin = time.perf_counter()
            state = jax.block_until_ready(step(state, data[n])[0])
            times.append(time.perf_counter() - begin)
        test = valid.batches(128)
        parts = [evaluate(learner.eval_variables(state), test[n]) for n in range(len(test))]
        scores = [part.metrics["bits_per_byte"] for part in parts]
        found.append(float(sum(scores[1:], scores[0]).value()))
    return sum(p.size for p in jax.tree.leaves(state.params)), found, 1e3 * np.median(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    c = parser.parse_args()
    print(f"| what | parameters | bits per byte, {c.seeds} seeds | mean | ms a step |")
    print("|---|---|---|---|---|")
    for name in c.only:
        size, found, took = bits(name, c.steps, c.seeds)
        each, mean = " ".join(f"{b:.3f}" for b in found), np.mean(found)
        print(f"| {name} | {size:,} | {each} | {mean:.3f} | {took:.0f} |", flush=True)
