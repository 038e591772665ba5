"""Language modelling: causal (next tokens) and masked (hidden tokens)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jdl.keys import stream
from jdl.objectives import model_call
from jdl.objectives.model_keywords import name_of, signature_of
from jdl.objectives.token_losses import (
    TokenScores,
    chunked_token_scores,
    loss_of_scores,
    token_loss,
    token_scores,
)
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Tokenizer,
    Variables,
)

SEGMENT = "segment"  # the column of the number of each token's document in its row
ROUTING = ("balance", "dropped")  # what `MixtureOfExperts` sows of each row
BALANCE_WEIGHT = 0.01  # of the load-balancing loss, by default
LOAD_ERROR = "load_error"  # and with `balance_bias`: 0, with the gradient of its biases


def next_token(
    model: Any,
    bytes_per_token: float = 1.0,
    chunk: int | None = None,
    z_loss: float = 0.0,
    balance: float | None = None,
) -> NextToken:
    """Causal language model (GPT; Radford et al., 2018): predicts each next token.

    Windows of tokens x (B, T + 1) to the model's logits (B, T, vocabulary). The loss of a token is
    the cross-entropy in nats. Where the data have a column `loss_mask` (B, T + 1), as those of
    `jdl.data.dialogues`, only its tokens are learned and measured; the others are read. Where they
    have a column `segment` (B, T + 1), as those of `jdl.data.pack(separate=True)`, no document of a
    row sees another, and the first token of each (of `pack` its start) is not predicted. Metrics:
    accuracy, perplexity, and bits per byte of text, for which `bytes_per_token` is the mean number
    of bytes of a token in these data.

    With a `chunk`, logits of only so many time steps are held at once (chunked cross-entropy): for
    large vocabularies, where the logits take more memory than anything else; it costs one more
    product with the head. `z_loss` is the weight of the z-loss (PaLM: 1e-4), and `balance`
    that of the load-balancing loss of a `MixtureOfExperts`: by default 0.01, or 0 for experts that
    `jdl.optim.balance_experts` balances. Its metrics `balance` and `dropped` are shown. Perplexity
    and bits are without both losses.
    """
    if chunk is not None:
        if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
            raise Error(f"chunk must be a whole number of time steps, at least 1, not {chunk!r}.")
        model_call.require_methods("next_token(chunk=...)", model, "hidden_states", "logits")
    for name, weight in (("z_loss", z_loss), ("balance", balance or 0)):
        if not 0 <= weight < inf:
            raise Error(f"{name}, the weight of a loss, must be 0 or more, not {weight!r}.")
    return NextToken(model, bytes_per_token, chunk, z_loss, balance)


@dataclass(frozen=True, eq=False)
class NextToken(model_call.ModelObjective):
    """Causal language modelling; see `next_token`. It generates with the model's own KV cache."""

    bytes_per_token: float
    chunk: int | None = None
    z_loss: float = 0.0
    balance: float | None = None

    def seen(self, batch: Batch) -> Batch:
        """The batch without the last token of x, which has no next token."""
        seen = {**batch, "x": model_call.column(batch)[:, :-1]}
        return {**seen, SEGMENT: batch[SEGMENT][:, :-1]} if SEGMENT in batch else seen

    def outputs(
        self, variables: Variables, batch: Batch, key: Key, train: bool, method: str = "__call__"
    ) -> tuple[Any, Variables]:
        """The logits, or what the method gives, and the state, with what the model sows."""
        seen = self.seen(batch)
        inputs = model_call.model_inputs(self.model, seen)
        return model_call.apply(
            self.model, variables, inputs, seen, key, train, method, with_sown=True
        )

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean cross-entropy of the real tokens after a row's first, and the metrics."""
        if self.chunk is None:
            return self.loss_of(*self.outputs(variables, batch, key, train), batch, train)
        hidden, model_state = self.outputs(variables, batch, key, train, "hidden_states")
        head = partial(self._logits, variables)
        scores = chunked_token_scores(head, hidden, batch["x"][:, 1:], self.chunk, self.z_loss)
        return self._loss_of_scores(scores, model_state, batch)

    def _logits(self, variables: Variables, hidden: Array) -> Array:
        """The head's logits of hidden states."""
        return model_call.evaluate(self.model, variables, {"x": hidden}, (hidden,), "logits")

    def loss_of(
        self, logits: Array, model_state: Variables, batch: Batch, train: bool
    ) -> LossOutput:
        """The loss and the metrics of the model's logits, with its state afterwards."""
        scores = token_scores(logits, batch["x"][:, 1:], z_loss=self.z_loss)
        return self._loss_of_scores(scores, model_state, batch)

    def _loss_of_scores(
        self, scores: TokenScores, model_state: Variables, batch: Batch
    ) -> LossOutput:
        """The loss and the metrics, with those of a mixture of experts if there is one."""
        model_state = dict(model_state)
        sown = flatten_dict(model_state.pop(model_call.SOWN, {}))
        mask = self.loss_weights(None, batch)
        layers = {
            name: [v[0] for path, v in sown.items() if path[-1] == name]
            for name in (*ROUTING, LOAD_ERROR)
        }
        errors = layers.pop(LOAD_ERROR)
        if not layers["balance"]:
            return loss_of_scores(scores, mask, model_state, self.bytes_per_token)
        # A row's numbers stand at each of its tokens, so that any mask of tokens weighs them alike.
        of_tokens = {
            name: jnp.broadcast_to((sum(rows) / len(rows))[:, None], scores.loss.shape)
            for name, rows in layers.items()
        }
        weight = self.balance
        if weight is None:
            weight = 0.0 if errors else BALANCE_WEIGHT
        weight *= len(layers["balance"])
        scores = scores._replace(loss=scores.loss + weight * of_tokens["balance"])
        out = loss_of_scores(scores, mask, model_state, self.bytes_per_token)
        routing = {name: Mean.of(values, mask) for name, values in of_tokens.items()}
        out = replace(out, metrics={**out.metrics, **routing})
        if not errors:
            return out
        rows = None if mask is None else mask.astype(bool).reshape(len(mask), -1).any(1)
        total = out.loss.total + Mean.of(sum(errors), rows).total
        return replace(out, loss=Mean(total, out.loss.count))

    def loss_weights(self, logits: Array | None, batch: Batch) -> Array | None:
        """Which tokens after a row's first count, (B, T) or (B,); None: all of them."""
        real = model_call.time_mask(batch)
        real = real if real is None or real.ndim == 1 else real[:, 1:]
        learned = None
        if "loss_mask" in batch:
            learned = batch["loss_mask"][:, 1:].astype(bool)
        if SEGMENT in batch:
            same = batch[SEGMENT][:, 1:] == batch[SEGMENT][:, :-1]
            learned = same if learned is None else learned & same
        if learned is None or real is None:
            return real if learned is None else learned
        return learned & (real if real.ndim == 2 else real[:, None]).astype(bool)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if x does not hold windows of tokens of the model's vocabulary."""
        x = model_call.column(spec)
        if x.ndim != 2 or x.shape[1] < 2:
            raise Error(
                f"next_token needs windows of at least 2 tokens, (B, T + 1), but x is {x.shape}."
            )
        for name, says in (("loss_mask", "which are learned"), (SEGMENT, "of which document")):
            if name in spec and spec[name].shape != x.shape:
                raise Error(
                    f"{name} says of the tokens of x {x.shape} {says}, and must have its shape, "
                    f"not {spec[name].shape}."
                )
        if SEGMENT in spec and SEGMENT not in signature_of(self.model, "__call__").parameters:
            raise Error(
                "The data have several documents in a row (the column segment), and this model has "
                "no argument segment, so it would mix them: take GPT, or jdl.data.pack."
            )
        seen = jax.eval_shape(self.seen, spec)
        check_tokens(spec, bounds, ("x",), partial(model_call.output_shape, self.model, seen))

    @property
    def max_length(self) -> int | None:
        """The most tokens that the model's KV cache holds; None where there is no limit."""
        return getattr(self.model, "max_length", None)

    def init_cache(self, variables: Variables, batch: Batch) -> Any:
        """Empty: the model creates its KV cache in the first call of `next_logits`."""
        return {}

    def next_logits(self, variables: Variables, cache: Any, tokens: Array) -> tuple[Array, Any]:
        """The logits (B, t, vocabulary) after each of the tokens (B, t), and the new KV cache.

        With None for the cache the tokens are a whole text, and nothing is kept.
        """
        if cache is None:
            inputs = model_call.model_inputs(self.model, {"x": tokens})
            return model_call.evaluate(self.model, variables, {"x": tokens}, inputs), None
        if not self.has_cache:
            raise Error(
                f"{name_of(self.model)} has no KV cache, without which jdl.sampling and jdl sample "
                "generate, but no export or server: give its __call__ an argument decode=False, "
                'and keep keys and values in the collection "cache" (docs/your-model.md).'
            )
        return model_call.next_logits(self.model, variables, cache, tokens)

    def prefill(self, variables: Variables, tokens: Array, length: Array) -> tuple[Array, Any]:
        """Prefill: the logits (B, vocabulary) after prompts of other lengths, and the KV cache.

        A row of the tokens (B, t) has `length` of them, at least 1, and padding on its right. The
        model must have an argument `mask`, as GPT and RNN do.
        """
        mask = jnp.arange(tokens.shape[1])[None] < length[:, None]
        logits, cache = model_call.next_logits(self.model, variables, {}, tokens, mask=mask)
        last = jnp.take_along_axis(logits, (length - 1)[:, None, None], 1)
        return last[:, 0], cache

    @property
    def has_cache(self) -> bool:
        """Whether the model has an argument `decode`, for its KV cache."""
        return "decode" in signature_of(self.model, "__call__").parameters

    @property
    def has_mask(self) -> bool:
        """Whether the model has an argument `mask`, which `prefill` needs."""
        return "mask" in signature_of(self.model, "__call__").parameters


