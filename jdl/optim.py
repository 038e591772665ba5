"""Optax chains that experiments share: learning rate schedules, gradient clipping, weight decay."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jdl.errors import Error


def warmup_cosine(peak: float, steps: int, warmup: float = 0.05) -> optax.Schedule:
    """Learning rate schedule: linear warmup to `peak`, then cosine decay.

    The rate rises from 0 over the share `warmup` of the `steps`, then falls to 0 (Loshchilov and
    Hutter, 2017).
    """
    rising = max(1, round(warmup * steps))
    return optax.warmup_cosine_decay_schedule(0.0, peak, rising, max(steps, rising + 1))


def decay_mask(params: Any) -> Any:
    """Mask of weight decay: true for parameters of two or more axes, not for norms and biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def adamw(
    rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.01,
    max_norm: float = 1.0,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) with gradient clipping.

    Norms and biases have no weight decay. `max_norm` is the largest global norm of the gradient.
    """
    return clip_gradients(
        optax.adamw(rate, b2=b2, weight_decay=weight_decay, mask=decay_mask), max_norm
    )


def clip_gradients(
    optimizer: optax.GradientTransformation, max_norm: float
) -> optax.GradientTransformation:
    """Gradient clipping by the global norm (Pascanu et al., 2013), before the optimizer."""
    return optax.chain(optax.clip_by_global_norm(max_norm), optimizer)


def per_module(**optimizers: optax.GradientTransformation) -> optax.GradientTransformation:
    """A separate optimizer for each top-level module: `generator=..., discriminator=...`."""
    return optax.partition(optimizers, lambda params: {name: name for name in params})


def update_every(
    steps: int, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Applies the optimizer in every `steps`-th step only.

    For the generator of a Wasserstein GAN, whose critic is updated several times as often.
    """
    if steps < 1:
        raise Error(f"update_every takes 1 step or more, got {steps}.")
    return optax.conditionally_mask(optimizer, lambda step: (step + 1) % steps == 0)
