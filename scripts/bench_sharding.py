"""The compiled step of a GPT on a mesh: bytes on each device, and what its collectives move.

    scripts/bench sharding --mesh fsdp=8 --precision bfloat16
    scripts/bench sharding --mesh data=2,fsdp=8 --topology v5e:4x4

Nothing is trained. On a CPU there are 8 simulated devices. With a topology the step is compiled for
TPUs, of which there need be none: `pip install libtpu` of the version that belongs to JAX's.
Collectives of less than 4 kB are left out.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import argparse
import math
import re
from collections import Counter

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import jdl
from jdl.learners import mixed_precision
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.parallel import abstract_state, build_mesh, shard_learner
from jdl.parallel.mesh import batch_sharding

KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
SIZE = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}  # bytes of a number
SMALL = 4096


def collectives(text: str) -> Counter[tuple[str, str]]:
    """The bytes of all results of collectives in a compiled program, by their kind and type."""
    found, seen, function = Counter[tuple[str, str]](), set[str](), ""
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            function = header[1]
        match = re.search(rf"= (.*?) ({KINDS})(-start)?\(", line)
        channel = re.search(r"channel_id=(\d+)", line)
        if not match or (channel and channel[1] in seen):  # a fusion prints one more than once
            continue
        seen |= {channel[1]} if channel else set()
        # A TPU's reduce-scatter is printed as an all-reduce, in a function of this name.
        kind = "reduce-scatter" if "all-reduce-scatter" in function else match[2]
        arrays = re.findall(rf"({'|'.join(SIZE)})\[([\d,]*)\]", match[1])
        for dtype, shape in arrays[-1:] if match[3] else arrays:
            size = SIZE[dtype] * math.prod(int(axis) for axis in shape.split(",") if axis)
            found[kind, dtype] += size if size >= SMALL else 0
    return +found


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mesh", default="fsdp=8")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--topology")
    sizes = {"width": 512, "depth": 4, "length": 128, "batch": 16, "vocabulary": 8192}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    if given.topology:
        devices = list(topologies.get_topology_desc(given.topology, platform="tpu").devices)
        jax.devices, jax.device_count = lambda: devices, lambda: len(devices)
    mesh = build_mesh(given.mesh)
    config = TransformerConfig(given.width, given.depth, given.width // 64, max_length=given.length)
    objective = jdl.objectives.next_token(GPT(given.vocabulary, config))
    learner = jdl.descent(objective, jdl.optim.adamw(1e-3))
    learner = shard_learner(mixed_precision(learner, given.precision), mesh)
    rows = batch_sharding(mesh, given.batch)
    x = jax.ShapeDtypeStruct((given.batch, given.length + 1), jnp.int32, sharding=rows)
    state = jax.eval_shape(learner.init, jax.eval_shape(jax.random.key, 0), {"x": x})
    lowered = jax.jit(learner.step, donate_argnums=0).lower(abstract_state(mesh, state), {"x": x})
    step = lowered.compile()
    memory, parameters = step.memory_analysis(), jax.tree.leaves(state.params)
    print(f"{sum(leaf.size for leaf in parameters) / 1e6:.1f} million parameters; on a device:")
    print(f"{'arguments':<24}{memory.argument_size_in_bytes / 1e6:>10.1f} MB")
    print(f"{'temporaries':<24}{memory.temp_size_in_bytes / 1e6:>10.1f} MB")
    for (kind, dtype), size in sorted(collectives(step.as_text()).items()):
        print(f"{kind + ' ' + dtype:<24}{size / 1e6:>10.1f} MB")


if __name__ == "__main__":
    main()
