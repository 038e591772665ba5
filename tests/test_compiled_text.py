"""The reader of compiled programs: collectives, traffic and loops against known bytes.

Seen to fail: loops whose turns are not read, an all-gather that counts its operand, an all-reduce
that is sent once, doubled channels, a channel of two kinds, a fused reduce-scatter as an
all-reduce, slices that count whole, prefetches that count twice, loops that turn as often as any
constant of their condition.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jdl.inspect.hlo import Instruction, read
from jdl.inspect.traffic import traffic
from jdl.plan import chips, devices
from jdl.plan.collectives import collectives, group_size
from jdl.plan.step import uncached

needs_libtpu = pytest.mark.skipif(
    not devices.has_libtpu(),
    reason="libtpu, the compiler for TPUs, is not installed: pip install 'jdl[plan]', or set "
    "TPU_LIBRARY_PATH",
)
ROWS, COLUMNS = 65_536, 128  # of few rows a TPU's compiler makes an all-reduce in any case
WHOLE = 4 * ROWS * COLUMNS  # bytes of the array that is cut among four devices
MESH = "data=2,fsdp=2"
SHARDED = PartitionSpec(("data", "fsdp"))


def compiled(function, topology, out=SHARDED, turns=0):
    """The program of a function of the rows of one device, on four; `turns` times in a loop."""
    mesh = devices.build_mesh(chips.parse_topology(topology), MESH)
    x = jax.ShapeDtypeStruct((ROWS, COLUMNS), jnp.float32, sharding=NamedSharding(mesh, SHARDED))

    def looped(x):
        if not turns:
            return function(x)
        return lax.fori_loop(0, turns, lambda n, x: jnp.sin(function(x)), x)

    mapped = jax.shard_map(looped, mesh=mesh, in_specs=SHARDED, out_specs=out, check_vma=False)
    with uncached():
        return read(jax.jit(mapped).trace(x).lower().compile().as_text())


AXES = ("data", "fsdp")
PAIRS = [(0, 1), (1, 2), (2, 3), (3, 0)]
KNOWN = {  # (function, bytes, bytes that one of four devices sends)
    "all-gather": (lambda x: lax.all_gather(x, AXES, tiled=True), WHOLE, WHOLE * 3 // 4),
    "all-reduce": (lambda x: lax.psum(x, AXES), WHOLE // 4, WHOLE // 4 * 3 // 2),
    "collective-permute": (lambda x: lax.ppermute(x, AXES, PAIRS), WHOLE // 4, WHOLE // 4),
    "all-to-all": (
        lambda x: lax.all_to_all(x, AXES, 0, 0, tiled=True),
        WHOLE // 4,
        WHOLE // 4 * 3 // 4,
    ),
    "reduce-scatter": (
        lambda x: lax.psum_scatter(x, AXES, tiled=True),
        WHOLE // 4,
        WHOLE // 4 * 3 // 4,
    ),
}
TOPOLOGIES = ["cpu:4", pytest.param("v5e:2x2", marks=needs_libtpu)]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("kind", KNOWN)
def test_collectives_have_the_bytes_that_they_must(kind, topology):
    function, nbytes, wire = KNOWN[kind]
    (found,) = collectives(compiled(function, topology))
    assert (found.kind, found.dtype, found.count, found.loop) == (kind, "float32", 1, False)
    assert (found.nbytes, found.wire, found.group) == (nbytes, wire, 4)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_collectives_in_a_loop_count_as_often_as_it_turns(topology):
    (found,) = collectives(compiled(lambda x: lax.psum(x, "fsdp"), topology, turns=7))
    assert found.loop
    assert (found.count, found.group, found.nbytes) == (7, 2, 7 * WHOLE // 4)


TEXT = """HloModule step

%all-reduce-scatter.1 (p: f32[64,128]) -> f32[32,128] {
  %p = f32[64,128]{1,0:T(8,128)} parameter(0)
  %sum.1 = f32[64,128]{1,0:T(8,128)S(1)} all-reduce(%p), channel_id=3, replica_groups=mesh['a'=2,'b'=4] {'a'}, to_apply=%add
  ROOT %cut = f32[32,128]{1,0:T(8,128)} dynamic-slice(%sum.1, %p), dynamic_slice_sizes={32,128}
}

%bound (q: s32[]) -> pred[] {
  %q = s32[]{:T(128)} parameter(0)
  %turns = s32[]{:T(128)} constant(24)
  ROOT %less = pred[]{:T(512)} compare(%q, %turns), direction=LT
}

%condition (s: (s32[], bf16[8,128])) -> pred[] {
  %s = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %more = pred[]{:T(512)} fusion(%i), kind=kLoop, calls=%bound
}

%body (t: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %t = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %w = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=1
  %gather = (bf16[8,128]{1,0}, bf16[32,128]{1,0}) all-gather-start(%w), channel_id=4, replica_groups=[2,4]<=[8], dimensions={0}
  %again = (bf16[8,128]{1,0}, bf16[32,128]{1,0}) all-gather-start(%w), channel_id=4, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %next = (s32[], bf16[8,128]) tuple(%i, %w)
}

