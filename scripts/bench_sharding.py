"""The compiled step of a GPT on a mesh: bytes on each device, and what its collectives move.

    scripts/bench sharding --mesh fsdp=8 --precision bfloat16
    scripts/bench sharding --mesh data=2,fsdp=8 --topology v5e:4x4

Nothing is trained. By default there are 8 simulated devices of the CPU. With a topology the step is
compiled for TPUs, of which there need be none: `pip install libtpu` of the version that belongs to
JAX's. Collectives are read as `jdl plan` does: of each the larger of operand and result, on one
device. Those of less than 4 kB are left out.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

import jdl
from jdl.inspect.hlo import read
from jdl.learners import mixed_precision
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.parallel import abstract_state, shard_learner
from jdl.parallel.mesh import batch_sharding
from jdl.plan.chips import parse_topology
from jdl.plan.collectives import collectives
from jdl.plan.devices import build_mesh, start_jax_for
from jdl.plan.step import uncached

SMALL = 4096


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mesh", default="fsdp=8")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--topology", default="cpu:8")
    parser.add_argument("--keep", type=Path, help="file for the compiled program, as text")
    sizes = {"width": 512, "depth": 4, "length": 128, "batch": 16, "vocabulary": 8192}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    topology = parse_topology(given.topology)
    start_jax_for(topology)
    mesh = build_mesh(topology, given.mesh)
    config = TransformerConfig(given.width, given.depth, given.width // 64, max_length=given.length)
    objective = jdl.objectives.next_token(GPT(given.vocabulary, config))
    learner = jdl.descent(objective, jdl.optim.adamw(1e-3))
    learner = shard_learner(mixed_precision(learner, given.precision), mesh)
    rows = batch_sharding(mesh, given.batch)
    x = jax.ShapeDtypeStruct((given.batch, given.length + 1), jnp.int32, sharding=rows)
    state = jax.eval_shape(learner.init, jax.eval_shape(jax.random.key, 0), {"x": x})
    lowered = jax.jit(learner.step, donate_argnums=0).lower(abstract_state(mesh, state), {"x": x})
    with uncached():
        step = lowered.compile()
    if given.keep:
        given.keep.write_text(step.as_text())
    memory, parameters = step.memory_analysis(), jax.tree.leaves(state.params)
    print(f"{sum(leaf.size for leaf in parameters) / 1e6:.1f} million parameters; on a device:")
    print(f"{'arguments':<28}{memory.argument_size_in_bytes / 1e6:>10.1f} MB")
    print(f"{'temporaries':<28}{memory.temp_size_in_bytes / 1e6:>10.1f} MB")
    for one in collectives(read(step.as_text())):
        if one.nbytes >= SMALL * one.count:
            print(f"{f'{one.kind} over {one.group}, {one.dtype}':<28}{one.nbytes / 1e6:>10.1f} MB")


if __name__ == "__main__":
    main()
