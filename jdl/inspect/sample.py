"""Text written, and images drawn, by a trained run."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl import sampling
from jdl.sampling import decode_until_end
from jdl.figures import samples
from jdl.store.folder import write_whole
from jdl.inspect.restore import Restored
from jdl.types import Decoder, Error, Tokenizer


def sample(
    restored: Restored,
    prompt: str,
    tokens: int,
    choose: sampling.Choose,
    samples: int = 1,
    seed: int = 0,
) -> list[str]:
    """`samples` continuations of the prompt by `tokens` tokens each, or fewer where the text ends.

    A model that reads only so many tokens goes on from the last half of them when they are full.
    """
    decoder, tokenizer = _parts(restored)
    if tokens < 1 or samples < 1:
        raise Error(f"Ask for at least 1 token and 1 sample, and not for {tokens} and {samples}.")
    start = _prompt(tokenizer, prompt)
    written = jnp.repeat(start[None], samples, 0)
    key = jax.random.key(seed)
    variables = restored.run.learner.eval_variables(restored.state)
    max_length = decoder.max_length or len(start) + tokens

    @partial(jax.jit, static_argnums=2)
    def go_on(variables: Any, seen: jax.Array, count: int, key: jax.Array) -> jax.Array:
        return sampling.generate(decoder, variables, seen, count, choose, key, tokenizer.end)

    while written.shape[1] < len(start) + tokens:
        seen = written if written.shape[1] < max_length else written[:, -max(1, max_length // 2) :]
        count = min(max_length + 1 - seen.shape[1], len(start) + tokens - written.shape[1])
        more = go_on(variables, seen, count, jax.random.fold_in(key, written.shape[1]))
        ended = (written[:, len(start) :] == tokenizer.end).any(1, keepdims=True)
        written = jnp.concatenate([written, jnp.where(ended, tokenizer.end, more)], 1)
    return [decode_until_end(tokenizer, row) for row in np.asarray(written[:, len(start) :])]


def best_beams(restored: Restored, prompt: str, tokens: int, width: int) -> list[str]:
    """The `width` likeliest continuations of the prompt found by beam search, best first."""
    decoder, tokenizer = _parts(restored)
    start = _prompt(tokenizer, prompt)
    variables = restored.run.learner.eval_variables(restored.state)
    search = jax.jit(lambda v: sampling.beam(decoder, v, start[None], tokens, width, tokenizer.end))
    written, _ = search(variables)
    return [decode_until_end(tokenizer, row) for row in np.asarray(written[0])]


def draw(restored: Restored, count: int, out: Path, remake: bool = False, seed: int = 0) -> Path:
    """Puts `count` fresh rows into a PNG, a grid of images, or into an npz file as x (count, ...).

    With `remake`, rows of the evaluation data instead, each followed by the same made again.
    """
    if count < 1:
        raise Error(f"Ask for at least 1 sample, and not for {count}.")
    if out.suffix not in (".png", ".npz"):
        raise Error(f"--out names a .png or .npz file, and {out} is neither.")
    run, variables = restored.run, restored.run.learner.eval_variables(restored.state)
    rows = (
        samples.remade(run, variables, count)
        if remake
        else samples.drawn(run, variables, count, seed)
    )
    if out.suffix == ".png":
        return samples.write_png(out, rows)
    file = BytesIO()
    np.savez(file, x=rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, file.getvalue())
    return out


def _parts(restored: Restored) -> tuple[Decoder, Tokenizer]:
    decoder, tokenizer = restored.run.learner.objective.decoder, restored.run.tokenizer
    if decoder is None or tokenizer is None or restored.run.train.spec.get("y") is not None:
        raise Error(
            f"{restored.run.config.name} neither writes text nor makes images: `jdl sample` takes runs with the "
            "objective next_token and with Run(tokenizer=...), and those of objectives like elbo or diffuse; `jdl "
            "predict` takes the others."
        )
    return decoder, tokenizer


def _prompt(tokenizer: Tokenizer, prompt: str) -> jax.Array:
    """The prompt's tokens after an end: what a text begins after."""
    return jnp.asarray(np.append(np.int32(tokenizer.end), tokenizer.encode(prompt)), jnp.int32)
