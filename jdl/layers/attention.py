"""Scaled dot-product attention that is fast on CPUs, and fused on GPUs and TPUs."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jdl.errors import Error
from jdl.layers.platform import (
    HALF_PRECISION,
    platform_dependent,
    uses_cudnn_attention,
    uses_splash_attention,
)
from jdl.layers.splash_attention import fits_splash_attention, splash_attention

# Without a barrier, XLA's CPU backend recomputes an array for each of its uses.
_barrier = lax.optimization_barrier
Bias = jax.Array | None


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    causal: bool = False,
    bias: jax.Array | None = None,
    scale: float | None = None,
    cap: float | None = None,
    window: int | None = None,
    segment: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al., 2017), multi-head or grouped-query.

    Queries q (B, T, H, D), keys k and values v (B, S, K, D) give (B, T, H, D). H is a multiple of
    K: each key and value head serves H / K query heads (grouped-query attention, Ainslie et al.,
    2023; multi-query attention with K = 1). A query attends to no position where `mask`, which
    broadcasts to (B, H, T, S), is false, and with `causal` to none after its own; with a `window`
    only to those less than so many steps from its own (sliding window attention), and only to those
    of the same number in `segment` (B, T), its own document (sequence packing). `bias`, which has
    four axes and broadcasts in the same way, is added to the logits. They are scaled by `scale`, by
    default 1 / sqrt(D). `cap` is for logit soft-capping (Gemma 2, 2024): they become
    cap * tanh(logits / cap) before bias and mask.

    On CPUs the heads are moved before the time steps, which is faster there. Flash attention (Dao
    et al., 2022), which never holds the attention weights, is what GPUs use in half precision
    (cuDNN's kernel) unless there is a bias or a cap, and TPUs for self-attention over 512 steps or
    more, a multiple of 128, unless there is a bias or a mask (`splash_attention`).
    """
    if q.shape[2] % k.shape[2]:
        raise Error(
            f"{q.shape[2]} heads of queries cannot share {k.shape[2]} heads of keys and values "
            "evenly: the first must be a multiple of the second."
        )
    if window is not None and window < 1:
        raise Error(f"A window of attention is at least 1 step, the query's own, not {window}.")
    if mask is None and bias is None and uses_splash_attention() and fits_splash_attention(q, k):
        return splash_attention(q, k, v, causal, scale, cap, window, segment)
    mask = _visible(mask, window, segment, q.shape[1], k.shape[1])
    if cap is not None:
        weights = attention_weights(q, k, mask, causal, bias, scale, cap).astype(v.dtype)
        v = v.repeat(q.shape[2] // v.shape[2], 2)
        return _einsum("bhts,bshd->bthd", weights, v).astype(v.dtype)
    if bias is None and uses_cudnn_attention(q.dtype):
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, scale=scale, is_causal=causal, implementation="cudnn"
        )
    return _with_weights(q, k, v, mask, causal, bias, scale)


def _visible(
    mask: jax.Array | None, window: int | None, segment: jax.Array | None, steps: int, keys: int
) -> jax.Array | None:
    """The mask with those of the window and the documents; None where all is visible."""
    masks = [] if mask is None else [mask]
    if segment is not None:
        masks.append((segment[:, :, None] == segment[:, None])[:, None])
    if window is not None:
        distance = jnp.abs(jnp.arange(steps)[:, None] - jnp.arange(keys)[None])
        masks.append((distance < window)[None, None])
    return reduce(jnp.logical_and, masks) if masks else None


def _with_weights(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    causal: bool,
    bias: Bias,
    scale: float | None,
) -> jax.Array:
    """Attention that holds its weights."""
    if mask is None:
        mask = jnp.ones((1, 1, 1, 1), bool)

    def by_xla(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, bias: Bias) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # it raises half precision to float32 itself
            return jax.nn.dot_product_attention(
                q, k, v, bias=bias, mask=mask, is_causal=causal, scale=scale
            )

    def heads_first(
        q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, bias: Bias
    ) -> jax.Array:
        own_scale = q.shape[-1] ** -0.5 if scale is None else scale
        return _heads_first(q, k, v, mask, bias, causal, own_scale)

    return platform_dependent(q, k, v, mask, bias, cpu=heads_first, default=by_xla)


