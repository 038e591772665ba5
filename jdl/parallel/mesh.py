"""The device mesh, and the shardings of arrays on it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jdl.layers import BATCH_AXIS
from jdl.layers.batch_axis import BATCH_AXES
from jdl.paths import path_name
from jdl.types import Error

AXES = ("data", "fsdp", "model")
Rules = Sequence[tuple[str, int | None]]
TRANSFORMER: Rules = (
    (r"/experts/", 0),
    (r"/(query|key|value|head|feed_forward/(in|gate))/kernel$", 1),
    (r"/(query|key|value|head|feed_forward/(in|gate))/bias$", 0),
    (r"/(attention|cross|feed_forward)/out/kernel$", 0),
    (r"/table$", 0),
)
"""Tensor parallel rules of transformers: the divided axis of each parameter whose path matches.

Heads and hidden units are divided among the devices, so that each pair of products needs one sum
over devices (Shoeybi et al., 2019); and so are the experts of a mixture of experts (expert
parallel; Lepikhin et al., 2021). Recurrent mixers stay whole.
"""


def build_mesh(text: str = "", devices: int | None = None) -> Mesh | None:
    """The device mesh of --mesh, such as "data=4,model=2", or of --devices, all along "data".

    "data" is data parallel: it divides the batch. "fsdp" is fully sharded data parallel: it divides
    the batch, the parameters and the optimizer's state. "model" is tensor parallel: it divides a
    transformer's layers. Without both there is no mesh (None); only with several processes all of
    their devices are along "data". Raises `Error` where there are not enough devices.
    """
    sizes = mesh_shape(text)
    several = jax.process_count() > 1
    if not sizes and devices is None and not several:
        return None
    if devices is not None and devices < 1:
        raise Error(f"--devices must be 1 or more, not {devices}.")
    count = math.prod(sizes.values()) if sizes else devices or jax.device_count()
    if devices is not None and count != devices:
        raise Error(
            f"--mesh {text} needs {count} devices, and --devices says {devices}: drop one of the "
            "two."
        )
    if count > jax.device_count():
        kind = jax.devices()[0].device_kind
        raise Error(
            f"{count} devices are requested, but there are {jax.device_count()} of the kind "
            f"{kind}: request fewer; on a CPU, JAX_NUM_CPU_DEVICES=8 in the environment makes 8."
        )
    if several and count < jax.device_count():
        raise Error(
            f"Several processes train with all of their {jax.device_count()} devices, but {count} "
            "are requested: leave out --devices, or adapt --mesh."
        )
    return mesh_over(jax.devices()[:count], sizes or {"data": count})


def mesh_over(devices: Sequence[Any], sizes: dict[str, int]) -> Mesh:
    """The mesh of these devices; an axis without a size has 1."""
    grid = _arrange(devices, tuple(sizes.get(axis, 1) for axis in AXES))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(devices: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """The devices in the shape of a mesh, so that those along an axis are neighbours.

    TPUs are arranged by their places in the torus, and several slices of them, between which the
    network (DCN) is slow, along the first axis whose size their number divides: "data" if possible.
    All other devices keep their order, and so do TPUs of which only a part is used.
    """
    if devices[0].platform != "tpu" or len(devices) < jax.device_count():
        return np.asarray(devices).reshape(shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return create_device_mesh(shape, devices, allow_split_physical_axes=True)
    axis = next((n for n, size in enumerate(shape) if size % slices == 0), None)
    if axis is None:
        raise Error(
            f"A mesh over {slices} slices needs an axis whose size is a multiple of {slices}, best "
            f'"data"; --mesh has {", ".join(f"{a}={n}" for a, n in zip(AXES, shape, strict=True))}.'
        )
    between = tuple(slices if n == axis else 1 for n in range(len(shape)))
    within = tuple(size // outer for size, outer in zip(shape, between, strict=True))
    return create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)


def mesh_shape(text: str) -> dict[str, int]:
    """The sizes of a mesh's axes, as --mesh names them. Raises `Error` for another text."""
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        axis, _, size = part.partition("=")
        if axis not in AXES or axis in sizes or not size.isdecimal() or int(size) < 1:
            raise Error(
                f"--mesh is written like data=4,model=2, with each of {', '.join(AXES)} once; "
                f"not {text!r}."
            )
        sizes[axis] = int(size)
    return sizes


