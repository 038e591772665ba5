"""Layers against Flax's own, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdl.layers import BatchNorm, max_pool


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
