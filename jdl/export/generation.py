"""Programs of generative models: a language model with its KV cache, and latents to rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jdl.export.example import Example
from jdl.export.program import PLATFORMS, Function, Specs, from_names, lower, needed
from jdl.figures.samples import class_batch
from jdl.keys import stream
from jdl.layers.batch_axis import sample_rows
from jdl.objectives.override import merge
from jdl.paths import by_path
from jdl.types import Array, Batch, DecodesTokens, Key, Loader, SamplesLatents, Variables

ROWS, PROMPT = 4, 8  # rows of an example, and tokens of its prompts


@runtime_checkable
class Prefills(Protocol):
    """The objective of a language model that reads prompts of several lengths at once."""

    @property
    def has_mask(self) -> bool:
        """Whether the model can be told which tokens are padding."""

    def prefill(self, variables: Variables, tokens: Array, length: Array) -> tuple[Array, Any]:
        """The logits (B, vocabulary) after `length` (B,) of the tokens (B, t), and the cache."""


@dataclass(frozen=True, eq=False)
class Prefill:
    """The first pass over prompts `tokens` (B, t): the next token's logits, and the KV cache.

    With a column `length` (B,), a row has so many tokens, and padding on its right.
    """

    objective: DecodesTokens

    def __call__(self, variables: Variables, columns: Batch) -> Batch:
        """The logits (B, vocabulary), and the arrays of the cache by their paths."""
        if "length" in columns:
            assert isinstance(self.objective, Prefills)
            lengths = columns["length"]
            logits, cache = self.objective.prefill(variables, columns["tokens"], lengths)
            return {"logits": logits, **by_path(cache)}
        cache = self.objective.init_cache(variables, {})
        logits, cache = self.objective.next_logits(variables, cache, columns["tokens"])
        return {"logits": logits[:, -1], **by_path(cache)}


@dataclass(frozen=True, eq=False)
class Decode:
    """One step of decoding: `tokens` (B, 1) and the KV cache to logits and the next cache."""

    objective: DecodesTokens
    cache: Any  # the structure, and its shapes

    def __call__(self, variables: Variables, columns: Batch) -> Batch:
        """The logits (B, vocabulary), and the arrays of the cache by their paths."""
        cache = from_names(self.cache, columns)
        logits, cache = self.objective.next_logits(variables, cache, columns["tokens"])
        return {"logits": logits[:, -1], **by_path(cache)}


@dataclass(frozen=True, eq=False)
class Generate:
    """Rows x (B, ...) from latents z (B, ...), labels y, and a seed of what noise is drawn."""

    objective: SamplesLatents

    def __call__(self, variables: Variables, columns: Batch) -> Batch:
        """The rows, as x."""
        batch = {name: column for name, column in columns.items() if name not in ("z", "seed")}
        key = jax.random.key(columns["seed"])
        return {"x": self.objective.decode(variables, columns["z"], batch, key)}


def language_examples(
    objective: DecodesTokens,
    variables: Variables,
    data: Loader,
    platforms: Sequence[str] = PLATFORMS,
) -> list[Example]:
    """The programs "prefill" and "decode" of a language model: sampling is done outside of them.

    Prompts have from 1 token to the most that the KV cache holds, or that rows of the data have.
    Each row of a batch has a length and a place of its own, if the model has an argument `mask`.
    """
    x = np.asarray(data[0]["x"])[:ROWS]
    time = objective.max_length or x.shape[1]
    prompts = {"tokens": x[:, : min(PROMPT, time - 1, x.shape[1])]}
    longest = {"tokens": jax.ShapeDtypeStruct((len(x), time), jnp.int32)}
    if isinstance(objective, Prefills) and objective.has_mask:
        most = prompts["tokens"].shape[1]
        prompts["length"] = np.maximum(most - np.arange(len(x)), 1).astype(np.int32)
        longest["length"] = jax.ShapeDtypeStruct((len(x),), jnp.int32)
    prefill = Prefill(objective)
    first = _answer(prefill, variables, prompts)
    like = jax.eval_shape(lambda v, t: _cache(objective, v, t), variables, prompts["tokens"])
    decode = Decode(objective, like)
    tokens = {"tokens": first["logits"].argmax(-1)[:, None].astype(np.int32)}
    then = tokens | {name: array for name, array in first.items() if name != "logits"}
    plain, merged = merge(objective, variables)
    programs = (
        lower("prefill", Prefill(plain), merged, longest, longest, time, platforms),
        lower("decode", Decode(plain, like), merged, _specs(then), then, None, platforms),
    )
    answers = (prompts, first), (then, _answer(decode, variables, then))
    return [Example(p, *answer) for p, answer in zip(programs, answers, strict=True)]


def generate_example(
    objective: SamplesLatents,
    variables: Variables,
    data: Loader,
    platforms: Sequence[str] = PLATFORMS,
) -> Example:
    """The program "generate": latents z of the standard normal prior to rows x."""
    batch = class_batch(data, 0, ROWS)
    z = objective.sample_latent(_example_key(), batch)
    columns = {name: np.asarray(column) for name, column in batch.items()}
    columns |= {"z": np.asarray(z), "seed": np.zeros((), np.int32)}
    generate = Generate(objective)
    plain, merged = merge(objective, variables)
    _, inputs = needed(Generate(plain), merged, _specs(columns))
    program = lower("generate", Generate(plain), merged, _specs(columns), inputs, None, platforms)
    return Example(
        program,
        {name: columns[name] for name in program.inputs},
        _answer(generate, variables, columns),
    )


def has_normal_prior(example: Example) -> bool:
    """Whether the latents z of a program are `sample_rows` of the standard normal distribution.

    Those of all objectives of jdl are; who knows this can draw them without the run.
    """
    z = example.inputs["z"]
    return np.array_equal(z, sample_rows(jax.random.normal, _example_key(), z.shape))


def _example_key() -> Key:
    return stream(jax.random.key(0), "samples")


def _cache(objective: DecodesTokens, variables: Variables, tokens: jax.Array) -> Any:
    cache = objective.init_cache(variables, {})
    return objective.next_logits(variables, cache, tokens)[1]


def _answer(function: Function, variables: Variables, columns: Any) -> dict[str, np.ndarray]:
    """The outputs of a function without a program."""
    outputs = jax.jit(function)(variables, columns)
    return {name: np.asarray(output) for name, output in outputs.items()}


def _specs(columns: Any) -> Specs:
    return {name: jax.ShapeDtypeStruct(c.shape, c.dtype) for name, c in columns.items()}
