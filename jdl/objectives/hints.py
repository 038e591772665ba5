"""Hints of FitNets: a student's features learn a teacher's, by a learned linear projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import get_opaque_trace_state

from jdl.keys import stream
from jdl.types import Array, Error, Key

Features = Mapping[str, Any]  # outputs of layers, by path
PROJECTIONS = "feature_projections"


@contextmanager
def record_features() -> Iterator[dict[str, Any]]:
    """The outputs of all layers of the Linen models that are called within the block, by path.

    Those of layers within nn.remat are None: no array comes out of there but by what it returns.
    """
    outputs: dict[str, Any] = {}
    trace = get_opaque_trace_state(convention="flax")

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            inside = get_opaque_trace_state(convention="flax") != trace
            outputs["/".join(context.module.path)] = None if inside else out
        return out

    with nn.intercept_methods(record):
        yield outputs


def init_projections(
    key: Key, hints: Mapping[str, str], student: Features, teacher: Features
) -> dict[str, Any]:
    """A matrix (student's channels, teacher's) for each hint; `Error` where the layers differ."""
    kernels = {}
    for path, of_teacher in hints.items():
        here, there = _layer(student, path, "student"), _layer(teacher, of_teacher, "teacher")
        if here.shape[:-1] != there.shape[:-1]:
            raise Error(
                f"The student's layer {path} gives features of shape {here.shape}, and the "
                f"teacher's {of_teacher} of shape {there.shape}: a hint needs the same shape but "
                "for the channels, so name layers of the same height and width, or length."
            )
        shape = (here.shape[-1], there.shape[-1])
        draw = jax.nn.initializers.lecun_normal()
        kernels[f"{path}/kernel"] = draw(stream(key, path), shape)
    return unflatten_dict(kernels, sep="/")


def feature_errors(
    projections: Mapping[str, Any],
    hints: Mapping[str, str],
    student: Features,
    teacher: Features,
    shape: tuple[int, ...],
) -> Array:
    """The mean squared errors of projected features, summed over the hints, for labels (B, ...)."""
    kernels = flatten_dict(projections, sep="/")
    total = jnp.zeros(shape)
    for path, of_teacher in hints.items():
        x, y = (x.astype(jnp.float32) for x in (student[path], teacher[of_teacher]))
        kernel = kernels[f"{path}/kernel"].astype(jnp.float32)
        total += _by_label(jnp.square(x @ kernel - y).mean(-1), shape)
    return total


def _layer(features: Features, path: str, whose: str) -> Any:
    """The features of a layer; raises `Error` where there are none."""
    if path in features and getattr(features[path], "ndim", 0) > 1:
        return features[path]
    if path in features and features[path] is None:
        raise Error(
            f"The {whose}'s layer {path} is within nn.remat, out of which no features come: build "
            f"the {whose} with remat=False, or name a layer outside."
        )
    if not features:
        raise Error(f"features of distil are those of Linen models, and the {whose} is none.")
    names = ", ".join(sorted(n for n, x in features.items() if n and getattr(x, "ndim", 0) > 1))
    raise Error(f"The {whose} has no layer {path!r} with an array of features: choose of {names}.")


def _by_label(errors: Array, shape: tuple[int, ...]) -> Array:
    """The errors (B, ...) as means for each label, or for each row where labels lie elsewhere."""
    axes = len(shape) if errors.shape[: len(shape)] == shape else 1
    means = errors.reshape(*errors.shape[:axes], -1).mean(-1)
    return jnp.broadcast_to(means.reshape(means.shape + (1,) * (len(shape) - axes)), shape)
