"""Attention that is fast on a CPU and fused on a GPU, and rotary positions."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

HALF = (jnp.bfloat16, jnp.float16)
_once = (
    lax.optimization_barrier
)  # else XLA's CPU backend computes what is before it anew for each use


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None, causal: bool = False
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al., 2017): q (B, T, H, D), k and v (B, S, K, D) to (B, T, H, D).

    H is a multiple of K: each key and value serves H / K heads (Ainslie et al., 2023). Where `mask`, that broadcasts
    to (B, H, T, S), does not hold, nothing is seen; with `causal`, neither is what comes later. On a CPU heads are
    moved before the steps first, which is faster there; a GPU takes the fused kernel of cuDNN in half precision.
    """
    if jax.default_backend() == "gpu" and q.dtype in HALF:
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, is_causal=causal, implementation="cudnn"
        )
    if mask is None:
        mask = jnp.ones((1, 1, 1, 1), bool)

    def general(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # it raises half precision to float32 itself
            return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal)

    def by_heads(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        return _by_heads(q, k, v, mask, causal)

    return lax.platform_dependent(q, k, v, mask, cpu=by_heads, default=general)


# Written out, as XLA's gradients are products of the transposed weights (S, T), which its CPU backend does slowly: here
# what is turned is queries and gradients (D, T). The softmax's division comes after its product with the values, where
# there is less to divide.
@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _by_heads(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, causal: bool) -> jax.Array:
    return _forward(q, k, v, mask, causal)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, causal: bool
) -> tuple[jax.Array, Any]:
    steps, heads, keys = q.shape[1], q.shape[2], k.shape[2]
    q, k, v = _once(tuple(_by_key(x, keys) for x in (q * q.shape[-1] ** -0.5, k, v)))
    if causal:
        mask = mask & jnp.tri(steps, k.shape[2], dtype=bool)[None, None]
    scores = _product("bkrd,bksd->bkrs", q, k)
    scores = _masked(scores, mask, float(jnp.finfo(scores.dtype).min), heads)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    scale = 1 / weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = _by_step((_product("bkrs,bksd->bkrd", weights, v) * scale).astype(v.dtype), heads)
    return out, (q, k, v, mask, weights, scale, out)


def _backward(causal: bool, kept: Any, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, mask, weights, scale, out = kept
    heads, keys, dtype = out.shape[2], k.shape[1], q.dtype
    of_out, out = (_by_key(x.astype(scale.dtype), keys) for x in (gradient, out))
    of_out = of_out * scale
    mean = (of_out * out).sum(
        -1, keepdims=True
    )  # of the weights' gradients, each as often as its weight says
    of_out = of_out.astype(dtype)
    of_out, q_turned, of_out_turned = _once((of_out, q.swapaxes(2, 3), of_out.swapaxes(2, 3)))
    of_weights = _product("bkrd,bksd->bkrs", of_out, v)
    of_scores = weights.astype(scale.dtype) * (of_weights - mean)
    of_scores = _once(_masked(of_scores, mask, 0, heads).astype(dtype))
    of_q = _product("bkrs,bksd->bkrd", of_scores, k) * q.shape[-1] ** -0.5
    of_k = _product("bkdr,bkrs->bkds", q_turned, of_scores)
    of_v = _product("bkdr,bkrs->bkds", of_out_turned, weights)
    of_k, of_v = (x.swapaxes(2, 3) for x in _once((of_k, of_v)))
    return *(
        _by_step(x.astype(dtype), n) for x, n in ((of_q, heads), (of_k, keys), (of_v, keys))
    ), None


_by_heads.defvjp(_forward, _backward)


def _by_key(x: jax.Array, keys: int) -> jax.Array:
    """(B, T, H, D) to (B, K, R, D): the R = H / K * T rows that share a key are one product with it."""
    return x.swapaxes(1, 2).reshape(x.shape[0], keys, -1, x.shape[-1])


def _by_step(x: jax.Array, heads: int) -> jax.Array:
    """(B, K, R, D) to (B, T, H, D)."""
    return x.reshape(x.shape[0], heads, -1, x.shape[-1]).swapaxes(1, 2)


def _product(axes: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(
        axes, x, y, preferred_element_type=jnp.float32 if x.dtype in HALF else x.dtype
    )


def _masked(x: jax.Array, mask: jax.Array, other: float, heads: int) -> jax.Array:
    """x (B, K, R, S), and the other value where the mask of (B, H, T, S) does not hold."""
    return jnp.where(mask, x.reshape(x.shape[0], heads, -1, x.shape[-1]), other).reshape(x.shape)


def rotary(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Turns the pairs of x (B, T, H, D) by angles that grow with `positions` (T,) (Su et al., 2021); D is even.

    A product of a query and a key then depends on the distance of their positions alone.
    """
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions.astype(jnp.float32)[:, None] * frequencies[None]
    # Without the barrier, XLA on a CPU computes them anew for every row and head.
    cos, sin = lax.optimization_barrier(
        tuple(f(angles).astype(x.dtype)[None, :, None] for f in (jnp.cos, jnp.sin))
    )
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
