"""From one sequence to another: written token by token, or aligned by CTC."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.objectives import model_call as call
from jdl.objectives.language_modelling import check_tokens, token_loss
from jdl.sampling import generate
from jdl.types import (
    MEMORY,
    Array,
    Batch,
    Bounds,
    Decoder,
    Error,
    Key,
    Mean,
    Metrics,
    Objective,
    LossOutput,
    Variables,
)


def seq2seq(
    model: Any, end: int, smoothing: float = 0.0, max_length: int | None = None
) -> Objective:
    """A sequence from another: x (B, S) to y (B, T), tokens both, by `model(x, y so far)` to logits (B, T, vocabulary).

    `length` (B,) and `y_length` (B,) say how many tokens are real; y's last real one is `end`, which also stands
    before its first. The model reads the true y so far (teacher forcing); `smoothing` as in `classify`. To predict,
    up to `longest` tokens are written greedily: by default as many as the model can write, its field `longest`. For
    that the model has the methods `read(x, train, mask)` and `write(vectors, y, mask, train, decode)` besides.
    """
    max_length = max_length or model.max_length
    if max_length > model.max_length:
        raise Error(
            f"The model writes {model.max_length} tokens at most, and longest={max_length} asks for more."
        )

    def inputs(batch: Batch) -> tuple[Array, ...]:
        """x, and the y so far: `end` and all but the last."""
        y = jnp.pad(call.column(batch, "y"), ((0, 0), (1, 0)), constant_values=end)
        return call.column(batch), y[:, :-1]

    def init(key: Key, batch: Batch) -> Variables:
        return call.init(model, key, *inputs(batch))

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        logits, model_state = call.apply(model, variables, inputs(batch), batch, key, train)
        return token_loss(
            logits, batch["y"], call.steps(batch, "y_length", "y"), model_state, smoothing=smoothing
        )

    def check(batch: Batch, bounds: Bounds) -> None:
        check_tokens(batch, bounds, ("x", "y"), lambda: call.output_shape(model, batch, inputs))

    def start(variables: Variables, batch: Batch) -> Any:
        """Reads x; the first token is written after `end`, with which the cross-attention is filled."""
        mask = call.steps(batch)
        vectors = model.apply(variables, batch["x"], False, mask, method="encode")
        return {"vectors": vectors, "mask": mask}

    def following(variables: Variables, cache: Any, tokens: Array) -> tuple[Array, Any]:
        kept = {name: v for name, v in cache.items() if name == MEMORY}
        logits, changed = model.apply(
            {**variables, **kept}, cache.get("vectors"), tokens, cache["mask"], decode=True, mutable=[MEMORY],
            method="decode",
        )  # fmt: skip
        return logits, {"mask": cache["mask"], MEMORY: changed[MEMORY]}

    decoder = Decoder(start, following, model.max_length)

    def predict(variables: Variables, batch: Batch) -> Batch:
        first = jnp.full((len(batch["x"]), 1), end, jnp.int32)
        return {"tokens": generate(decoder, variables, first, max_length, end=end, batch=batch)}

    return Objective(init, loss, predict, check, decoder)


def ctc(model: Any, frames: int = 1) -> Objective:
    """Labels without an alignment: x (B, T, ...) to labels y (B, U) from 1 to K - 1, by CTC (Graves et al., 2006).

    The label 0 is the blank. `length` (B,) and `y_length` (B,) say how many steps and labels are real. The model
    gives `frames` distributions over K labels a step: logits (B, T, frames * K). The loss is that of a row in nats;
    the metric, in evaluation, error_rate: edits between the best path's labels and y over the labels of y.
    """

    def run(
        variables: Variables, batch: Batch, key: Key, train: bool
    ) -> tuple[Array, Array, Variables]:
        """The logits (B, T * frames, K), which of the frames are real, and the carried variables."""
        out, model_state = call.apply(model, variables, (batch["x"],), batch, key, train)
        logits = out.reshape(out.shape[0], out.shape[1] * frames, -1)
        real = call.steps(batch)
        if real is None or real.ndim == 1:
            real = jnp.broadcast_to(
                jnp.ones((1, 1), bool) if real is None else real[:, None], out.shape[:2]
            )
        return logits, jnp.repeat(real, frames, 1), model_state

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        logits, real, model_state = run(variables, batch, key, train)
        labels, mask = batch["y"], batch.get("mask")
        counts = batch.get("y_length", jnp.full(len(labels), labels.shape[1], jnp.int32))
        outside = jnp.arange(labels.shape[1])[None] >= counts[:, None]
        losses = optax.ctc_loss(
            logits, 1.0 - real.astype(logits.dtype), labels, outside.astype(logits.dtype)
        )
        found: Metrics = {}
        if not train:
            guessed, lengths = best_path(logits, real)
            found["error_rate"] = metrics.error_rate(guessed, lengths, labels, counts, mask)
        return LossOutput(Mean.of(losses, mask), found, model_state)

    def predict(variables: Variables, batch: Batch) -> Batch:
        logits, real, _ = run(variables, batch, jax.random.key(0), False)
        labels, lengths = best_path(logits, real)
        return {"labels": labels, "length": lengths}

    def check(batch: Batch, bounds: Bounds) -> None:
        shape = call.output_shape(model, batch)
        if len(shape) != 3 or shape[-1] % frames:
            raise Error(
                f"ctc needs logits (B, T, {frames} * K) for every step, and the model gives {shape}."
            )
        least, greatest = bounds.get("y", (0, 0))
        if least < 0 or greatest >= shape[-1] // frames:
            raise Error(
                f"The labels y run from {least} to {greatest}, and the model has {shape[-1] // frames} outputs, "
                "of which 0 is the blank: mend the one or the other."
            )
        call.column(batch, "y")

    return Objective(partial(call.init_from_x, model), loss, predict, check)


def best_path(logits: Array, real: Array) -> tuple[Array, Array]:
    """The labels of the best path through logits (B, T, K), merged and without blanks: (B, T), and how many, (B,)."""
    best = jnp.where(real, logits.argmax(-1), 0)
    before = jnp.pad(best, ((0, 0), (1, 0)))[:, :-1]
    kept = (best != before) & (best != 0)
    order = jnp.argsort(~kept, axis=1, stable=True)
    lengths = kept.sum(1, dtype=jnp.int32)
    labels = jnp.take_along_axis(best, order, 1)
    return jnp.where(jnp.arange(best.shape[1])[None] < lengths[:, None], labels, 0), lengths
