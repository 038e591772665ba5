"""Splash attention: flash attention on TPUs, by the Pallas kernel that JAX has."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from jdl.errors import Error
from jdl.layers.batch_axis import BATCH_AXES

BLOCKS = (512, 384, 256, 128)  # of queries and keys: MaxText's 512, or the largest that divides
LONG = 512  # steps, below which the attention weights are small


def fits_splash_attention(q: jax.Array, k: jax.Array) -> bool:
    """Whether the kernel takes these queries (B, T, H, D) and keys (B, S, K, D)."""
    steps = q.shape[1]
    return steps == k.shape[1] and steps >= LONG and steps % BLOCKS[-1] == 0


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    causal: bool,
    scale: float | None = None,
    cap: float | None = None,
    window: int | None = None,
    segment: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Flash attention (Dao et al., 2022) on a TPU, as `jdl.layers.attention` but without a mask.

    It never holds the attention weights (B, H, T, S), and skips blocks of them that a causal mask
    or a sliding window hides; those of other documents, by `segment`, it computes. Within
    `jax.sharding.use_abstract_mesh`, each device of the mesh computes its own rows and heads.
    With `interpret` it runs on any platform, slowly, for tests. Raises `Error` unless queries and
    keys have the same number of steps, a multiple of 128.
    """
    if q.shape[1] != k.shape[1] or q.shape[1] % BLOCKS[-1]:
        raise Error(
            f"splash_attention takes as many queries as keys, a multiple of {BLOCKS[-1]}, not "
            f"{q.shape[1]} and {k.shape[1]}: use jdl.layers.attention, which takes any."
        )
    mesh = jax.sharding.get_abstract_mesh()
    free = {
        axis: mesh.shape[axis]
        for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind != AxisType.Manual
    }

    def own_part(q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array | None) -> jax.Array:
        return _kernel(q, k, v, segment, causal, window, scale, cap, interpret)

    if not free:
        return own_part(q, k, v, segment)
    rows = tuple(axis for axis in BATCH_AXES if axis in free)
    if q.shape[0] % math.prod(free[axis] for axis in rows):
        rows = ()  # a batch that cannot be divided evenly is whole on each device
    heads = "model" if math.gcd(q.shape[2], k.shape[2]) % free.get("model", 1) == 0 else None
    spec = PartitionSpec(rows or None, None, heads if "model" in free else None)
    specs = (spec, spec, spec, PartitionSpec(rows or None))
    run = jax.shard_map(own_part, in_specs=specs, out_specs=spec, check_vma=False)
    return run(q, k, v, segment)


def _kernel(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment: jax.Array | None,
    causal: bool,
    window: int | None,
    scale: float | None,
    cap: float | None,
    interpret: bool,
) -> jax.Array:
    """The attention of one device's rows and heads."""
    # Imported here: it takes a tenth of a second, and only TPUs need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    steps, heads = q.shape[1:3]
    shape = (steps, steps)
    if window is not None:
        mask = masks.LocalMask(shape, (window - 1, 0 if causal else window - 1), 0)
    else:
        mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    block: Any = next(block for block in BLOCKS if steps % block == 0)
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    documents = None if segment is None else splash.SegmentIds(segment, segment)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        kernel = splash.make_splash_mha(
            masks.MultiHeadMask([mask] * heads),
            block_sizes=splash.BlockSizes(*[block] * 8),  # all of them
            attn_logits_soft_cap=cap,
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )
        return jax.vmap(kernel)(q, k, v, documents).swapaxes(1, 2)
