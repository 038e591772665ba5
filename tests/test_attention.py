"""Attention against JAX's own, and rotary positions: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdl.layers import attention, rotary

ROWS, STEPS, HEADS, WIDTH = 3, 7, 4, 8


def normal(name: int, *shape: int):
    return jax.random.normal(jax.random.key(name), shape)


def with_gradients(attend, *inputs):
    """The output, and the gradients of its sum with uneven weights."""

    def scalar(*inputs):
        out = attend(*inputs)
        return (out * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(scalar, range(len(inputs)), has_aux=True))(
        *inputs
    )
    return out, *gradients


def masks(others: int) -> dict:
    lengths = jnp.asarray([others, 4, 2])
    return {
        "all": None,
        "padded": (jnp.arange(others)[None] < lengths[:, None])[:, None, None],
        "random": jax.random.bernoulli(jax.random.key(9), 0.7, (ROWS, HEADS, STEPS, others))
        .at[..., 0]
        .set(True),
        "nothing": jnp.zeros((ROWS, 1, 1, others), bool).at[0].set(True),
    }


@pytest.mark.parametrize("mask", masks(1))
@pytest.mark.parametrize(("others", "causal"), [(STEPS, True), (STEPS, False), (9, False)])
@pytest.mark.parametrize("keys", [4, 2, 1])
def test_attention_is_that_of_jax(keys, others, causal, mask):
    q, k, v = (
        normal(n, ROWS, *shape, WIDTH)
        for n, shape in enumerate([(STEPS, HEADS), (others, keys), (others, keys)])
    )
    seen = masks(others)[mask]

    def reference(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, mask=seen, is_causal=causal)

    found = with_gradients(lambda q, k, v: attention(q, k, v, seen, causal), q, k, v)
    for ours, theirs in zip(found, with_gradients(reference, q, k, v), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_half_precision_sums_in_full():
    """Where all weights are the same: in bfloat16 sums stop at 256."""
    q, v = jnp.zeros((1, 1, 1, WIDTH), jnp.bfloat16), jnp.ones((1, 1000, 1, WIDTH), jnp.bfloat16)
    out, of_q, of_k, of_v = with_gradients(attention, q, v, v)
    assert {x.dtype for x in (out, of_q, of_k, of_v)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(out.astype(jnp.float32), 1, rtol=1e-2)


def test_rotary_tells_distances_alone():
    """Products of queries and keys do not change where all positions move, and lengths do not change at all."""
    q, k, steps = (
        normal(0, 1, STEPS, HEADS, WIDTH),
        normal(1, 1, STEPS, HEADS, WIDTH),
        jnp.arange(STEPS),
    )

    def scores(moved):
        return jnp.einsum("bthd,bshd->bhts", rotary(q, steps + moved), rotary(k, steps + moved))

    np.testing.assert_allclose(scores(0), scores(5), atol=1e-4)
    assert jnp.abs(scores(0) - jnp.einsum("bthd,bshd->bhts", q, k)).max() > 0.1
    np.testing.assert_allclose(
        jnp.linalg.norm(rotary(q, steps), axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5
    )
