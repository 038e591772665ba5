"""CTC: sequences of labels without an alignment, such as the letters of what is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.objectives import model_call
from jdl.objectives.ctc_decoding import (
    BLANK,
    PrefixTree,
    any_spelling,
    best_path,
    prefix_beam_search,
    spelling_of,
)
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Metrics, Variables

SPACE = " "


def ctc(
    model: Any,
    frames: int = 1,
    labels: Sequence[str] = (),
    beam: int = 0,
    words: Sequence[Sequence[str]] = (),
) -> CTC:
    """CTC, connectionist temporal classification (Graves et al., 2006).

    For labels without an alignment: x (B, T, ...) to labels y (B, U) from 1 to K - 1; the label 0
    is the blank. The columns `length` (B,) and `y_length` (B,) are the numbers of real steps and
    labels; without the latter, y is padded with 0. The model gives `frames` distributions over K
    labels at each step: logits (B, T, frames * K). A model may also shorten time: T / 4 outputs
    have 4 steps each. Of images x (B, H, W, C) with a column `width` (B,), the number of real
    columns of pixels, time is the width, T = W. The loss is the mean over the rows of the negative
    log-likelihood, in nats.

    Outputs are decoded greedily (best path), or with `beam` by prefix beam search (Hannun et al.,
    2014), with so many prefixes a row. `labels` are the names of the labels, the blank's first;
    with `words`, each of the names of its letters, only these words are spelled (a lexicon, kept as
    a prefix tree), in any order, with " " between them; if that is no label, one word a row.
    Metrics, in evaluation: error_rate, the edit distance over the number of labels; exact_match,
    the share of the rows without an error; and where " " is a label, word_error_rate.
    """
    names = tuple(labels)
    if beam < 0 or (words and not beam):
        raise Error(
            f"ctc takes a beam of 1 or more prefixes, or 0 for best path, which knows no words; "
            f"given: beam={beam} and {len(words)} words."
        )
    return CTC(model, frames, names, beam, _tree(words, names) if words else None)


def _tree(words: Sequence[Sequence[str]], labels: tuple[str, ...]) -> PrefixTree:
    codes = {name: n for n, name in enumerate(labels) if n}
    for word in words:
        unknown = [name for name in word if name not in codes or name == SPACE]
        if unknown or not word:
            raise Error(
                f"The word {word!r} must be spelled by the labels {', '.join(codes) or '(none)'}, "
                f"without a space: correct it, or the labels of ctc(..., labels=...)."
            )
    spelled = [[codes[name] for name in word] for word in words]
    return spelling_of(spelled, len(labels), codes.get(SPACE))


@dataclass(frozen=True, eq=False)
class CTC(model_call.ModelObjective):
    """Connectionist temporal classification; see `ctc`."""

    frames: int
    labels: tuple[str, ...]
    beam: int
    tree: PrefixTree | None

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean CTC loss of the rows in nats, and in evaluation the decoding's errors."""
        logits, real, model_state = self._apply(variables, batch, key, train)
        labels, mask = batch["y"], batch.get("mask")
        counts = batch.get("y_length", (labels != BLANK).sum(1, dtype=jnp.int32))
        padding = jnp.arange(labels.shape[1])[None] >= counts[:, None]
        losses = optax.ctc_loss(
            logits, 1.0 - real.astype(logits.dtype), labels, padding.astype(logits.dtype)
        )
        scores: Metrics = {}
        if not train:
            pairs = *self._decode(logits, real), labels, counts
            scores["error_rate"] = metrics.error_rate(*pairs, mask)
            scores["exact_match"] = metrics.exact_match(*pairs, mask)
            if SPACE in self.labels:
                space = self.labels.index(SPACE)
                scores["word_error_rate"] = metrics.word_error_rate(*pairs, space, mask)
        return LossOutput(Mean.of(losses, mask), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The labels (B, T * frames) that are decoded, and their number, length (B,)."""
        logits, real, _ = self._apply(variables, batch, jax.random.key(0), False)
        labels, lengths = self._decode(logits, real)
        return {"labels": labels, "length": lengths}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model does not give outputs for every step and label."""
        shape = model_call.output_shape(self.model, spec)
        if len(shape) != 3 or shape[-1] % self.frames:
            raise Error(
                f"ctc needs logits (B, T, {self.frames} * K) for every step, but the model gives "
                f"{shape}."
            )
        steps, _ = model_call.time_steps(spec)
        if steps is not None and steps % shape[1]:
            raise Error(
                f"ctc needs an output for every step, or for every so many, but the model gives "
                f"{shape[1]} for {steps} steps: pad x, so that its steps are a multiple of these."
            )
        labels = shape[-1] // self.frames
        least, greatest = bounds.get("y", (0, 0))
        if least < 0 or greatest >= labels:
            raise Error(
                f"The labels y are from {least} to {greatest}, but the model has {labels} outputs, "
                "of which 0 is the blank: correct the labels, or the model's outputs."
            )
        if self.labels and len(self.labels) != labels:
            raise Error(
                f"The model has {labels} outputs, and ctc was given {len(self.labels)} labels: "
                "give the name of each, the blank's first."
            )
        model_call.column(spec, "y")

    def _decode(self, logits: Array, real: Array) -> tuple[Array, Array]:
        """Labels (B, T), padded with 0, and their number (B,)."""
        if not self.beam:
            return best_path(logits, real)
        tree = self.tree or any_spelling(logits.shape[-1])
        return prefix_beam_search(logits, real, self.beam, tree)[:2]

    def _apply(
        self, variables: Variables, batch: Batch, key: Key, train: bool
    ) -> tuple[Array, Array, Variables]:
        """Logits (B, T * frames, K), the mask of the real frames, and the new model state."""
        inputs = model_call.model_inputs(self.model, batch)
        out, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        logits = out.reshape(out.shape[0], out.shape[1] * self.frames, -1)
        real = model_call.real_outputs(batch, *out.shape[:2])
        return logits, jnp.repeat(real, self.frames, 1), model_state
