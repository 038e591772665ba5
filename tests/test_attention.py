"""Attention against JAX's own, values and gradients; rotary and relative positions.

Seen to fail, of splash attention: no causal mask, logits that are not scaled, heads that are not
divided among devices, the kernel where there is a mask, FLOPs of one block for all, a window that
is one too wide, one that also looks ahead, and documents that see each other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jdl.errors import Error
from jdl.inspect.cost import operations
from jdl.layers import RelativePositionBias, attention, rotary_embedding
from jdl.layers.platform import compiled_for, plain_implementations
from jdl.layers.relative_position import distance_buckets
from jdl.layers.splash_attention import BLOCKS, splash_attention
from jdl.parallel import build_mesh

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


def masks(key_steps: int) -> dict:
    """Masks by name; "none" lets only the first row attend to anything."""
    lengths = jnp.asarray([key_steps, 4, 2])
    shape = (ROWS, HEADS, STEPS, key_steps)
    return {
        "all": None,
        "padded": (jnp.arange(key_steps)[None] < lengths[:, None])[:, None, None],
        "random": jax.random.bernoulli(jax.random.key(9), 0.7, shape).at[..., 0].set(True),
        "none": jnp.zeros((ROWS, 1, 1, key_steps), bool).at[0].set(True),
    }


@pytest.mark.parametrize("mask", masks(1))
@pytest.mark.parametrize(("key_steps", "causal"), [(STEPS, True), (STEPS, False), (9, False)])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_equals_jax(kv_heads, key_steps, causal, mask):
    shapes = [(STEPS, HEADS), (key_steps, kv_heads), (key_steps, kv_heads)]
    q, k, v = (normal(n, ROWS, *shape, WIDTH) for n, shape in enumerate(shapes))
    mask = masks(key_steps)[mask]

    def ours(q, k, v):
        return attention(q, k, v, mask, causal)

    def reference(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal)

    pairs = zip(with_gradients(ours, q, k, v), with_gradients(reference, q, k, v), strict=True)
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, HEADS, STEPS, STEPS), (ROWS, 1, 1, STEPS)])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_a_bias_and_another_scale_equal_jax(shape, scale):
    """Seen to fail: a bias's gradient scaled, or averaged; that of queries with the usual scale."""
    q, k, v = (normal(n, ROWS, STEPS, heads, WIDTH) for n, heads in enumerate((HEADS, 2, 2)))
    mask = masks(STEPS)["padded"]

    def ours(q, k, v, bias):
        return attention(q, k, v, mask, True, bias, scale)

    def reference(q, k, v, bias):
        return jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, is_causal=True)

    inputs = q, k, v, normal(3, *shape)
    pairs = zip(with_gradients(ours, *inputs), with_gradients(reference, *inputs), strict=True)
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_buckets_of_distances_are_those_of_t5():
    """The first distance of each bucket, from PyTorch's float32: rounding decides at 16, 32, 64."""
    first = np.unique(distance_buckets(16, 128), return_index=True)[1]
    assert first.tolist() == [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]
    bias = RelativePositionBias(1, 8, 12, causal=False)
    table = {"params": {"table": jnp.arange(8.0)[:, None]}}
    positions = jnp.arange(14)
    both = np.asarray(bias.apply(table, positions, positions))[0, 0]
    np.testing.assert_array_equal(both[0, 1:], both[1:, 0] + 4)  # after the query, and before it
    after = np.asarray(bias.copy(causal=True).apply(table, positions, positions))[0, 0]
    assert after[0].tolist() == [0] * 14
    assert after[:, 0].tolist() == distance_buckets(8, 12)[positions.clip(max=12)].tolist()