def attention_weights(
    q: jax.Array,
    k: jax.Array,
    mask: jax.Array | None = None,
    causal: bool = False,
    bias: jax.Array | None = None,
    scale: float | None = None,
    cap: float | None = None,
    window: int | None = None,
    segment: jax.Array | None = None,
) -> jax.Array:
    """The attention weights (B, H, T, S) of `attention`: what each query takes of each position.

    They are float32, and sum to 1 over S. `attention` itself never holds them all on GPUs; this is
    for looking at them.
    """
    heads, kv_heads = q.shape[2], k.shape[2]
    q, k = q.astype(jnp.float32), k.astype(jnp.float32).repeat(heads // kv_heads, 2)
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if cap is None else soft_cap(scores, cap)
    scores = scores if bias is None else scores + bias.astype(jnp.float32)
    visible = _visible(mask, window, segment, q.shape[1], k.shape[1])
    visible = jnp.ones((1, 1, 1, 1), bool) if visible is None else visible
    if causal:
        visible = visible & jnp.tri(q.shape[1], k.shape[1], dtype=bool)[None, None]
    return jax.nn.softmax(jnp.where(visible, scores, float(jnp.finfo(jnp.float32).min)))


def soft_cap(logits: jax.Array, cap: float) -> jax.Array:
    """Logit soft-capping (Gemma 2, 2024): cap * tanh(logits / cap), between -cap and cap."""
    return cap * jnp.tanh(logits / cap)


# The gradient is written out, because JAX's own multiplies by transposed weights (S, T), which is
# slow on XLA's CPU backend: here queries and gradients (D, T) are transposed instead. The softmax
# divides after the product with the values, where there are fewer numbers to divide.
@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _heads_first(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    bias: Bias,
    causal: bool,
    scale: float,
) -> jax.Array:
    return _forward(q, k, v, mask, bias, causal, scale)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    bias: Bias,
    causal: bool,
    scale: float,
) -> tuple[jax.Array, Any]:
    steps, heads, kv_heads = q.shape[1], q.shape[2], k.shape[2]
    q, k, v = _barrier(tuple(_split_groups(x, kv_heads) for x in (q * scale, k, v)))
    if causal:
        mask = mask & jnp.tri(steps, k.shape[2], dtype=bool)[None, None]
    scores = _einsum("bkrd,bksd->bkrs", q, k)
    if bias is not None:
        scores = (_by_head(scores, heads) + bias.astype(scores.dtype)).reshape(scores.shape)
    scores = _where(mask, scores, float(jnp.finfo(scores.dtype).min), heads)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    inverse = 1 / weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = (_einsum("bkrs,bksd->bkrd", weights, v) * inverse).astype(v.dtype)
    out = _merge_groups(out, heads)
    return out, (q, k, v, mask, bias, weights, inverse, out)


def _backward(
    causal: bool, scale: float, residuals: Any, grad: jax.Array
) -> tuple[jax.Array | None, ...]:
    q, k, v, mask, bias, weights, inverse, out = residuals
    heads, kv_heads, dtype = out.shape[2], k.shape[1], q.dtype
    grad_out, out = (_split_groups(x.astype(inverse.dtype), kv_heads) for x in (grad, out))
    grad_out = grad_out * inverse
    # The mean of the gradients of a query's attention weights, weighted by the weights.
    mean = (grad_out * out).sum(-1, keepdims=True)
    grad_out = grad_out.astype(dtype)
    grad_out, q_transposed, grad_transposed = _barrier(
        (grad_out, q.swapaxes(2, 3), grad_out.swapaxes(2, 3))
    )
    grad_weights = _einsum("bkrd,bksd->bkrs", grad_out, v)
    grad_scores = weights.astype(inverse.dtype) * (grad_weights - mean)
    grad_scores = _barrier(_where(mask, grad_scores, 0, heads).astype(dtype))
    grad_q = _einsum("bkrs,bksd->bkrd", grad_scores, k) * scale
    grad_k = _einsum("bkdr,bkrs->bkds", q_transposed, grad_scores)
    grad_v = _einsum("bkdr,bkrs->bkds", grad_transposed, weights)
    grad_k, grad_v = (x.swapaxes(2, 3) for x in _barrier((grad_k, grad_v)))
    grads = ((grad_q, heads), (grad_k, kv_heads), (grad_v, kv_heads))
    grad_bias = None if bias is None else _sum_to(_by_head(grad_scores, heads), bias)
    return *(_merge_groups(x.astype(dtype), n) for x, n in grads), None, grad_bias


_heads_first.defvjp(_forward, _backward)


def _split_groups(x: jax.Array, kv_heads: int) -> jax.Array:
    """(B, T, H, D) to (B, K, R, D): the R = H / K * T rows of a key head are one matrix product."""
    return x.swapaxes(1, 2).reshape(x.shape[0], kv_heads, -1, x.shape[-1])


def _merge_groups(x: jax.Array, heads: int) -> jax.Array:
    """(B, K, R, D) back to (B, T, H, D)."""
    return x.reshape(x.shape[0], heads, -1, x.shape[-1]).swapaxes(1, 2)


def _einsum(axes: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """`jnp.einsum` that sums half precision in float32."""
    dtype = jnp.float32 if x.dtype in HALF_PRECISION else x.dtype
    return jnp.einsum(axes, x, y, preferred_element_type=dtype)


def _where(mask: jax.Array, x: jax.Array, fill: float, heads: int) -> jax.Array:
    """x (B, K, R, S), with the fill value where the mask, as (B, H, T, S), is false."""
    return jnp.where(mask, _by_head(x, heads), fill).reshape(x.shape)


def _by_head(x: jax.Array, heads: int) -> jax.Array:
    """x (B, K, R, S) as (B, H, T, S)."""
    return x.reshape(x.shape[0], heads, -1, x.shape[-1])


def _sum_to(grad: jax.Array, bias: jax.Array) -> jax.Array:
    """The gradient (B, H, T, S) of a bias: summed over the axes along which it is broadcast."""
    axes = tuple(n for n, size in enumerate(bias.shape) if size == 1)
    return grad.sum(axes, keepdims=True, dtype=jnp.float32).astype(bias.dtype)
