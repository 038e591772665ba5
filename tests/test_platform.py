"""The plain implementations of layers: the programs, and how far their numbers are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdl.layers import attention, convolution, plain_implementations
from jdl.layers.log_mel import power_spectrum
from jdl.layers.platform import scan_back
from jdl.learners.compilation import jit_init

LAYOUT = ("NHWC", "HWIO", "NHWC")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def causal_attention(q, k, v):
    return attention(q, k, v, causal=True)


def convolve(x, kernel):
    groups = x.shape[-1] // kernel.shape[2]
    return convolution(
        x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT, feature_group_count=groups
    )


CASES = {
    "attention": (causal_attention, [normal(n, 2, 6, 4, 8) for n in range(3)]),
    "convolution": (convolve, [normal(0, 2, 9, 9, 4), normal(1, 3, 3, 4, 8)]),
    "depthwise": (convolve, [normal(0, 2, 9, 9, 4), normal(1, 3, 3, 1, 4)]),
}


def with_gradients(layer):
    """The layer's output, and its vector-Jacobian product for uneven weights."""

    def run(*inputs):
        out, vjp = jax.vjp(layer, *inputs)
        return out, vjp(jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))

    return run


@pytest.mark.parametrize("name", CASES)
def test_plain_implementations_do_not_depend_on_the_platform(name):
    """The program has no `platform_index`, which converters do not know; the numbers agree."""
    layer, inputs = CASES[name]
    function = jax.jit(with_gradients(layer))
    assert "platform_index" in str(jax.make_jaxpr(function)(*inputs))
    with plain_implementations():  # the same jitted function: JAX's caches know of the context
        assert "platform_index" not in str(jax.make_jaxpr(function)(*inputs))
        plain = function(*inputs)
    for ours, theirs in zip(
        jax.tree.leaves(function(*inputs)), jax.tree.leaves(plain), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * float(jnp.abs(theirs).max()))


def running_sum_back(x):
    return scan_back(lambda carry, now: (carry + now, carry * now), jnp.zeros(3), x)


@pytest.mark.parametrize(
    ("function", "shape", "lacking"),
    [(running_sum_back, (5, 3), "reverse=True"), (power_spectrum, (2, 3, 20), "fft")],
)
def test_what_a_converter_does_not_know_is_not_in_plain_programs(function, shape, lacking):
    x = normal(0, *shape)
    assert lacking in str(jax.make_jaxpr(function)(x))
    with plain_implementations():
        assert lacking not in str(jax.make_jaxpr(function)(x))
        plain = function(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), function(x), plain)


def test_plain_attention_takes_no_kernel_of_a_gpu(monkeypatch):
    """On a host with a GPU, half precision is cuDNN's, which no other platform has."""
    calls = []

    def fake_attention(q, k, v, implementation=None, **options):
        calls.append(implementation)
        return q

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", fake_attention)
    q = jnp.ones((1, 2, 2, 8), jnp.bfloat16)
    jax.eval_shape(attention, q, q, q)
    with plain_implementations():
        jax.eval_shape(attention, q, q, q)
    assert calls == ["cudnn", None]


def test_export_to_several_platforms_is_plain():
    """To the bits of a jitted plain one; on a CPU, attention would else differ by rounding."""
    layer, inputs = CASES["attention"]
    function = jax.jit(layer)
    with plain_implementations():
        exported = jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(*inputs)
        expected = function(*inputs)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    np.testing.assert_array_equal(exported.call(*inputs), expected)
    assert (function(*inputs) != expected).any()


def test_on_one_gpu_the_initial_state_is_drawn_by_jaxs_kernel(monkeypatch):
    """Over a mesh it is not, and what follows is as before."""
    seen = []

    def init(key, batch):
        seen.append(jax.config.jax_threefry_gpu_kernel_lowering)
        return jax.random.normal(key, batch["x"].shape)

    batch = {"x": jnp.ones((3, 2))}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    alone = jit_init(init)(jax.random.key(0), batch)
    divided = jit_init(init, one_device=False)(jax.random.key(0), batch)
    assert seen == [True, False]
    assert not jax.config.jax_threefry_gpu_kernel_lowering
    np.testing.assert_array_equal(alone, divided)
