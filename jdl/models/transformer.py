"""What every transformer is made of: attention, feed-forward, blocks of the two, and stacks of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jdl.errors import Error
from jdl.layers import Dense, Dropout, LayerNorm, attention, rotary

Init = jax.nn.initializers.Initializer


@dataclass(frozen=True)
class Blocks:
    """How the blocks of a transformer are built (Vaswani et al., 2017), and how many there are.

    Positions are rotary, or learned up to `length`. `kv_heads` below `heads` shares keys and values among heads
    (grouped queries); `pre_norm=False` normalises after each sum, as the first transformers did; `remat` computes
    activations anew in the backward pass instead of keeping them: all, or with the name of one of
    `jax.checkpoint_policies` ("dots_with_no_batch_dims_saveable") all but what that keeps. In half precision a GPU's
    fused attention is used.
    """

    width: int = 128
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    hidden: int | None = None  # width within the feed-forward; 4 * width by default
    length: int = 256  # the longest sequence
    rotary: bool = True
    pre_norm: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.gelu
    norm: Callable[..., Any] = LayerNorm
    dropout: float = 0.0
    remat: bool | str = False

    def __post_init__(self) -> None:
        if self.width % self.heads or self.heads % (self.kv_heads or self.heads):
            raise Error(
                f"width {self.width} must be a multiple of heads {self.heads}, and that of kv_heads {self.kv_heads}."
            )
        if isinstance(self.remat, str) and not hasattr(jax.checkpoint_policies, self.remat):
            raise Error(
                f"remat is true, false or the name of one of jax.checkpoint_policies, not {self.remat!r}."
            )

    @property
    def policy(self) -> Callable[..., bool] | None:
        """What `remat` keeps."""
        return getattr(jax.checkpoint_policies, self.remat) if isinstance(self.remat, str) else None

    @property
    def residual_init(self) -> Init:
        """Of what is added to the residual stream: the smaller, the more there is to add (Radford et al., 2019)."""
        return nn.initializers.variance_scaling(1 / (2 * self.depth), "fan_in", "normal")


class Attention(nn.Module):
    """Attention of x (B, T, width) to itself, or with `cross` to another sequence (B, S, width).

    Keys have no bias: it would add the same to all scores of a query, which the softmax does not see.
    """

    blocks: Blocks
    causal: bool = False
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        other: jax.Array | None = None,
        mask: jax.Array | None = None,
        decode: bool = False,
    ) -> jax.Array:
        """What `mask` (B, S) does not hold is not seen. With `decode`, x goes on where the cache ends."""
        q = self._heads(x, "query", self.blocks.heads)
        visible = None if mask is None else mask[:, None, None, :].astype(bool)
        if decode and self.cross:
            k, v = self._kept(other)
        elif decode:
            q, k, v, visible = self._appended(q, *self._keys_and_values(x))
        else:
            k, v = self._keys_and_values(x if other is None else other)
            if self.blocks.rotary and not self.cross:
                steps = jnp.arange(x.shape[1])
                q, k = rotary(q, steps), rotary(k, steps)
        out = attention(q, k, v, visible, self.causal and not decode).reshape(x.shape)
        init = self.blocks.residual_init
        return Dense(self.blocks.width, kernel_init=init, name="out")(out)

    def _heads(self, x: jax.Array, name: str, heads: int) -> jax.Array:
        per_head = self.blocks.width // self.blocks.heads
        out = Dense(heads * per_head, use_bias=name != "key", name=name)(x)
        return out.reshape(*x.shape[:2], heads, per_head)

    def _keys_and_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        heads = self.blocks.kv_heads or self.blocks.heads
        return self._heads(x, "key", heads), self._heads(x, "value", heads)

    def _kept(self, other: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Keys and values of the other sequence, computed when it is given and kept in the cache."""
        if other is not None:
            k, v = self._keys_and_values(other)
            self.put_variable("cache", "keys", k)
            self.put_variable("cache", "values", v)
        return self.get_variable("cache", "keys"), self.get_variable("cache", "values")

    def _appended(self, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        """Writes the new keys and values behind those of the cache; the queries, all of them, and what each may see."""
        rows, steps = q.shape[:2]
        shape = (rows, self.blocks.length, *k.shape[2:])
        keys = self.variable("cache", "keys", jnp.zeros, shape, k.dtype)
        values = self.variable("cache", "values", jnp.zeros, shape, v.dtype)
        behind = self.variable("cache", "behind", jnp.zeros, (), jnp.int32)
        places = behind.value + jnp.arange(steps)
        if self.blocks.rotary:
            q, k = rotary(q, places), rotary(k, places)
        keys.value = lax.dynamic_update_slice_in_dim(keys.value, k, behind.value, 1)
        values.value = lax.dynamic_update_slice_in_dim(values.value, v, behind.value, 1)
        behind.value += steps
        visible = jnp.arange(self.blocks.length)[None] <= places[:, None]
        return q, keys.value, values.value, visible[None, None]


class FeedForward(nn.Module):
    """Two dense layers with the activation between them, on every step alone."""

    blocks: Blocks

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x (B, T, width) to the same shape."""
        b = self.blocks
        x = b.activation(Dense(b.hidden or 4 * b.width, name="in")(x))
        return Dense(b.width, kernel_init=b.residual_init, name="out")(x)


class Block(nn.Module):
    """Attention, with `cross` also to another sequence, then feed-forward, each added to what came in."""

    blocks: Blocks
    causal: bool = False
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        other: jax.Array | None,
        other_mask: jax.Array | None,
        train: bool,
        decode: bool,
    ) -> jax.Array:
        """x (B, T, width) to the same shape; masks (B, T) and (B, S) say which steps are real."""

        def add(x: jax.Array, name: str, change: Callable[[jax.Array], jax.Array]) -> jax.Array:
            norm = self.blocks.norm(name=f"{name}_norm")
            drop = Dropout(self.blocks.dropout)
            if self.blocks.pre_norm:
                return x + drop(change(norm(x)), train).astype(x.dtype)
            return norm(x + drop(change(x), train).astype(x.dtype))

        to_itself = Attention(self.blocks, self.causal, name="attention")
        x = add(x, "attention", lambda x: to_itself(x, None, mask, decode))
        if self.cross:
            to_other = Attention(self.blocks, cross=True, name="cross")
            x = add(x, "cross", lambda x: to_other(x, other, other_mask, decode))
        return add(x, "feed_forward", FeedForward(self.blocks, name="feed_forward"))


class Stack(nn.Module):
    """All blocks, one after the other; with `pre_norm` a last norm."""

    blocks: Blocks
    causal: bool = False
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        other: jax.Array | None = None,
        other_mask: jax.Array | None = None,
        train: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """x (B, T, width) to the same shape; masks (B, T) and (B, S) say which steps are real."""
        one = (
            nn.remat(Block, static_argnums=(5, 6), policy=self.blocks.policy)
            if self.blocks.remat
            else Block
        )
        for n in range(self.blocks.depth):
            block = one(self.blocks, self.causal, self.cross, name=f"block_{n}")
            x = block(x, mask, other, other_mask, train, decode)
        return self.blocks.norm(name="norm")(x) if self.blocks.pre_norm else x


class Tokens(nn.Module):
    """Token embeddings, at the entrance with their positions, and at the exit as the weights of the logits."""

    vocabulary: int
    blocks: Blocks

    def setup(self) -> None:
        """One table serves both ends (Press and Wolf, 2017)."""
        b = self.blocks
        self.table = self.param("table", nn.initializers.normal(0.02), (self.vocabulary, b.width))
        if not b.rotary:
            self.positions = self.param(
                "positions", nn.initializers.normal(0.02), (b.length, b.width)
            )
        if not b.pre_norm:
            self.norm = b.norm()
        self.drop = Dropout(b.dropout)

    def __call__(self, tokens: jax.Array, train: bool, decode: bool = False) -> jax.Array:
        """Tokens (B, T) to vectors (B, T, width); with `decode` positions go on where the cache ends."""
        steps = tokens.shape[1]
        if steps > self.blocks.length:
            raise Error(
                f"A sequence of {steps} tokens is longer than the {self.blocks.length} of Blocks.length."
            )
        x = self.table[tokens]
        if not self.blocks.rotary:
            behind = jnp.zeros((), jnp.int32)
            if decode:
                behind = self.get_variable("cache", "behind", behind)
                self.put_variable("cache", "behind", behind + steps)
            x = x + lax.dynamic_slice_in_dim(self.positions, behind, steps)[None]
        return self.drop(x if self.blocks.pre_norm else self.norm(x), train)

    def logits(self, x: jax.Array) -> jax.Array:
        """Vectors (..., width) to logits (..., vocabulary), in float32."""
        out = x.reshape(-1, x.shape[-1]) @ self.table.T
        return out.reshape(*x.shape[:-1], self.vocabulary).astype(jnp.float32)


def steps_mask(mask: jax.Array | None) -> jax.Array | None:
    """The mask as one of steps (B, T); none where it is one of rows, which need not be told apart here."""
    return mask if mask is not None and mask.ndim == 2 else None
