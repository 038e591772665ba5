"""Decoding of CTC's outputs: best path, and prefix beam search, also within a list of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jdl.types import Array

BLANK = 0


def best_path(logits: Array, real: Array) -> tuple[Array, Array]:
    """Greedy CTC decoding: the best label of each real frame, repeats merged, blanks removed.

    Logits (B, T, K) and `real` (B, T) to labels (B, T), padded with 0, and their number (B,).
    """
    best = jnp.where(real, logits.argmax(-1), BLANK)
    before = jnp.pad(best, ((0, 0), (1, 0)))[:, :-1]
    emitted = (best != before) & (best != BLANK)
    order = jnp.argsort(~emitted, axis=1, stable=True)
    lengths = emitted.sum(1, dtype=jnp.int32)
    labels = jnp.take_along_axis(best, order, 1)
    return jnp.where(jnp.arange(best.shape[1])[None] < lengths[:, None], labels, 0), lengths


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """A prefix tree (trie) of what may be spelled: a node for each beginning, the root first."""

    children: np.ndarray  # (nodes, K) int32: the node that a label leads to; -1: none
    ends: np.ndarray  # (nodes,) bool: whether what was spelled may end here


def any_spelling(labels: int) -> PrefixTree:
    """The prefix tree of all sequences of labels: its root, to which every label leads back."""
    return PrefixTree(np.zeros((1, labels), np.int32), np.ones(1, bool))


def spelling_of(
    words: Sequence[Sequence[int]], labels: int, space: int | None = None
) -> PrefixTree:
    """The prefix tree of `words`, each a sequence of labels; of many, with one `space` between.

    Without a `space` it is that of one word.
    """
    children, ends = [np.full(labels, -1, np.int32)], [False]
    for word in words:
        node = 0
        for label in word:
            if children[node][label] < 0:
                children[node][label] = len(children)
                children.append(np.full(labels, -1, np.int32))
                ends.append(False)
            node = children[node][label]
        ends[node] = True
    tree = PrefixTree(np.stack(children), np.asarray(ends))
    if space is not None:
        tree.children[tree.ends, space] = 0
    return tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beams:
    """The most probable prefixes of a row, which are all different, in no order."""

    labels: Array  # (width, T), padded with 0
    length: Array  # (width,)
    blank: Array  # (width,): log-probability of the alignments so far that end in a blank,
    nonblank: Array  # (width,): and of those that end in the last label
    node: Array  # (width,): the place in the prefix tree
    end: Array  # (width,): the length at which the prefix could have ended last

    @property
    def score(self) -> Array:
        """The log-probability of each prefix, over its alignments; -inf where there is none."""
        return jnp.logaddexp(self.blank, self.nonblank)

    @property
    def last(self) -> Array:
        """The last label of each prefix; 0 of the empty one."""
        before = jnp.maximum(self.length - 1, 0)
        return jnp.take_along_axis(self.labels, before[:, None], 1)[:, 0]


def prefix_beam_search(
    logits: Array, real: Array, width: int, tree: PrefixTree
) -> tuple[Array, Array, Array]:
    """CTC prefix beam search (Hannun et al., 2014), of which each prefix is in the `tree`.

    Best path takes the best alignment; this takes the best labels, by the sum over alignments, of
    those that are among the `width` best prefixes at every frame. Logits (B, T, K) and `real`
    (B, T) to labels (B, T), padded with 0, their number (B,) and their log-probability (B,). If no
    prefix in the end is whole, the best one is cut where it last was; the log-probability is then
    that of the prefix.
    """
    children, ends = jnp.asarray(tree.children), jnp.asarray(tree.ends)
    step = partial(_step, children, ends)

    def of_row(log_p: Array, real: Array) -> tuple[Array, Array, Array]:
        beams, _ = jax.lax.scan(step, _start(width, len(log_p)), (log_p, real))
        whole = beams.end == beams.length
        score = jnp.where(whole | ~_any_live(beams, whole), beams.score, -jnp.inf)
        best = score.argmax()
        length = beams.end[best]
        labels = jnp.where(jnp.arange(len(log_p)) < length, beams.labels[best], 0)
        return labels, length, score[best]

    return jax.vmap(of_row)(jax.nn.log_softmax(logits), real)


def _any_live(beams: Beams, which: Array) -> Array:
    return (which & (beams.score > -jnp.inf)).any()


def _start(width: int, frames: int) -> Beams:
    """The empty prefix, and no other."""
    none = jnp.full(width, -jnp.inf)
    zeros = jnp.zeros(width, jnp.int32)
    labels = jnp.zeros((width, frames), jnp.int32)
    return Beams(labels, zeros, none.at[0].set(0.0), none, zeros, zeros)


def _step(
    children: Array, ends: Array, beams: Beams, frame: tuple[Array, Array]
) -> tuple[Beams, None]:
    """The beams after one more frame: log-probabilities (K,), and whether it is real."""
    log_p, real = frame
    width, labels = len(beams.length), len(log_p)
    last, score = beams.last, beams.score
    repeats = jnp.arange(labels)[None] == last[:, None]
    # A label that repeats the last one is a new one only after a blank.
    longer = jnp.where(repeats, beams.blank[:, None], score[:, None]) + log_p[None]
    allowed = (children[beams.node] >= 0) & (jnp.arange(labels) != BLANK)[None]
    longer = jnp.where(allowed, longer, -jnp.inf)
    # Prefixes that are in the beam already get the alignments of those that become them.
    becomes = _is_longer_by_one(beams)  # (width, width): the prefix of the row, that of the column
    arriving = jnp.where(becomes, longer[:, last], -jnp.inf).max(0)
    longer = jnp.where((becomes[:, :, None] & repeats[None]).any(1), -jnp.inf, longer)
    blank = score + log_p[BLANK]
    nonblank = jnp.logaddexp(beams.nonblank + log_p[last], arriving)

    candidates = jnp.concatenate([jnp.logaddexp(blank, nonblank), longer.ravel()])
    best, chosen = jax.lax.top_k(candidates, width)
    is_new = chosen >= width
    source = jnp.where(is_new, (chosen - width) // labels, chosen)
    label = jnp.where(is_new, (chosen - width) % labels, BLANK)
    node, length = beams.node[source], beams.length[source]
    node = jnp.where(is_new, jnp.maximum(children[node, label], 0), node)
    appended = is_new[:, None] & (jnp.arange(beams.labels.shape[1])[None] == length[:, None])
    length = length + is_new.astype(jnp.int32)
    after = Beams(
        labels=jnp.where(appended, label[:, None], beams.labels[source]),
        length=length,
        blank=jnp.where(is_new, -jnp.inf, blank[source]),
        nonblank=jnp.where(is_new, best, nonblank[source]),
        node=node,
        end=jnp.where(ends[node], length, beams.end[source]),
    )
    return jax.tree.map(lambda new, old: jnp.where(real, new, old), after, beams), None


def _is_longer_by_one(beams: Beams) -> Array:
    """Whether one prefix and a label is another (width, width), of those of some probability."""
    places = jnp.arange(beams.labels.shape[1])[None]
    shorter = jnp.where(places == beams.length[:, None] - 1, 0, beams.labels)
    same = (beams.labels[:, None] == shorter[None]).all(-1)
    one_more = beams.length[:, None] + 1 == beams.length[None]
    live = beams.score > -jnp.inf
    return same & one_more & live[:, None] & live[None]
