"""Samples of a trained run: text from a language model, images from a generative model."""

from __future__ import annotations

import warnings
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl import sampling
from jdl.figures import samples
from jdl.inspect.restore import TrainedRun
from jdl.store.folder import write_atomically
from jdl.types import DecodesTokens, Error, Tokenizer


def generate_text(
    trained: TrainedRun,
    prompt: str,
    tokens: int,
    sampler: sampling.TokenSampler,
    count: int = 1,
    seed: int = 0,
) -> list[str]:
    """Text generation: `count` continuations of the prompt, of up to `tokens` tokens each.

    A text may end earlier, at the tokenizer's `end`. When the model's KV cache is full, generation
    continues with the last half of the context. A model without one reads at most as many tokens
    as the rows of its training had.
    """
    decoder, tokenizer = _language_model(trained)
    if tokens < 1 or count < 1:
        raise Error(f"Ask for at least 1 token and 1 sample, not for {tokens} and {count}.")
    start = _prompt_tokens(tokenizer, prompt)
    text = jnp.repeat(start[None], count, 0)
    key = jax.random.key(seed)
    variables = trained.variables
    max_length = decoder.max_length or len(start) + tokens

    @partial(jax.jit, static_argnums=2)
    def generate(variables: Any, context: jax.Array, new: int, key: jax.Array) -> jax.Array:
        return sampling.generate(decoder, variables, context, new, sampler, key, tokenizer.eos_id)

    while text.shape[1] < len(start) + tokens:
        context = text if text.shape[1] < max_length else text[:, -max(1, max_length // 2) :]
        new = min(max_length + 1 - context.shape[1], len(start) + tokens - text.shape[1])
        more = generate(variables, context, new, jax.random.fold_in(key, text.shape[1]))
        ended = (text[:, len(start) :] == tokenizer.eos_id).any(1, keepdims=True)
        text = jnp.concatenate([text, jnp.where(ended, tokenizer.eos_id, more)], 1)
    return [sampling.decode_until_end(tokenizer, row) for row in np.asarray(text[:, len(start) :])]


def beam_search(trained: TrainedRun, prompt: str, tokens: int, width: int) -> list[str]:
    """Beam search: the `width` most likely continuations of the prompt, best first."""
    decoder, tokenizer = _language_model(trained)
    start = _prompt_tokens(tokenizer, prompt)
    search = jax.jit(
        lambda v: sampling.beam_search(decoder, v, start[None], tokens, width, tokenizer.eos_id)
    )
    texts, _ = search(trained.variables)
    return [sampling.decode_until_end(tokenizer, row) for row in np.asarray(texts[0])]


def write_images(
    trained: TrainedRun,
    count: int,
    out: Path,
    reconstruct: bool = False,
    seed: int = 0,
    label: int | None = None,
    guidance_scale: float | None = None,
) -> Path:
    """Writes generated rows to a PNG (a grid of images) or to an npz file as x (count, ...).

    The npz file of a class-conditional model also has the labels y (count,): `label`, or all
    classes in turn. With `reconstruct`, it writes rows of the evaluation data, each followed by its
    reconstruction.
    """
    if count < 1:
        raise Error(f"Ask for at least 1 sample, not for {count}.")
    if out.suffix not in (".png", ".npz"):
        raise Error(f"--out must name a .png or .npz file, not {out}.")
    run, variables = trained.run, trained.variables
    if reconstruct and (label, guidance_scale) != (None, None):
        raise Error("--reconstruct takes rows of the data: leave out --label and --guidance-scale.")
    if reconstruct:
        rows = samples.reconstruct(run, variables, count)
    else:
        rows = samples.generate(run, variables, count, seed, label, guidance_scale)
    if out.suffix == ".png":
        return samples.write_png(out, rows)
    file = BytesIO()
    labels = None if reconstruct else samples.sample_labels(run, count, label)
    columns: dict[str, Any] = {"x": rows} if labels is None else {"x": rows, "y": labels}
    np.savez(file, **columns)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, file.getvalue())
    return out


def decoder_of(trained: TrainedRun) -> DecodesTokens:
    """The run's objective, as it decodes: a model without a KV cache by windows as in training."""
    objective = trained.objective
    assert isinstance(objective, DecodesTokens)
    length = objective.max_length or trained.run.train.spec["x"].shape[1] - 1
    decoder = sampling.decoder_of(objective, trained.variables, length)
    if decoder is objective:
        return objective
    warnings.warn(
        f"The model has no KV cache: each token computes a window of {length} tokens anew, which "
        "is slow. To have one, give its __call__ an argument decode=False, and keep keys and "
        'values in the collection "cache" (docs/your-model.md).',
        stacklevel=3,
    )
    return decoder


def _language_model(trained: TrainedRun) -> tuple[DecodesTokens, Tokenizer]:
    objective, tokenizer = trained.objective, trained.run.tokenizer
    conditional = "y" in trained.run.train.spec
    if not isinstance(objective, DecodesTokens) or tokenizer is None or conditional:
        raise Error(
            f"{trained.run.config.name} generates neither text nor images. `jdl sample` needs a "
            "run with the objective next_token and with Run(tokenizer=...), or with a generative "
            "objective such as elbo or diffusion; `jdl predict` takes the others."
        )
    return decoder_of(trained), tokenizer


def _prompt_tokens(tokenizer: Tokenizer, prompt: str) -> jax.Array:
    """The prompt's tokens after an `end` token, which precedes each text of the training data."""
    return jnp.asarray(np.append(np.int32(tokenizer.eos_id), tokenizer.encode(prompt)), jnp.int32)