def data_parallel_devices(mesh: Mesh | None, flag: str) -> list[Any]:
    """The devices of a data parallel mesh, as `flag` needs it; without a mesh the first device."""
    if mesh is None:
        return jax.devices()[:1]
    if mesh.size != mesh.shape["data"]:
        raise Error(f"{flag} is data parallel only: use --devices N, or --mesh data=N.")
    return list(mesh.devices.flat)


def pmap_mesh(devices: Sequence[Any]) -> Mesh:
    """The mesh of `jax.pmap` over these devices, on which states and batches are between steps.

    Raises `Error` where several processes train.
    """
    if jax.process_count() > 1:
        raise Error(
            "--parallel pmap is for the devices of one process: with several, use --mesh data=N."
        )
    return Mesh(np.asarray(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh, size: int) -> NamedSharding:
    """The sharding of a batch's columns (size, ...): divided evenly among the devices, or whole."""
    even = size % _batch_parts(mesh) == 0
    return NamedSharding(mesh, PartitionSpec(_batch_axes(mesh)) if even else PartitionSpec())


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(mesh: Mesh, size: int) -> None:
    """Raises `Error` where a batch of `size` rows cannot be divided evenly."""
    parts = _batch_parts(mesh)
    if size % parts:
        fitting = [n for n in (size // parts * parts, -(-size // parts) * parts) if n]
        raise Error(
            f"A batch of {size} rows cannot be cut evenly among {parts} devices: "
            f"{' or '.join(map(str, fitting))} rows can."
        )


def _batch_parts(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in _batch_axes(mesh))


def _batch_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)


def shardings(mesh: Mesh, tree: Any, rules: Rules = TRANSFORMER, in_use: bool = False) -> Any:
    """The sharding of each leaf of a state on the mesh.

    Along "model" the rules choose the divided axis, along "fsdp" it is the first free axis that the
    number of devices divides: along the last one, XLA all-reduced some gradients on TPUs instead of
    reduce-scattering them. Without such an axis a leaf stays whole. Parameters that are `in_use`
    (in a loss) are gathered: "fsdp" does not divide them.
    """

    def leaf_sharding(path: Any, leaf: Any) -> NamedSharding:
        name = "/" + path_name(path)
        return NamedSharding(mesh, _partition(mesh, name, leaf.shape, rules, in_use))

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def _partition(
    mesh: Mesh, name: str, shape: tuple[int, ...], rules: Rules, in_use: bool
) -> PartitionSpec:
    axes: list[str | None] = [None] * len(shape)
    model, fsdp = (mesh.shape.get(axis, 1) for axis in ("model", "fsdp"))
    axis = next((axis for pattern, axis in rules if re.search(pattern, name)), None)
    if model > 1 and axis is not None and axis < len(shape) and shape[axis] % model == 0:
        axes[axis] = "model"
    if fsdp > 1 and not in_use:
        free = (n for n, size in enumerate(shape) if not axes[n] and size and size % fsdp == 0)
        if (first := next(free, None)) is not None:
            axes[first] = "fsdp"
    return PartitionSpec(*axes)


def mesh_notes(state: Any) -> Iterator[str]:
    """A note for the user where "model" has several devices and divides no parameter of a state."""
    placed = [leaf.sharding for leaf in jax.tree.leaves(state.params)]
    placed = [sharding for sharding in placed if isinstance(sharding, NamedSharding)]
    size = placed[0].mesh.shape.get("model", 1) if placed else 1
    if size > 1 and not any("model" in sharding.spec for sharding in placed):
        yield (
            f"Note: model={size} of --mesh divides no parameter of this model, so that {size} "
            f"devices each compute the same: use data={size} or fsdp={size}, or name the axes of "
            "its parameters by flax.linen.with_partitioning"
        )
