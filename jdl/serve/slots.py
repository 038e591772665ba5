"""The compiled parts of text generation: prefill, and a step of all slots of one KV cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jdl.export.program import BATCH_AXIS
from jdl.sampling import RowSamplers
from jdl.serve.batching import bucket, buckets_of_time
from jdl.serve.models import ServedModel, ServedProgram
from jdl.types import Error

SHORTEST = 16  # tokens that a prompt is padded to at least: as fast as one, and compiled less
Cache = dict[str, jax.Array]


@dataclass(eq=False)
class Slots:
    """The KV cache of a language model with a row for each of `count` requests.

    Each step decodes all rows, in use or not, in one program of one shape: so what a row becomes
    depends on nothing but itself. A prompt is read alone, padded to a power of two of tokens.
    """

    model: ServedModel
    count: int
    cache: Cache = field(init=False)

    def __post_init__(self) -> None:
        if not {"prefill", "decode"} <= self.model.programs.keys():
            raise Error(f"{self.model.name} is no language model: it has no KV cache.")
        decode = self.model.programs["decode"]
        for name, about in decode.inputs.items():
            if about["shape"][:1] != [BATCH_AXIS]:
                raise Error(
                    f"{self.model.name} has one {name} for a whole batch, and requests that join a "
                    "running one need their own: export the run again, by this jdl."
                )
        self.clear()

    @property
    def longest_prompt(self) -> int:
        """The most tokens of a prompt."""
        return self.model.programs["prefill"].about["max_time"]

    @property
    def max_length(self) -> int | None:
        """The most tokens that a row of the cache holds; None where there is no limit."""
        return self.model.manifest["max_length"]

    def clear(self) -> None:
        """An empty cache."""
        self.cache = {
            name: jnp.zeros((self.count, *about["shape"][1:]), about["dtype"])
            for name, about in self.model.programs["decode"].inputs.items()
            if name != "tokens"
        }

    def warm(self) -> None:
        """Compiles all programs: one for each bucket of prompts, and one for a step."""
        sampler = samplers([_GREEDY])
        for size in buckets_of_time(self.longest_prompt, SHORTEST) if self._pads else [1]:
            self.join(0, np.zeros(size, np.int32), sampler)
        self.step(np.zeros(self.count, np.int32), samplers([_GREEDY] * self.count))
        self.clear()

    def join(self, slot: int, prompt: np.ndarray, sampler: RowSamplers) -> int:
        """Reads a prompt (P,) into a slot, and samples the first token (prefill)."""
        if self._pads:
            size = min(max(bucket(len(prompt)), SHORTEST), self.longest_prompt)
            tokens = np.zeros((1, size), np.int32)
            tokens[0, : len(prompt)] = prompt
            inputs = {"tokens": tokens, "length": np.asarray([len(prompt)], np.int32)}
        else:
            inputs = {"tokens": prompt[None]}
        row = self.model.programs["prefill"](inputs)
        logits = row.pop("logits")
        self.cache = _insert(self.cache, row, np.int32(slot))
        return int(_sample(sampler, logits)[0])

    def step(self, tokens: np.ndarray, sampler: RowSamplers) -> np.ndarray:
        """Decodes a token (slots,) of each row: the next ones (slots,)."""
        decode = self.model.programs["decode"]
        found, self.cache = _step(decode, decode.weights, self.cache, tokens, sampler)
        return np.asarray(found)

    @property
    def _pads(self) -> bool:
        """Whether prompts can be padded; otherwise each length is compiled once."""
        return "length" in self.model.programs["prefill"].inputs


@dataclass(frozen=True)
class RowSampler:
    """How one row is sampled; see `jdl.sampling.RowSamplers`."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    count: int = 0


_GREEDY = RowSampler()


def samplers(rows: Sequence[RowSampler]) -> RowSamplers:
    """The samplers of several rows, as arrays."""
    return RowSamplers(
        jnp.asarray([row.temperature for row in rows], jnp.float32),
        jnp.asarray([row.top_k for row in rows], jnp.int32),
        jnp.asarray([row.top_p for row in rows], jnp.float32),
        jnp.asarray([row.seed for row in rows], jnp.int32),
        jnp.asarray([row.count for row in rows], jnp.int32),
    )


@jax.jit
def _sample(sampler: RowSamplers, logits: jax.Array) -> jax.Array:
    """A token (B,) by the logits (B, vocabulary): apart from prefill, to be compiled once."""
    return sampler(logits)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(
    program: ServedProgram,
    weights: Mapping[str, jax.Array],
    cache: Cache,
    tokens: jax.Array,
    sampler: RowSamplers,
) -> tuple[jax.Array, Cache]:
    """The next tokens (slots,), and the cache that has those before."""
    outputs = dict(program.call(weights, {"tokens": tokens[:, None], **cache}))
    return sampler(outputs.pop("logits")), outputs


@partial(jax.jit, donate_argnums=0)
def _insert(cache: Cache, row: Cache, slot: jax.Array) -> Cache:
    """The cache with the row (1, ...) in a slot."""
    return {
        name: jax.lax.dynamic_update_slice_in_dim(cache[name], row[name], slot, 0) for name in cache
    }
