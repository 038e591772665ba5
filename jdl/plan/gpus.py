"""NVIDIA's GPUs as XLA's compiler for them must know them, so that none is needed to compile."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.experimental import topologies

from jdl.plan.chips import Topology
from jdl.types import Error

PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")  # of JAX, with the compiler
CUDNN = (9, 10)  # its version, as XLA takes it; any from 9 on would do


@dataclass(frozen=True)
class Gpu:
    """The hardware of a GPU: figures of XLA's own descriptions (gpu/target_config/specs)."""

    name: str
    capability: int  # the major number of its compute capability
    cores: int  # streaming multiprocessors
    fpus: int  # of each for float32
    clock: float  # GHz
    memory: int  # bytes
    bandwidth: int  # bytes/s
    l2_cache: int  # bytes
    shared: int  # bytes of shared memory of a core
    shared_by_block: int  # bytes of it that one block may ask for


A100 = Gpu(
    name="NVIDIA A100-SXM4-80GB",
    capability=8,
    cores=108,
    fpus=64,
    clock=1.41,
    memory=85_100_068_864,
    bandwidth=2_039_040_000_000,
    l2_cache=41_943_040,
    shared=167_936,
    shared_by_block=166_912,
)
H100 = Gpu(
    name="NVIDIA H100 80GB HBM3",
    capability=9,
    cores=132,
    fpus=128,
    clock=1.98,
    memory=84_942_979_072,
    bandwidth=3_352_320_000_000,
    l2_cache=52_428_800,
    shared=233_472,
    shared_by_block=232_448,
)
H200 = replace(
    H100, name="NVIDIA H200 141GB HBM3e", memory=151_397_597_184, bandwidth=4_800_000_000_000
)
B200 = replace(
    H100,
    name="NVIDIA B200",
    capability=10,
    cores=148,
    clock=1.965,
    memory=191_514_411_008,
    bandwidth=7_672_320_000_000,
    l2_cache=132_644_864,
)
GPUS = {"a100": A100, "h100": H100, "h200": H200, "b200": B200}
DESCRIPTION = """
gpu_device_info {{
  name: "{gpu.name}"
  cuda_compute_capability {{ major: {gpu.capability} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  memory_bandwidth: {gpu.bandwidth}
  l2_cache_size: {gpu.l2_cache}
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.shared_by_block}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} }}
runtime_version {{ major: {cuda} }}
device_description_str: "{gpu.name}"
"""


def installed_plugin() -> str | None:
    """JAX's plugin for NVIDIA's GPUs, where one is installed: it needs no GPU to compile."""
    return next((name for name in PLUGINS if importlib.util.find_spec(name)), None)


def gpu_devices(topology: Topology) -> list[Any]:
    """The GPUs of one server, described to the compiler of `installed_plugin()`."""
    plugin = installed_plugin()
    assert plugin
    cuda = 13 if "13" in plugin else 12
    described = DESCRIPTION.format(gpu=GPUS[topology.kind], cudnn=CUDNN, cuda=cuda)
    shape = f"1x1x{topology.chips}"  # servers, processes of each, GPUs of each
    try:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=described, topology=shape
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise Error(
            f"JAX's plugin {plugin} cannot describe {topology}: {reason}. It must be of jax "
            f"{jax.__version__}."
        ) from error
    return list(found.devices)
