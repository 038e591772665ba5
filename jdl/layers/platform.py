"""Platform-dependent implementations: all choices between them are made here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

HALF_PRECISION = (jnp.bfloat16, jnp.float16)

# JAX's caches include this context in their keys: a function that was traced outside of the context
# is traced again within it.
_plain = jax.make_user_context(False)
_target = jax.make_user_context("")


def plain_implementations() -> AbstractContextManager[None]:
    """A context in which every layer is traced with its plain, portable implementation.

    It is for exporting a model: to several platforms, to a format whose converter has no rule for
    `lax.platform_dependent` (ONNX), or from a machine with a GPU, where half-precision attention
    would otherwise be cuDNN's on every platform. The results differ only by rounding:

        with plain_implementations():
            exported = jax.export.export(jax.jit(apply), platforms=["cpu", "cuda"])(variables, x)
    """
    return _plain(True)


def only_plain() -> bool:
    """Whether this is traced within `plain_implementations()`."""
    return bool(_plain.value)


def compiled_for(platform: str) -> AbstractContextManager[None]:
    """A context in which programs are traced for another platform than this process's own.

    It is for compiling ahead of time, such as for a TPU on a machine without one (`jdl.plan`).
    """
    return _target(platform)


def target_platform() -> str:
    """The platform, "cpu", "gpu" or "tpu", for which programs are traced here."""
    return _target.value or jax.default_backend()


def platform_dependent(*args: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """`cpu(*args)` in programs for CPUs, `default(*args)` in all others; chosen at compile time.

    Like `jax.lax.platform_dependent`; within `plain_implementations()` it is always `default`.
    """
    if _plain.value:
        return default(*args)
    return lax.platform_dependent(*args, cpu=cpu, default=default)


def scan_back(step: Callable[..., Any], init: Any, xs: Any) -> tuple[Any, Any]:
    """`lax.scan` from the last step to the first.

    Within `plain_implementations()` it is a forward one of flipped arrays, with the same numbers:
    jax2onnx has no other.
    """
    if not _plain.value:
        return lax.scan(step, init, xs, reverse=True)
    last, ys = lax.scan(step, init, jax.tree.map(lambda x: jnp.flip(x, 0), xs))
    return last, jax.tree.map(lambda y: jnp.flip(y, 0), ys)


def uses_cudnn_attention(dtype: Any) -> bool:
    """Whether attention uses cuDNN's fused kernel (flash attention): in half precision on a GPU.

    Decided at trace time, by `target_platform`: `lax.platform_dependent` traces all of
    its branches, and this one cannot be traced if cuDNN is missing.
    """
    return not _plain.value and target_platform() == "gpu" and dtype in HALF_PRECISION


def uses_splash_attention() -> bool:
    """Whether attention may use splash attention, a Pallas kernel: on TPUs, at trace time."""
    return not _plain.value and target_platform() == "tpu"
