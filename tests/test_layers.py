"""Pooling, batch normalization and convolution against Flax and JAX: values and gradients."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdl.layers import BatchNorm, avg_pool, convolution, max_pool

LAYOUT = ("NHWC", "HWIO", "NHWC")


def normal(seed, shape):
    """Like `jax.random.normal`, whose compilation takes longer than most of these tests."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


POOLS = [
    (2, None, (3, 8, 8, 4)),
    (2, 2, (3, 7, 9, 4)),
    (3, None, (2, 9, 10, 1)),
    (3, 2, (2, 9, 12, 4)),
    ((2, 1), None, (3, 7, 5, 4)),
]


@pytest.mark.parametrize(("window", "stride", "shape"), POOLS)
def test_pooling_equals_flax(window, stride, shape):
    x = normal(0, shape)
    weight = normal(1, max_pool(x, window, stride).shape)
    square = window if isinstance(window, tuple) else (window, window)
    strides = (stride, stride) if stride else square

    def ours(x):
        return max_pool(x, window, stride)

    def reference(x):
        return nn.max_pool(x, square, strides)

    np.testing.assert_array_equal(ours(x), reference(x))
    gradients = (jax.grad(lambda x, f=f: (f(x) * weight).sum())(x) for f in (ours, reference))
    np.testing.assert_allclose(*gradients, atol=1e-6)
    if isinstance(window, tuple):  # of max pooling alone
        return
    with jax.numpy_dtype_promotion("standard"):
        mean = nn.avg_pool(x, square, strides)
    np.testing.assert_allclose(avg_pool(x, window, stride), mean, atol=1e-6)


def test_equal_maxima_share_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient, jnp.full((1, 2, 2, 1), 0.25))


def test_batch_norm_statistics_ignore_masked_rows():
    x = normal(0, (6, 4, 4, 3))
    mask = jnp.asarray([True, True, True, True, False, False])
    module = BatchNorm()
    variables = module.init(jax.random.key(1), x, True)
    alone, statistics = module.apply(variables, x[:4], True, mutable="batch_stats")
    padded, padded_statistics = module.apply(
        variables, x.at[4:].set(1e6), True, mask, mutable="batch_stats"
    )
    np.testing.assert_allclose(padded[:4], alone, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), statistics, padded_statistics
    )


def test_batch_norm_statistics_ignore_masked_columns():
    """Seen to fail with a count of whole rows."""
    x, module = normal(0, (2, 3, 5, 4)), BatchNorm()
    variables = module.init(jax.random.key(1), x, True)
    mask = jnp.arange(5)[None, None] < jnp.asarray([5, 2])[:, None, None]  # (B, 1, W)
    out, changed = module.apply(
        variables, jnp.where(mask[..., None], x, 1e6), True, mask, mutable="batch_stats"
    )
    real = np.concatenate([x[0].reshape(-1, 4), x[1, :, :2].reshape(-1, 4)])
    np.testing.assert_allclose(
        changed["batch_stats"]["mean"], 0.1 * real.mean(0), rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(changed["batch_stats"]["var"], 0.9 + 0.1 * real.var(0), rtol=1e-4)
    expected = (np.asarray(x[1, :, :2]) - real.mean(0)) / np.sqrt(real.var(0) + 1e-5)
    np.testing.assert_allclose(out[1, :, :2], expected, atol=1e-5)


def test_batch_norm_of_padding_alone_is_finite_and_keeps_its_statistics():
    x, module = normal(0, (6, 4, 4, 3)), BatchNorm()
    variables = module.init(jax.random.key(1), x, True)
    out, changed = module.apply(variables, x, True, jnp.zeros(6, bool), mutable="batch_stats")
    assert jnp.isfinite(out).all()
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize(
    ("side", "inputs", "outputs", "kernel", "stride", "padding", "groups"),
    [
        (12, 16, 8, 3, 1, "SAME", 1),
        (14, 32, 4, 5, 1, "SAME", 1),
        (12, 16, 8, 1, 2, "SAME", 1),
        (13, 16, 8, 3, 2, "SAME", 1),
        (12, 16, 8, 4, 3, "VALID", 1),
        (9, 6, 6, 3, 1, "SAME", 6),
        (8, 6, 6, 5, 2, ((2, 1), (0, 3)), 6),
        (8, 6, 6, 3, 1, "SAME", 2),
        (5, 4, 8, 3, 1, "SAME", 1),
    ],
)
def test_convolution_equals_lax(side, inputs, outputs, kernel, stride, padding, groups):
    """Values to the bit, or to rounding where depthwise; gradients to rounding."""
    x = normal(0, (6, side, side, inputs))
    weights = normal(1, (kernel, kernel, inputs // groups, outputs))
    options = {"dimension_numbers": LAYOUT, "feature_group_count": groups}

    def with_gradients(convolve):
        def scalar(x, weights):
            out = convolve(x, weights, (stride, stride), padding, **options)
            return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

        return jax.jit(jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True))(x, weights)

    (_, out), gradients = with_gradients(convolution)
    (_, lax_out), lax_gradients = with_gradients(jax.lax.conv_general_dilated)
    np.testing.assert_allclose(out, lax_out, atol=0 if groups == 1 else 1e-5, rtol=0)
    for ours, theirs in zip(gradients, lax_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))


def test_dilated_convolution_is_that_of_lax():
    x, weights = jnp.ones((2, 12, 12, 16)), jnp.ones((3, 3, 16, 4))
    options = {"dimension_numbers": LAYOUT, "rhs_dilation": (2, 2)}
    ours, theirs = (
        convolve(x, weights, (1, 1), "SAME", **options)
        for convolve in (convolution, jax.lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("side", [5, 14])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_convolutions_have_the_form_that_is_fast_in_loops(side, stride):
    """XLA's CPU backend rewrites convolutions at the top level of a program only.

    Seen to fail with those of lax.
    """
    x, weights = jnp.ones((4, side, side, 8)), jnp.ones((3, 3, 8, 16))

    def loss(x, weights):
        out = convolution(x, weights, (stride,) * 2, "SAME", dimension_numbers=LAYOUT)
        return jnp.square(out).sum()

    def repeated(x, weights, times):
        step = jax.grad(loss, argnums=(0, 1))
        return jax.lax.fori_loop(0, times, lambda _, at: step(*at), (x, weights))

    text = jax.jit(repeated).lower(x, weights, 3).compile().as_text()
    forms = re.findall(r" convolution\(.*dim_labels=(\S+?)[, ]", text)
    assert len(forms) >= 2
    assert set(forms) == {"b01f_01io->b01f"}
