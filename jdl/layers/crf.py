"""Linear-chain conditional random fields (CRF): the forward algorithm and Viterbi decoding."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdl.layers.platform import scan_back

FORBIDDEN = -1e9  # the score of what cannot be; finite: infinities less infinities are NaN


class Transitions(NamedTuple):
    """The scores of a chain of K tags: from each tag to the next, of the first and of the last."""

    between: jax.Array  # (K, K): from the tag of the row to that of the column
    start: jax.Array  # (K,)
    end: jax.Array  # (K,)


def log_partition(logits: jax.Array, real: jax.Array, transitions: Transitions) -> jax.Array:
    """The log partition function of a linear-chain CRF, by the forward algorithm: (B,) in nats.

    It is the log of the sum of exp(score) over all paths of tags. The score of a path is the sum of
    its logits (B, T, K) and of its transitions. `real` (B, T) is true for the steps before a row's
    end; others change nothing. A row without real steps counts as one of one step.
    """

    def step(alpha: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        """The log sums of all paths to each tag (B, K), from those to the step before."""
        logits, real = now
        ways = alpha[:, :, None] + transitions.between[None]
        return jnp.where(real[:, None], jax.nn.logsumexp(ways, 1) + logits, alpha), None

    first, after = _first_and_after(logits, real, transitions)
    alpha, _ = jax.lax.scan(step, first, after)
    return jax.nn.logsumexp(alpha + transitions.end[None], -1)


def viterbi(logits: jax.Array, real: jax.Array, transitions: Transitions) -> jax.Array:
    """Viterbi decoding (1967): the path of tags with the highest score, (B, T) of int32.

    Arguments are those of `log_partition`. After a row's end all tags are 0.
    """
    tags = jnp.arange(logits.shape[-1])

    def step(best: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The best scores of paths to each tag (B, K), and the tag before on each such path."""
        logits, real = now[0], now[1][:, None]
        ways = best[:, :, None] + transitions.between[None]
        best = jnp.where(real, ways.max(1) + logits, best)
        return best, jnp.where(real, ways.argmax(1), tags[None])

    def step_back(tag: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
        tag = jnp.take_along_axis(before, tag[:, None], 1)[:, 0]
        return tag, tag

    first, after = _first_and_after(logits, real, transitions)
    best, before = jax.lax.scan(step, first, after)
    last = (best + transitions.end[None]).argmax(-1)
    _, earlier = scan_back(step_back, last, before)
    path = jnp.concatenate([earlier, last[None]]).T
    return jnp.where(real, path, 0).astype(jnp.int32)


def _first_and_after(
    logits: jax.Array, real: jax.Array, transitions: Transitions
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The scores of the first tags (B, K), and what a scan over the steps after them reads."""
    first = transitions.start[None] + logits[:, 0]
    return first, (logits[:, 1:].swapaxes(0, 1), real[:, 1:].T)
