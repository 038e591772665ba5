"""Text to speech: the spectrogram of what is said, with the duration of each token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jdl.layers import LogMel, griffin_lim, monotonic_alignment, token_of_frames
from jdl.objectives import model_call
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Objective,
    Variables,
)

CENTER, SCALE = -6.0, 4.0  # of log-mel energies of speech, from a floor of about 1e-5
DIAGONAL = 10.0  # the penalty of a frame at a distance of the whole text from the diagonal
DECIBELS = 10 / math.log(10)  # of a difference of 1 between natural logarithms


def text_to_speech(
    model: Any, log_mel: LogMel, max_frames: int, iterations: int = 60
) -> TextToSpeech:
    """Text to speech with duration prediction (FastSpeech; Ren et al., 2019).

    The data are those of speech recognition by `ctc`: waveforms x (B, T) and what is said there,
    tokens y (B, U), with the columns `length` and `y_length` (B,); without the latter, y is padded
    with 0. Here x is made of y. The model, such as `FastSpeech`, encodes y, predicts the duration
    of each token in frames, and makes the spectrogram `log_mel` of x from the tokens that are
    repeated so often (the length regulator). Energies are scaled for a `floor` of about 1e-5.

    Durations to learn from come from the model itself: each token predicts its mean frame, and
    monotonic alignment search (Glow-TTS; Kim et al., 2020) finds how the frames of x fit to these
    best, anew in each step. So no other model, and no data but text and sound, are needed. The loss
    of a row is the mean absolute error of the frames, half the mean squared error of the mean
    frames (Grad-TTS; Popov et al., 2021), and the mean squared error of the logarithm of durations.
    Rows with fewer frames than tokens cannot be aligned, and do not count.

    Metrics: mel_error, the mean absolute error of the spectrogram in decibels, with the durations
    of the alignment; duration_error, that of durations, beside these, in frames; and aligned, the
    share of the rows that count. Predictions: `log_mel` (B, max_frames, n_mels), the `waveform` (B,
    max_frames * hop) by `griffin_lim` of so many iterations, its `length`, and its `rate`. What
    would be longer is cut.
    """
    model_call.require_methods("text_to_speech", model, "encode", "decode")
    if log_mel.decibels:
        raise Error("text_to_speech takes natural logarithms: LogMel(..., decibels=False).")
    if max_frames < 1:
        raise Error(f"Speech of {max_frames} frames cannot be heard: give max_frames of 1 or more.")
    return TextToSpeech(model, log_mel, max_frames, iterations)


@dataclass(frozen=True, eq=False)
class TextToSpeech(Objective):
    """Text to speech with duration prediction; see `text_to_speech`."""

    model: Any
    log_mel: LogMel
    max_frames: int
    iterations: int

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables."""
        text = _text(batch)
        return model_call.init(self.model, key, text, *self._inputs(text))

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean loss of the rows that can be aligned, and the errors."""
        text, (mel, frames) = _text(batch), self._spectrogram(batch)
        (encoded, means, log_durations), state = model_call.apply(
            self.model, variables, (text["x"],), text, key, train, "encode"
        )
        durations = _durations(means, mel, text["length"], frames)
        places = token_of_frames(durations, mel.shape[1])
        out, state = model_call.apply(
            self.model, {**variables, **state}, (encoded, places), {}, key, train, "decode"
        )
        mel_error = _row_mean(jnp.abs(out - mel), frames)
        prior = _row_mean(jnp.square(_gather(means, places) - mel), frames) / 2
        true = durations.astype(jnp.float32)
        duration_loss = _row_mean(jnp.square(log_durations - jnp.log(true.clip(1))), text["length"])
        duration_error = _row_mean(jnp.abs(jnp.exp(log_durations) - true), text["length"])
        aligned = (frames >= text["length"]) & (text["length"] > 0)
        mask = batch.get("mask", jnp.ones(aligned.shape, bool)).astype(bool)
        scores: Metrics = {
            "mel_error": Mean.of(mel_error * SCALE * DECIBELS, mask & aligned),
            "duration_error": Mean.of(duration_error, mask & aligned),
            "aligned": Mean.of(aligned, mask),
        }
        losses = mel_error + prior + duration_loss
        return LossOutput(Mean.of(losses, mask & aligned), scores, state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The spectrogram `log_mel`, and the `waveform` with its `length` and its `rate`."""
        text = _text(batch)
        encoded, _, log_durations = model_call.evaluate(
            self.model, variables, text, (text["x"],), "encode"
        )
        durations = jnp.rint(jnp.exp(log_durations)).clip(1, self.max_frames).astype(jnp.int32)
        durations = jnp.where(_first(text["length"], durations.shape[1]), durations, 0)
        places = token_of_frames(durations, self.max_frames)
        out = model_call.evaluate(self.model, variables, {}, (encoded, places), "decode")
        frames = durations.sum(1).clip(max=self.max_frames)
        real = _first(frames, self.max_frames)[..., None]
        log_mel = jnp.where(real, out * SCALE + CENTER, math.log(self.log_mel.floor))
        return {
            "log_mel": log_mel,
            "waveform": griffin_lim(self.log_mel, log_mel, self.iterations),
            "length": frames * self.log_mel.hop,
            "rate": jnp.full(frames.shape, self.log_mel.rate),
        }

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` unless x are waveforms, y tokens, and the model makes spectrograms."""
        x, y = model_call.column(spec), model_call.column(spec, "y")
        if len(x.shape) != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise Error(
                f"text_to_speech takes waveforms x (B, T), but x is {x.dtype} of shape {x.shape}."
            )
        if len(y.shape) != 2 or not jnp.issubdtype(y.dtype, jnp.integer):
            raise Error(
                "text_to_speech takes tokens y (B, U), whole numbers, but y is "
                f"{y.dtype} of shape {y.shape}."
            )
        frames = x.shape[1] // self.log_mel.hop
        if frames < y.shape[1]:
            raise Error(
                f"Waveforms of {x.shape[1]} samples have {frames} frames, which are too few for "
                f"{y.shape[1]} tokens: give LogMel a smaller hop, or y less padding."
            )
        longest = int(bounds.get("length", (0, 0))[1]) // self.log_mel.hop
        if longest > self.max_frames:
            raise Error(
                f"The recordings have up to {longest} frames, and what is said would be cut to "
                f"max_frames={self.max_frames}: give as many as the recordings have."
            )
        least, greatest = bounds.get("y", (0, 0))
        if least < 0:
            raise Error(f"The tokens y begin at {least}: pad y with 0, and give `y_length`.")
        vocab_size = getattr(self.model, "vocab_size", greatest + 1)
        if greatest >= vocab_size:
            raise Error(
                f"The tokens y are from {least} to {greatest}, but the model knows those from 0 "
                f"to {vocab_size - 1}: give it as many as there are labels."
            )
        text = jax.eval_shape(_text, spec)
        out = model_call.output_shape(self.model, text, self._inputs)
        if len(out) != 3 or out[2] != self.log_mel.n_mels:
            raise Error(
                f"The model must give frames of n_mels={self.log_mel.n_mels} numbers, as LogMel "
                f"does, but it gives {out}."
            )

    def _spectrogram(self, batch: Batch) -> tuple[Array, Array]:
        """The spectrograms of x (B, T // hop, n_mels), scaled, and how many frames are real."""
        x = model_call.column(batch)
        length = batch.get("length", jnp.full(len(x), x.shape[1]))
        x = jnp.where(_first(length, x.shape[1]), x, 0)  # a frame may reach beyond the end
        mel = jnp.asarray(self.log_mel.apply({}, x))[:, : x.shape[1] // self.log_mel.hop]
        frames = self.log_mel.frames_of(length).clip(max=mel.shape[1])
        return (mel - CENTER) / SCALE, frames

    def _inputs(self, text: Batch) -> tuple[Array, Array]:
        """Tokens, and frames that are all of the first one, for shapes."""
        return text["x"], jnp.zeros((len(text["x"]), self.max_frames), jnp.int32)


def _text(batch: Batch) -> Batch:
    """The text of a batch as the model's input: the tokens x, their number `length`, the mask."""
    y = model_call.column(batch, "y")
    length = batch["y_length"] if "y_length" in batch else (y != 0).sum(1, dtype=jnp.int32)
    text = {"x": y, "length": length}
    return {**text, "mask": batch["mask"]} if "mask" in batch else text


def _durations(means: Array, mel: Array, tokens: Array, frames: Array) -> Array:
    """The durations (B, U) by which the mean frames (B, U, M) fit the frames (B, F, M) best.

    The score of a frame of a token is that of a normal distribution; what depends on the frame
    alone is left out, as it is the same in all alignments. As in guided attention (Tachibana et
    al., 2018), a diagonal prior penalizes alignments far from the diagonal. It decides early in
    training, while all means are alike, when some tokens could else be left with a frame each.
    """
    means, mel = lax.stop_gradient((means, mel))
    products = jnp.einsum("bum,bfm->buf", means, mel, precision="highest")
    scores = products - jnp.square(means).sum(-1, keepdims=True) / 2
    shares = [
        jnp.arange(0.5, steps)[None] / count.clip(1)[:, None].astype(jnp.float32)
        for steps, count in ((means.shape[1], tokens), (mel.shape[1], frames))
    ]
    distance = shares[0][:, :, None] - shares[1][:, None]
    return monotonic_alignment(scores - DIAGONAL * jnp.square(distance), tokens, frames)


def _gather(values: Array, places: Array) -> Array:
    """The values (B, U, ...) at places (B, F); what is beyond the last one is of no use."""
    return jnp.take_along_axis(values, places.clip(max=values.shape[1] - 1)[..., None], 1)


def _first(count: Array, steps: int) -> Array:
    """The mask (B, steps) of the first steps of each row."""
    return jnp.arange(steps)[None] < count[:, None]


def _row_mean(values: Array, count: Array) -> Array:
    """The means (B,) of values (B, T, ...) over the first `count` (B,) steps of each row."""
    values = values.reshape(*values.shape[:2], -1).mean(-1)
    real = _first(count, values.shape[1])
    return jnp.where(real, values, 0).sum(1) / count.clip(1).astype(values.dtype)