def masked_token(model: Any, tokenizer: Tokenizer, mask_rate: float = 0.15) -> MaskedToken:
    """Masked language model (BERT; Devlin et al., 2019): predicts hidden tokens.

    Tokens x (B, T) to the model's logits (B, T, vocabulary). Of the real tokens a share
    `mask_rate` is selected: 80% of these are replaced by the tokenizer's mask, 10% by a random
    token, and 10% stay as they are. Loss (cross-entropy) and metrics are those of the selected
    tokens. The selection in a row depends on the row's `id`, not on its place in the batch, and in
    evaluation it is always the same.
    """
    if tokenizer.mask_id is None:
        raise Error("masked_token needs a tokenizer with a mask token, but this one has none.")
    if not 0 < mask_rate <= 1:
        raise Error(
            f"mask_rate, a share of the tokens, must be above 0 and at most 1, got {mask_rate}."
        )
    return MaskedToken(model, mask_rate, tokenizer.mask_id, tokenizer.vocab_size)


@dataclass(frozen=True, eq=False)
class MaskedToken(model_call.ModelObjective):
    """Masked language modelling; see `masked_token`."""

    mask_rate: float
    mask_token: int
    vocabulary: int

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean cross-entropy of the selected tokens, and the metrics."""
        x = batch["x"]
        keys = model_call.example_keys(
            stream(key, "masking") if train else jax.random.key(0), batch
        )
        masked, selected = jax.vmap(self._mask_tokens)(keys, x)
        real = model_call.time_mask(batch)
        if real is not None:
            selected = selected & (real if real.ndim == 2 else real[:, None]).astype(bool)
        inputs = model_call.model_inputs(self.model, {**batch, "x": masked})
        logits, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        return token_loss(logits, x, selected, model_state)

    def _mask_tokens(self, key: Key, tokens: Array) -> tuple[Array, Array]:
        """A row (T,) with some tokens masked or replaced, and which are to be predicted."""
        select, kind, random = (stream(key, name) for name in ("select", "kind", "random"))
        selected = jax.random.bernoulli(select, self.mask_rate, tokens.shape)
        kind = jax.random.uniform(kind, tokens.shape)
        random = jax.random.randint(random, tokens.shape, 0, self.vocabulary, tokens.dtype)
        replaced = jnp.where(kind < 0.8, jnp.asarray(self.mask_token, tokens.dtype), random)
        return jnp.where(selected & (kind < 0.9), replaced, tokens), selected

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if x does not hold tokens of the model's vocabulary."""
        check_tokens(spec, bounds, ("x",), partial(model_call.output_shape, self.model, spec))


def check_tokens(
    spec: Batch,
    bounds: Bounds,
    columns: Sequence[str],
    output_shape: Callable[[], tuple[int, ...]],
) -> None:
    """Raises `Error` if columns do not hold tokens of the vocabulary, the model's last axis."""
    for name in columns:
        tokens = model_call.column(spec, name)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise Error(
                f"The column {name} must hold tokens, whole numbers, but it is {tokens.dtype}."
            )
    shape = output_shape()
    if len(shape) != 3:
        raise Error(
            f"The model must give logits for every token, (B, T, vocabulary), but it gives {shape}."
        )
    for name in columns:
        least, greatest = bounds.get(name, (0, shape[-1] - 1))
        if least < 0 or greatest >= shape[-1]:
            raise Error(
                f"The tokens of {name} run from {least} to {greatest}, but the model's vocabulary "
                f"is 0 to {shape[-1] - 1}: give it a vocabulary of {int(greatest) + 1}, or use "
                "another tokenizer."
            )
