"""The sizes and the form of a transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import flax.linen as nn
import jax

from jdl.errors import Error
from jdl.layers import LayerNorm, rotary_frequencies

Init = jax.nn.initializers.Initializer
WITH_BIAS = ("query", "value", "out", "feed_forward")
POLICIES = tuple(  # the others of jax.checkpoint_policies make a policy of more arguments
    name for name in vars(jax.checkpoint_policies) if not name.startswith(("_", "save_", "offload"))
)


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes and the form of a transformer (Vaswani et al., 2017).

    Position embeddings are rotary (RoPE), or learned, or with `relative_buckets` a relative
    position bias of the attention (T5, Raffel et al., 2020; `rotary=False`). `kv_heads` below
    `heads` shares keys and values among heads (grouped-query attention). `pre_norm=False`
    normalizes after each residual connection, as the first transformers did (post-norm). `gated` is
    a gated feed-forward layer (GLU, Shazeer, 2020; SwiGLU with `activation=nn.silu`), and
    `query_key_norm` normalizes the queries and keys of each head (QK-norm, Henry et al., 2020).
    `biases` names the layers that have a bias. A bias of keys has an effect with rotary positions
    alone: otherwise it adds the same to all scores of a query, which the softmax cancels. `remat`
    (gradient checkpointing) recomputes activations in the backward pass instead of storing them:
    True all of them, the name of one of `jax.checkpoint_policies`
    ("dots_with_no_batch_dims_saveable") all that the policy does not store. With `scan` the blocks,
    all alike, are one in a loop (scan over layers), for deep models under FSDP: parameters keep
    their names; see `jdl.layers.apply_layers`. In half precision GPUs use fused attention.

    With a `window`, a query attends to itself and at most `window` - 1 positions before it
    (sliding window attention; Beltagy et al., 2020; Mistral, Jiang et al., 2023); in an encoder to
    as many after it. It is a mask over full attention, and saves neither time nor memory. Each
    `global_every`-th block with attention attends to all (local and global attention in turn: 2 in
    Gemma 2, 6 in Gemma 3). `attention_cap` keeps the attention's logits within it (soft-capping,
    Gemma 2). Where `attention_every` is not 1, only each such block has attention and the others a
    `RecurrentMixer`, as in Griffin (3, with a window); 0: none has. `experts` above 0 makes each
    feed-forward a `MixtureOfExperts`; `balance_bias` balances them without a loss.

    Raises `Error` for sizes that do not divide, for numbers out of their range, for two kinds of
    positions, and for unknown policies.
    """

    width: int = 128
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    head_width: int | None = None  # of queries, keys and values; width / heads by default
    mlp_width: int | None = None  # of the hidden layer of the feed-forward; 4 * width by default
    max_length: int = 256  # of a sequence, in tokens
    rotary: bool = True
    rotary_frequencies: Callable[[int], jax.Array] = rotary_frequencies  # of a head's width
    relative_buckets: int = 0  # of distances between positions
    relative_distance: int = 128  # in tokens; those beyond it share a bucket
    attention_scale: float | None = None  # of the logits; 1 / sqrt(head_width) by default
    attention_cap: float | None = None  # of the logits; none by default
    window: int | None = None  # in tokens, the query's own among them; all by default
    global_every: int = 0  # blocks with attention
    attention_every: int = 1  # blocks
    experts: int = 0
    experts_per_token: int = 2
    # Tokens that an expert takes in training, as a multiple of its share of a row's if all experts
    # had the same.
    capacity_factor: float = 1.25
    # A bias for each expert, to balance their loads: for `next_token`, which then leaves out its
    # load-balancing loss, and an optimizer within `jdl.optim.balance_experts`.
    balance_bias: bool = False
    pre_norm: bool = True
    gated: bool = False
    query_key_norm: bool = False
    biases: tuple[str, ...] = WITH_BIAS
    activation: Callable[[jax.Array], jax.Array] = nn.gelu
    norm: Callable[..., Any] = LayerNorm
    dropout: float = 0.0
    # What each sublayer adds is scaled by a learned vector, which begins at this number
    # (LayerScale, Touvron et al., 2021).
    layer_scale: float | None = None
    remat: bool | str = False
    scan: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1:
            raise Error(
                f"width {self.width}, depth {self.depth} and heads {self.heads} must be at least 1."
            )
        if not self.head_width and self.width % self.heads:
            raise Error(f"width, {self.width}, must be a multiple of heads, {self.heads}.")
        if self.heads % (self.kv_heads or self.heads):
            raise Error(f"heads, {self.heads}, must be a multiple of kv_heads, {self.kv_heads}.")
        if unknown := set(self.biases) - {*WITH_BIAS, "key"}:
            raise Error(
                f"biases may name {', '.join(WITH_BIAS)} and key, not {', '.join(unknown)}."
            )
        if self.relative_buckets:
            self._check_relative_positions()
        self._check_numbers()
        if self.experts and not 1 <= self.experts_per_token <= self.experts:
            raise Error(
                f"experts_per_token must be from 1 to experts, {self.experts}, "
                f"not {self.experts_per_token}."
            )
        if self.balance_bias and not self.experts:
            raise Error("balance_bias balances experts: give experts too, or leave it out.")
        if isinstance(self.remat, str) and self.remat not in POLICIES:
            raise Error(
                "remat must be True, False or a name of jax.checkpoint_policies: "
                f"{', '.join(POLICIES)}, not {self.remat!r}."
            )
        if self.scan and (self.global_every or self.attention_every > 1):
            raise Error(
                "scan is for blocks that are all alike, and global_every or attention_every makes "
                "them differ: leave one of them out."
            )

    def _check_numbers(self) -> None:
        least = {"window": 1, "global_every": 0, "attention_every": 0}
        for name, low in (least | {"experts": 0, "experts_per_token": 1}).items():
            value = getattr(self, name)
            if name == "window" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise Error(f"{name} must be a whole number, at least {low}, not {value!r}.")
        for name in ("attention_cap", "capacity_factor"):
            value = getattr(self, name)
            if not (name == "attention_cap" and value is None) and not 0 < value < inf:
                raise Error(f"{name} must be a number above 0, not {value!r}.")
        if self.global_every == 1 or (self.global_every and self.window is None):
            raise Error(
                f"global_every={self.global_every} says which blocks attend to all in place of a "
                "window: give it a window, and at least 2, or leave it out."
            )
        if self.attention_every > max(1, self.depth):
            raise Error(
                f"attention_every is {self.attention_every}, and of {self.depth} blocks none would "
                "have attention: attention_every=0 says that."
            )

    def _check_relative_positions(self) -> None:
        if self.rotary:
            raise Error("Positions are rotary or of relative_buckets: give rotary=False too.")
        if self.relative_buckets < 4 or self.relative_distance <= self.relative_buckets // 2:
            raise Error(
                "relative_buckets must be at least 4, and relative_distance above half of them, "
                f"not {self.relative_buckets} and {self.relative_distance}."
            )

    def require_alike(self, model: str) -> None:
        """Raises `Error` where blocks differ or have experts."""
        if self.attention_every != 1 or self.global_every or self.experts:
            raise Error(
                f"{model} has blocks of its own, all alike: attention_every, global_every and "
                "experts of TransformerConfig have no effect there; leave them out."
            )

    def has_attention(self, block: int) -> bool:
        """Whether a block, counted from 0, has attention, and not a `RecurrentMixer`."""
        return bool(self.attention_every) and (block + 1) % self.attention_every == 0

    def of_block(self, block: int) -> TransformerConfig:
        """The config of a block, counted from 0: global ones have no window."""
        if not self.global_every or not self.has_attention(block):
            return self
        number = (block + 1) // self.attention_every  # among the blocks with attention, from 1
        if number % self.global_every:
            return self
        return replace(self, window=None, global_every=0)

    @property
    def residual_init(self) -> Init:
        """Initializer of the layers whose output is added to the residual stream.

        Their scale falls with the number of blocks (Radford et al., 2019).
        """
        return nn.initializers.variance_scaling(1 / (2 * self.depth), "fan_in", "normal")