ENTRY %main (x: f32[64,128], y: (s32[], bf16[8,128]), z: f32[64]) -> f32[32,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %z = f32[64]{0:T(128)} parameter(2)
  %y = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(1)
  %loop = (s32[], bf16[8,128]) while(%y), condition=%condition, body=%body
  %norm = f32[64]{0:T(128)} all-reduce(%z), channel_id=3, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %out = f32[32,128]{1,0:T(8,128)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501


def test_what_tpu_programs_write_in_their_own_way_is_read():
    """A fused reduce-scatter, groups by mesh axes, doubled channels, turns within a fusion.

    And a channel that the fused reduce-scatter and another collective have both.
    """
    gather, scatter, norm = collectives(read(TEXT))
    assert (norm.kind, norm.group, norm.nbytes) == ("all-reduce", 4, 4 * 64)
    assert (scatter.kind, scatter.group, scatter.count) == ("reduce-scatter", 2, 1)
    assert (scatter.nbytes, scatter.wire) == (4 * 64 * 128, 4 * 32 * 128)
    assert (gather.kind, gather.dtype, gather.group) == ("all-gather", "bfloat16", 4)
    assert (gather.count, gather.nbytes) == (24, 24 * 4 * 2 * 8 * 128)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}, to_apply=%add", 3),
        ("replica_groups=[16,4]<=[8,8]T(1,0)", 4),
        ("replica_groups=mesh['x'=2,'y'=4,'z'=3] {'y','z'}, channel_id=1", 12),
        ("source_target_pairs={{0,1},{1,0}}", 2),
    ],
)
def test_groups_are_read_however_they_are_written(attributes, size):
    one = Instruction("name", "f32[]", "all-reduce", (), attributes, False)
    assert group_size(one) == size


def test_traffic_has_known_bytes():
    x = jax.ShapeDtypeStruct((1000, 100), jnp.float32)

    def moved(function):
        return traffic(read(jax.jit(function).trace(x).lower().compile().as_text()))

    once = 4 * 1000 * 100
    assert moved(lambda x: jnp.sin(x) * 2 + 1) == 2 * once  # a fusion: read once, written once
    rows = moved(lambda x: lax.scan(lambda c, row: (c, jnp.sin(row)), 0.0, x)[1])
    # Each turn moves a row, and not the whole array; the result is filled with zeros before.
    assert 3 * once <= rows < 3.1 * once


ASYNCHRONOUS = {  # an instruction that gives 1,024 numbers, and the bytes that it moves in HBM
    "sine(%a)": ("f32[1024]{0}", 8192),
    "async-start(%a), calls=%part": ("((f32[1024]{0}), f32[1024]{0}, u32[])", 8192),
    "copy-start(%a)": ("(f32[1024]{0:S(1)}, f32[1024]{0}, u32[]{:S(2)})", 4096),  # a prefetch
    "all-gather-start(%a), channel_id=1": ("(f32[1024]{0}, f32[2048]{0})", 4096 + 8192),
    "collective-permute-start(%a)": ("(f32[1024]{0}, f32[1024]{0}, u32[]{:S(2)})", 8192),
    "all-reduce-start(%a), to_apply=%add": ("f32[1024]{0}", 8192),
}


@pytest.mark.parametrize("text", ASYNCHRONOUS)
def test_what_starts_and_ends_later_is_read_once_and_written_once(text):
    kind, nbytes = ASYNCHRONOUS[text]
    program = f"""%part (p: f32[1024]) -> f32[1024] {{
  %p = f32[1024]{{0}} parameter(0)
  ROOT %s = f32[1024]{{0}} sine(%p)
}}
ENTRY %main (a: f32[1024]) -> f32[1024] {{
  %a = f32[1024]{{0}} parameter(0)
  %start = {kind} {text}
  ROOT %done = f32[1024]{{0}} copy-done(%start)
}}
"""
    assert traffic(read(program)) == nbytes


@pytest.mark.parametrize(
    ("constant", "direction", "turns"),
    [
        ("s32[] constant(9)", "LT", 9),
        ("s32[] constant(9)", "GT", 1),
        ("f32[] constant(9)", "LT", 1),
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_turns_are_the_integer_bound_of_a_counter_or_one(constant, direction, turns, fused):
    """In a condition's own comparison, or in a fusion that is given the bound."""
    less = f"pred[] compare(%i, %bound), direction={direction}"
    program = f"""%less (i: s32[], bound: s32[]) -> pred[] {{
  %i = s32[] parameter(0)
  %bound = s32[] parameter(1)
  ROOT %out = {less}
}}
%condition (t: (s32[])) -> pred[] {{
  %t = (s32[]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %bound = {constant}
  %other = s32[] constant(4096)
  ROOT %more = {"pred[] fusion(%i, %bound), kind=kLoop, calls=%less" if fused else less}
}}
ENTRY %main (a: (s32[])) -> (s32[]) {{
  %a = (s32[]) parameter(0)
  ROOT %loop = (s32[]) while(%a), condition=%condition, body=%body
}}
"""
    found = read(program)
    assert found.trip_count(found.computations["main"]["loop"]) == turns
