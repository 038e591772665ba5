"""The optimizers that experiments share: Optax chains with the usual schedule, clipping and weight decay."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jdl.errors import Error


def warmup_cosine(peak: float, steps: int, warmup: float = 0.05) -> optax.Schedule:
    """A rate that rises from 0 to `peak` in the first `warmup` of the steps and falls to 0 along a cosine."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, max(1, round(warmup * steps)), steps)


def matrices(params: Any) -> Any:
    """True for parameters of two or more axes: weight decay's mask, which leaves norms and biases alone."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def adamw(
    rate: optax.ScalarOrSchedule, weight_decay: float = 0.01, clip: float = 1.0, b2: float = 0.999
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) after clipping by the global norm; norms and biases do not decay."""
    return clipped(optax.adamw(rate, b2=b2, weight_decay=weight_decay, mask=matrices), clip)


def clipped(optimizer: optax.GradientTransformation, clip: float) -> optax.GradientTransformation:
    """The optimizer after the gradient was scaled down to a global norm of `clip` where it is greater."""
    return optax.chain(optax.clip_by_global_norm(clip), optimizer)


def players(**optimizers: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer for each player of a game, by the first word of its parameters' paths: "generator", "critic"."""
    return optax.partition(optimizers, lambda params: {name: name for name in params})


def every(steps: int, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer in every so-manieth step, and no change in between: a critic may so have several steps to one."""
    if steps < 1:
        raise Error(f"every(steps) is 1 or more, and {steps} is not.")
    return optax.conditionally_mask(optimizer, lambda step: (step + 1) % steps == 0)