def test_half_precision_sums_in_float32():
    """Where all weights are the same: in bfloat16 sums stop at 256."""
    q, v = jnp.zeros((1, 1, 1, WIDTH), jnp.bfloat16), jnp.ones((1, 1000, 1, WIDTH), jnp.bfloat16)
    out, *gradients = with_gradients(attention, q, v, v)
    assert {x.dtype for x in (out, *gradients)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(out.astype(jnp.float32), 1, rtol=1e-2)


def test_rotary_embeddings_depend_on_distances_alone():
    """Shifting all positions leaves products of queries and keys, and lengths stay."""
    q, k = normal(0, 1, STEPS, HEADS, WIDTH), normal(1, 1, STEPS, HEADS, WIDTH)
    steps = jnp.arange(STEPS)

    def scores(shift):
        rotated = (rotary_embedding(x, steps + shift) for x in (q, k))
        return jnp.einsum("bthd,bshd->bhts", *rotated)

    np.testing.assert_allclose(scores(0), scores(5), atol=1e-4)
    assert jnp.abs(scores(0) - jnp.einsum("bthd,bshd->bhts", q, k)).max() > 0.1
    lengths = [jnp.linalg.norm(x, axis=-1) for x in (rotary_embedding(q, steps), q)]
    np.testing.assert_allclose(*lengths, rtol=1e-5)


@pytest.mark.parametrize("mesh", ["", "data=2,model=2", "data=4"])
@pytest.mark.parametrize(
    ("kv_heads", "causal", "cap", "window", "documents"),
    [
        (2, True, None, None, False),
        (1, True, 5.0, None, False),
        (2, False, None, None, False),
        (2, True, None, 100, False),
        (2, False, None, 100, True),
        (1, True, 5.0, 300, True),
    ],
)
def test_splash_attention_is_attention(kv_heads, causal, cap, window, documents, mesh, monkeypatch):
    """Interpreted, in 2 x 2 blocks; on a mesh by `shard_map`, where rows or heads are divided."""
    monkeypatch.setattr("jdl.layers.splash_attention.BLOCKS", BLOCKS[-1:])
    q, k, v = (normal(n, 2, 256, heads, WIDTH) for n, heads in enumerate((2, kv_heads, kv_heads)))
    mesh = build_mesh(mesh)
    segment = (
        (jnp.arange(256)[None] >= jnp.asarray([[30], [130]])).astype(int) if documents else None
    )
    options = causal, 0.4, cap, window, segment

    def ours(q, k, v):
        if mesh is None:
            return splash_attention(q, k, v, *options, interpret=True)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return splash_attention(q, k, v, *options, interpret=True)

    def plain(q, k, v):
        return attention(q, k, v, None, causal, None, *options[1:])

    inputs = jax.device_put((q, k, v), mesh and NamedSharding(mesh, PartitionSpec()))
    pairs = zip(with_gradients(ours, *inputs), with_gradients(plain, q, k, v), strict=True)
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_tpus_have_splash_attention_where_it_fits():
    def uses_it(steps, mask=None, **options):
        q = jax.ShapeDtypeStruct((2, steps, 2, 128), jnp.bfloat16)
        program = jax.make_jaxpr(lambda q: attention(q, q, q, mask, **options))(q)
        return "splash" in str(program)

    assert not uses_it(512)
    with compiled_for("tpu"):
        assert uses_it(512, causal=True)
        assert uses_it(640, cap=30.0)
        assert uses_it(512, window=100, segment=jnp.zeros((2, 512), int))
        assert not uses_it(256)
        assert not uses_it(600)
        assert not uses_it(512, jnp.ones((1, 1, 1, 512), bool))
        assert not uses_it(512, bias=jnp.ones((1, 2, 512, 512)))
        with plain_implementations():
            assert not uses_it(512)


def test_the_flops_of_splash_attention_are_those_of_attention():
    """Blocks that a causal mask hides are counted too, as in a plain attention."""
    q = jax.ShapeDtypeStruct((4, 1024, 2, 128), jnp.float32)
    plain = operations(jax.make_jaxpr(lambda q: attention(q, q, q))(q).jaxpr)
    assert plain == 2 * 2 * 4 * 2 * 1024**2 * 128
    mesh = build_mesh("data=2,model=2")
    with compiled_for("tpu"), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        fused = jax.make_jaxpr(lambda q: attention(q, q, q, causal=True))(q)
    assert "shard_map" in str(fused)
    assert operations(fused.jaxpr) == plain


def test_what_splash_attention_and_grouped_queries_cannot_do_is_refused():
    q = normal(0, 2, 200, 3, WIDTH)
    with pytest.raises(Error, match="multiple of 128, not 200 and 200"):
        splash_attention(q, q, q, True)
    with pytest.raises(Error, match="not 128 and 200"):
        splash_attention(q[:, :128], q, q, False)
    with pytest.raises(Error, match="3 heads of queries cannot share 2"):
        attention(q, q[:, :, :2], q[:, :, :2])
    with pytest.raises(Error, match="at least 1 step"):
        attention(q, q, q, window=0)
