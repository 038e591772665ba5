"""The devices of a topology, which need not exist: described to their compiler, or simulated."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

import jax
from jax._src import xla_bridge  # the only place that says whether the backend has started
from jax.experimental import topologies
from jax.sharding import Mesh

from jdl.parallel.mesh import AXES, mesh_over, mesh_shape
from jdl.plan.chips import Topology
from jdl.plan.gpus import gpu_devices, installed_plugin
from jdl.types import Error

# Without these libtpu asks Google's metadata server what machine it is on, and complains; and one
# process alone could load it, as if it were to use a TPU.
DESCRIBED = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def has_libtpu() -> bool:
    """Whether libtpu, which has the compiler for TPUs, is installed or named by the environment."""
    return "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None


def start_jax_for(topology: Topology) -> None:
    """Starts JAX on the CPU, with as many simulated devices as the topology needs."""
    if xla_bridge.backends_are_initialized():
        return
    jax.config.update("jax_platforms", "cpu")
    if not topology.is_tpu:
        jax.config.update("jax_num_cpu_devices", topology.chips)


def build_mesh(topology: Topology, text: str = "") -> Mesh:
    """The mesh of --mesh over all chips of a topology; by default all are along "data".

    Raises `Error` where the mesh has not as many devices as the topology has chips.
    """
    sizes = mesh_shape(text) if text else {"data": topology.chips}
    if (count := math.prod(sizes.values())) != topology.chips:
        raise Error(
            f"--mesh {text} has {count} devices, and {topology} has {topology.chips} chips: "
            f"{' or '.join(meshes_like(sizes, topology.chips))} would do."
        )
    return mesh_over(_devices(topology), sizes)


def meshes_like(sizes: dict[str, int], chips: int) -> list[str]:
    """Meshes of as many chips, each with one size changed."""
    found = []
    for axis in sizes:
        rest = math.prod(size for other, size in sizes.items() if other != axis)
        if chips % rest == 0:
            found.append(mesh_text({**sizes, axis: chips // rest}))
    return found or [f"data={chips}"]


def mesh_text(sizes: dict[str, int]) -> str:
    """A mesh as --mesh takes it."""
    parts = [f"{axis}={sizes[axis]}" for axis in AXES if sizes.get(axis, 1) > 1]
    return ",".join(parts) or "data=1"


def _devices(topology: Topology) -> list[Any]:
    """Described devices where their compiler is here; GPUs without it are simulated."""
    if topology.is_tpu:
        return _tpu(topology)
    if topology.is_gpu and installed_plugin():
        return gpu_devices(topology)
    return _simulated(topology)


def _tpu(topology: Topology) -> list[Any]:
    if not has_libtpu():
        raise Error(
            f"To compile for {topology} takes libtpu, which needs no TPU: pip install 'jdl[plan]', "
            "or name an installed one, TPU_LIBRARY_PATH=.../libtpu.so. Without it: --topology "
            f"cpu:{min(topology.chips, 8)}, simulated devices, tells memory and collectives."
        )
    for name, value in DESCRIBED.items():
        os.environ.setdefault(name, value)
    one = {"chips_per_host_bounds": (1, 1, 1)} if topology.chips == 1 else {}
    try:
        return list(topologies.get_topology_desc(str(topology), "tpu", **one).devices)
    except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise Error(f"libtpu cannot describe {topology}: {reason}.") from error


def _simulated(topology: Topology) -> list[Any]:
    devices = jax.devices("cpu")
    if len(devices) < topology.chips:
        raise Error(
            f"{topology} is planned on {topology.chips} simulated devices, and JAX has started "
            f"with {len(devices)}: set JAX_NUM_CPU_DEVICES={topology.chips} in the environment, "
            "before it starts."
        )
    return devices[: topology.chips]
