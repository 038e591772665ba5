"""Layers against Flax's own, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdl.layers import BatchNorm, convolution, max_pool


@pytest.mark.parametrize(("window", "shape"), [(2, (3, 8, 8, 4)), (2, (3, 7, 9, 4)), (3, (2, 9, 10, 1))])
def test_max_pool_is_flax_max_pool(window, shape):
    x = jax.random.normal(jax.random.key(0), shape)
    weight = jax.random.normal(jax.random.key(1), max_pool(x, window).shape)

    def reference(x):
        return nn.max_pool(x, (window, window), (window, window))

    np.testing.assert_array_equal(max_pool(x, window), reference(x))
    found, expected = (
        jax.grad(lambda x, f=f: (f(x) * weight).sum())(x) for f in (lambda x: max_pool(x, window), reference)
    )
    np.testing.assert_array_equal(found, expected)


def test_equal_greatest_values_share_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient, jnp.full((1, 2, 2, 1), 0.25))


def test_batch_norm_statistics_ignore_masked_rows():
    x = jax.random.normal(jax.random.key(0), (6, 4, 4, 3))
    mask = jnp.asarray([True, True, True, True, False, False])
    module = BatchNorm()
    variables = module.init(jax.random.key(1), x, True)
    whole, statistics = module.apply(variables, x[:4], True, mutable="batch_stats")
    padded, padded_statistics = module.apply(variables, x.at[4:].set(1e6), True, mask, mutable="batch_stats")
    np.testing.assert_allclose(padded[:4], whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), statistics, padded_statistics)
    nothing, _ = module.apply(variables, x, True, jnp.zeros(6, bool), mutable="batch_stats")
    assert jnp.isfinite(nothing).all()


@pytest.mark.parametrize(("side", "inputs", "outputs", "kernel", "rows"), [(12, 16, 8, 3, 6), (14, 32, 4, 5, 7)])
def test_convolution_is_that_of_lax(side, inputs, outputs, kernel, rows):
    """Values to the bit; the kernel's gradient, which is summed in another order, to float32's rounding."""
    x = jax.random.normal(jax.random.key(0), (rows, side, side, inputs))
    weights = jax.random.normal(jax.random.key(1), (kernel, kernel, inputs, outputs))
    out = jax.random.normal(jax.random.key(2), (rows, side, side, outputs))

    def of(convolve):
        def scalar(x, weights):
            return (convolve(x, weights, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) * out).sum()

        return jax.jit(jax.value_and_grad(scalar, argnums=(0, 1)))(x, weights)

    (value, (of_x, of_kernel)), (expected, (lax_x, lax_kernel)) = of(convolution), of(jax.lax.conv_general_dilated)
    assert value == expected
    np.testing.assert_array_equal(of_x, lax_x)
    np.testing.assert_allclose(of_kernel, lax_kernel, atol=1e-5 * float(jnp.abs(lax_kernel).max()))


def test_convolution_leaves_what_is_not_plain_to_lax():
    x, weights = jnp.ones((2, 12, 12, 16)), jnp.ones((3, 3, 16, 4))
    for strides, padding in (((2, 2), "SAME"), ((1, 1), "VALID")):
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        found = convolution(x, weights, strides, padding, **options)
        np.testing.assert_array_equal(found, jax.lax.conv_general_dilated(x, weights, strides, padding, **options))
