"""Transformer parts: embeddings, multi-head attention, feed-forward, blocks and stacks."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import (
    Dense,
    Dropout,
    RelativePositionBias,
    apply_layers,
    attention,
    rotary_embedding,
    segment_positions,
)
from jdl.models.mixture_of_experts import MixtureOfExperts
from jdl.models.recurrent_mixer import RecurrentMixer
from jdl.models.transformer_config import TransformerConfig as TransformerConfig

Mask = jax.Array | None


class MultiHeadAttention(nn.Module):
    """Multi-head attention: self-attention of x (B, T, width), or with `cross` cross-attention.

    Cross-attention takes keys and values from another sequence (B, S, width).
    """

    config: TransformerConfig
    causal: bool = False
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        mask: jax.Array | None = None,
        decode: bool = False,
        bias: jax.Array | None = None,
        segment: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, T, width) to the same shape.

        `context` is the other sequence. Positions where `mask` (B, S) is false get no attention.
        With `decode`, x follows the steps in the KV cache, and `mask` (B, T) says which are real:
        padding is on the right. `bias` (1 or B, heads, T, S) is added to the attention's logits.
        Of several documents in a row, each attends to itself: to steps of the same number in
        `segment` (B, T).
        """
        q = self._heads(x, "query", self.config.heads)
        visible = None if mask is None else mask[:, None, None, :].astype(bool)
        window = None if decode or self.cross else self.config.window
        if decode and self.cross:
            k, v = self._cross_kv_cache(context)
        elif decode:
            q, k, v, visible = self._update_kv_cache(q, *self._keys_and_values(x), mask)
        else:
            k, v = self._keys_and_values(x if context is None else context)
            if self.config.rotary and not self.cross:
                q, k = self._rotated(q, k, jnp.arange(x.shape[1]))
        causal = self.causal and not decode
        out = self.attend(q, k, v, visible, causal, bias, window, None if decode else segment)
        out = out.reshape(*x.shape[:2], out.shape[2] * out.shape[3])
        c = self.config
        init, use_bias = c.residual_init, "out" in c.biases
        return Dense(c.width, use_bias, kernel_init=init, name="out")(out)

    def attend(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        visible: Mask,
        causal: bool,
        bias: Mask,
        window: int | None,
        segment: jax.Array | None,
    ) -> jax.Array:
        """The attention itself: a method of its own, so that `jdl.explain` sees what goes in."""
        c = self.config
        scale, cap = c.attention_scale, c.attention_cap
        return attention(q, k, v, visible, causal, bias, scale, cap, window, segment)

    def _heads(self, x: jax.Array, name: str, heads: int) -> jax.Array:
        """x (B, T, width) projected to (B, T, heads, width of a head)."""
        c = self.config
        head_width = c.head_width or c.width // c.heads
        out = Dense(heads * head_width, use_bias=name in c.biases, name=name)(x)
        out = out.reshape(*x.shape[:2], heads, head_width)
        if c.query_key_norm and name != "value":
            out = c.norm(name=f"{name}_norm")(out)
        return out

    def _keys_and_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        heads = self.config.kv_heads or self.config.heads
        return self._heads(x, "key", heads), self._heads(x, "value", heads)

    def _rotated(
        self, q: jax.Array, k: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Queries and keys with rotary embeddings of the positions (T,) or (B, T)."""
        frequencies = self.config.rotary_frequencies(q.shape[-1])
        q, k = (rotary_embedding(heads, positions, frequencies) for heads in (q, k))
        return q, k

    def _cross_kv_cache(self, context: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The KV cache of cross-attention: filled when `context` is given, and read afterwards."""
        if context is not None:
            k, v = self._keys_and_values(context)
            self.put_variable("cache", "keys", k)
            self.put_variable("cache", "values", v)
        return self.get_variable("cache", "keys"), self.get_variable("cache", "values")

    def _update_kv_cache(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask
    ) -> tuple[jax.Array, jax.Array, jax.Array, Mask]:
        """The KV cache of self-attention: new keys and values, each row's at its own position.

        Returns the queries, all keys, all values, and the mask of what each query may attend to.
        Padding is overwritten before it is visible. Heads stand before time, as CPUs read them.
        """
        rows, _, heads, width = k.shape
        size = self.config.max_length
        keys = self.variable("cache", "keys", jnp.zeros, (rows, heads, size, width), k.dtype)
        values = self.variable("cache", "values", jnp.zeros, (rows, heads, size, width), v.dtype)
        positions = _next_positions(self, q, mask)
        if self.config.rotary:
            q, k = self._rotated(q, k, positions)
        places = jnp.arange(rows)[:, None], slice(None), positions  # beyond the end: dropped
        keys.value = keys.value.at[places].set(k, unique_indices=True)
        values.value = values.value.at[places].set(v, unique_indices=True)
        known = jnp.arange(size)[None]
        distance = positions[:, :, None] - known[:, None]
        visible = distance >= 0
        if self.config.window is not None:
            visible = visible & (distance < self.config.window)
        visible = visible[:, None]
        return q, keys.value.swapaxes(1, 2), values.value.swapaxes(1, 2), visible


class FeedForward(nn.Module):
    """Feed-forward layer (MLP) of a transformer: two dense layers, applied to each step alone.

    If the config says `gated` it is a gated linear unit (GLU; SwiGLU with SiLU): the hidden layer
    is multiplied by the activation of a third one, "gate".
    """

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x (B, T, width) to the same shape."""
        c = self.config
        width, use_bias = c.mlp_width or 4 * c.width, "feed_forward" in c.biases
        hidden = Dense(width, use_bias, name="in")(x)
        if c.gated:
            hidden = c.activation(Dense(width, use_bias, name="gate")(x)) * hidden
        else:
            hidden = c.activation(hidden)
        return Dense(c.width, use_bias, kernel_init=c.residual_init, name="out")(hidden)


class TransformerBlock(nn.Module):
    """Transformer block: self-attention, cross-attention if `cross_attention`, and feed-forward.

    Each is added to its input (residual connections), with layer norm before it or after the sum.
    With `recurrent` a recurrent mixer is in the place of self-attention; the feed-forward is a
    mixture of experts if the config has any.
    """

    config: TransformerConfig
    causal: bool = False
    cross_attention: bool = False
    recurrent: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        context: jax.Array | None,
        context_mask: jax.Array | None,
        train: bool,
        decode: bool,
        bias: jax.Array | None = None,
        segment: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, T, width) to the same shape; masks (B, T) and (B, S) say which steps are real.

        `bias` is that of the self-attention; `segment` (B, T) numbers a row's documents.
        """
        if self.recurrent:
            mixer = RecurrentMixer(self.config, name="recurrence")
            x = self._add(x, "recurrence", lambda x: mixer(x, mask, decode, segment), train)
        else:
            attention = MultiHeadAttention(self.config, self.causal, name="attention")
            x = self._add(
                x, "attention", lambda x: attention(x, None, mask, decode, bias, segment), train
            )
        if self.cross_attention:
            cross = MultiHeadAttention(self.config, cross=True, name="cross")
            x = self._add(x, "cross", lambda x: cross(x, context, context_mask, decode), train)
        if not self.config.experts:
            dense = FeedForward(self.config, name="feed_forward")
            return self._add(x, "feed_forward", dense, train)
        experts = MixtureOfExperts(self.config, FeedForward, name="feed_forward")
        return self._add(x, "feed_forward", lambda x: experts(x, mask, train), train)

    def _add(
        self, x: jax.Array, name: str, sublayer: Callable[[jax.Array], jax.Array], train: bool
    ) -> jax.Array:
        """The residual connection: x plus the sublayer's output, with layer norm and dropout."""
        c = self.config
        norm, dropout = c.norm(name=f"{name}_norm"), Dropout(c.dropout)
        out = sublayer(norm(x) if c.pre_norm else x)
        if c.layer_scale is not None:
            init = nn.initializers.constant(c.layer_scale)
            out = out * self.param(f"{name}_scale", init, (c.width,))[None, None].astype(out.dtype)
        x = x + dropout(out, train).astype(x.dtype)
        return x if c.pre_norm else norm(x)


class TransformerStack(nn.Module):
    """Transformer encoder or decoder: `depth` blocks in sequence, with `pre_norm` a last norm.

    By default an encoder; with `causal` a decoder; with `cross_attention` one that also reads an
    encoder's output, the `context`.
    """

    config: TransformerConfig
    causal: bool = False
    cross_attention: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
        train: bool = False,
        decode: bool = False,
        segment: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, T, width) to the same shape; masks (B, T) and (B, S) say which steps are real.

        Of several documents in a row, with their numbers in `segment` (B, T), none sees another.
        """
        c = self.config
        if c.attention_every != 1 and not self.causal:
            raise Error("A recurrent mixer is causal: for an encoder leave attention_every at 1.")
        bias = self._relative_bias(x, mask, decode) if c.relative_buckets else None
        blocks = [
            {
                "config": c.of_block(n),
                "causal": self.causal,
                "cross_attention": self.cross_attention,
                "recurrent": not c.has_attention(n),
            }
            for n in range(c.depth)
        ]
        inputs = (mask, context, context_mask, train, decode, bias, segment)
        scan = c.scan and not decode
        x = apply_layers(self, TransformerBlock, blocks, x, *inputs, remat=c.remat, scan=scan)
        return c.norm(name="norm")(x) if c.pre_norm else x

    def _relative_bias(self, x: jax.Array, mask: Mask, decode: bool) -> jax.Array:
        """The bias (1 or B, heads, T, S) of all blocks; with `decode`, of all keys in the cache."""
        c = self.config
        keys = jnp.arange(c.max_length if decode else x.shape[1])
        queries = _next_positions(self, x, mask) if decode else keys
        bias = RelativePositionBias(
            c.heads, c.relative_buckets, c.relative_distance, self.causal, name="relative_bias"
        )
        return bias(queries, keys)


class TokenEmbedding(nn.Module):
    """Token and position embeddings, and the logits from the same table (weight tying).

    One table serves both ends (Press and Wolf, 2017). With `token_types` above 0, an
    embedding of each token's type (Devlin et al., 2019) is added.
    """

    vocab_size: int
    config: TransformerConfig
    token_types: int = 0

    def setup(self) -> None:
        """The embedding table; learned positions unless rotary; a norm for post-norm blocks."""
        c, init = self.config, nn.initializers.normal(0.02)
        self.table = self.param("table", init, (self.vocab_size, c.width))
        if self._learns_positions:
            self.positions = self.param("positions", init, (c.max_length, c.width))
        if self.token_types:
            self.token_type_table = self.param("token_types", init, (self.token_types, c.width))
        if not c.pre_norm:
            self.norm = c.norm()
        self.drop = Dropout(c.dropout)

    def __call__(
        self,
        tokens: jax.Array,
        train: bool,
        decode: bool = False,
        token_type: jax.Array | None = None,
        mask: jax.Array | None = None,
        segment: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens (B, T) to vectors (B, T, width); `token_type` (B, T) is by default 0 everywhere.

        With `decode` their positions follow those in the KV cache, and `mask` (B, T) says which are
        real. Positions begin again with each document, where `segment` (B, T) changes. Raises
        `Error` for floats, and if T is above the config's `max_length`. A symbolic T, of
        `jax.export`, cannot be compared here: its `SymbolicScope` must have the constraint, such as
        "t <= 256".
        """
        steps = tokens.shape[1]
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise Error(f"Tokens are whole numbers, and these are {tokens.dtype}.")
        if isinstance(steps, int) and steps > self.config.max_length:
            raise Error(
                f"A sequence of {steps} tokens is longer than TransformerConfig.max_length, "
                f"{self.config.max_length}: shorten it, or raise max_length."
            )
        x = self.table[tokens]
        if self.token_types:
            types = jnp.zeros_like(tokens) if token_type is None else token_type
            x = x + self.token_type_table[types]
        if self._learns_positions and decode:
            x = x + self.positions[_next_positions(self, tokens, mask)]
        elif self._learns_positions and segment is not None:
            x = x + self.positions[segment_positions(segment)]
        elif self._learns_positions:
            x = x + self.positions[None, :steps]
        return self.drop(x if self.config.pre_norm else self.norm(x), train)

    def logits(self, x: jax.Array) -> jax.Array:
        """Vectors (..., width) to logits (..., vocab_size), in float32."""
        out = x.reshape(-1, x.shape[-1]) @ self.table.T
        return out.reshape(*x.shape[:-1], self.vocab_size).astype(jnp.float32)

    @property
    def _learns_positions(self) -> bool:
        return not self.config.rotary and not self.config.relative_buckets


def _next_positions(module: nn.Module, x: jax.Array, mask: Mask) -> jax.Array:
    """The positions (B, T) of x after those in each row's KV cache, to which the real are added."""
    rows, steps = x.shape[:2]
    first = module.get_variable("cache", "cache_index", jnp.zeros(rows, jnp.int32))
    added = steps if mask is None else mask.sum(1, dtype=jnp.int32)
    module.put_variable("cache", "cache_index", first + added)
    return first[:, None] + jnp.arange(steps)[None]


def as_time_mask(mask: jax.Array | None) -> jax.Array | None:
    """The mask if it is one of time steps (B, T), None if it is one of rows (B,).

    Attention never mixes rows, so it needs no mask of rows.
    """
    return mask if mask is not None and mask.ndim == 2 else None
