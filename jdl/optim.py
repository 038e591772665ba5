"""Optax chains that experiments share: schedules, gradient clipping, rates for fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import inf, nextafter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdl.errors import Error
from jdl.paths import by_path, path_name
from jdl.patterns import balance_biases, input_axes, is_bias, matching
from jdl.widths import width_factors

BALANCE = "balance"  # the part of `balance_experts` for the biases of experts

# The numbers that arguments of this file may be: at least the first, below the second.
RANGES = {
    "factor": (0.0, inf, "0 or more"),
    "rate": (0.0, inf, "0 or more, or a schedule"),
    "peak": (0.0, inf, "0 or more"),
    "steps": (0, inf, "0 or more"),
    "warmup": (0.0, nextafter(1, 2), "a share of the steps, from 0 to 1 (20 of 100 steps are 0.2)"),
    "weight_decay": (0.0, inf, "0 or more"),
    "b2": (0.0, 1.0, "from 0 to below 1"),
    "max_norm": (nextafter(0, 1), inf, "above 0, or None for no gradient clipping"),
    "decay": (nextafter(0, 1), inf, "above 0"),
}

SCHEDULES = "rate", "weight_decay"  # which may be functions of the step


def warmup_cosine(peak: float, steps: int, warmup: float = 0.05) -> optax.Schedule:
    """Learning rate schedule: linear warmup to `peak`, then cosine decay.

    The rate rises from 0 over the share `warmup` of the `steps`, then falls to 0 (Loshchilov and
    Hutter, 2017). Raises `Error` for a `warmup` above 1: 20 of 100 steps are 0.2.
    """
    _check("warmup_cosine", peak=peak, steps=steps, warmup=warmup)
    rising = max(1, round(warmup * steps))
    return optax.warmup_cosine_decay_schedule(0.0, peak, rising, max(steps, rising + 1))


def decay_mask(params: Any) -> Any:
    """Mask of weight decay: true for parameters of two or more axes, not for norms and biases.

    Nor for the biases of experts (E, F), or of heads.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim > 1 and not is_bias(path_name(path)), params
    )


def adamw(
    rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.01,
    max_norm: float | None = 1.0,
    b2: float = 0.999,
    narrow: Any = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) with gradient clipping.

    Norms and biases have no weight decay. `max_norm` is the largest global norm of the gradient;
    None is no clipping. With `narrow`, the shapes of the parameters of a narrow model, the rates
    are those of `mup`; weight decay then stays as it is, `rate` * `weight_decay` for all widths.
    """
    _check("adamw", rate=rate, weight_decay=weight_decay, b2=b2)
    if narrow is None:
        optimizer = optax.adamw(rate, b2=b2, weight_decay=weight_decay, mask=decay_mask)
        return clip_gradients(optimizer, max_norm)
    optimizer = optax.chain(
        optax.scale_by_adam(b2=b2),
        _mup_rates(narrow),
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.scale_by_learning_rate(rate),
    )
    return clip_gradients(optimizer, max_norm)


def mup(
    optimizer: optax.GradientTransformation, narrow: Any, adaptive: bool = True
) -> optax.GradientTransformation:
    """Maximal update parametrization (muP; Yang et al., 2022): rates that fit models of any width.

    The learning rate that is best for a narrow model (the base model) is then near the best for a
    wide one. `narrow` has the shapes of the narrow model's parameters (the base shapes):
    `jax.eval_shape(objective.init, key, batch)["params"]`. The optimizer's update of each parameter
    is divided by its fan-in for adaptive optimizers (Adam, Lion, RMSprop), and for others (SGD,
    with momentum too) multiplied by fan-out / fan-in, both relative to those of the narrow model
    (Yang, Simon and Bernstein, 2023). Weight decay within the optimizer is scaled alike, unlike
    that of `adamw(..., narrow=narrow)`. At the narrow model's width nothing changes.

    muP also needs initial weights (`jdl.objectives.mup_init`), heads of attention of a fixed width
    (or `attention_scale` that falls with it as 1 / width), and an output layer that is not tied to
    the embedding. Of Adam's epsilon nothing is changed. It is not for Muon, and for a whole model,
    not the part of one that `stages` or `layer_rates` train. The optimizer's `init` raises `Error`
    where the models differ in more than widths, or have no output layer of a fixed size.
    """
    return optax.chain(optimizer, _mup_rates(narrow, adaptive))


def _mup_rates(narrow: Any, adaptive: bool = True) -> optax.GradientTransformation:
    def rule(fan_in: float, fan_out: float) -> float:
        return 1 / fan_in if adaptive else fan_out / fan_in

    return _scale_by(lambda params: width_factors(narrow, params, rule))


def muon(
    rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.01,
    max_norm: float | None = 1.0,
    by_adamw: str = "token|table|positions|head|recurrence/kernel",
) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for the matrices of a network, AdamW for the rest, with clipping.

    Muon makes the momentum of each matrix nearly orthogonal (Newton-Schulz), those of a mixture of
    experts one by one; the heads of Flax's attention are columns of query, key and value, and rows
    of out. Embeddings, the head and the depthwise convolution of a `RecurrentMixer`,
    whose paths match the pattern `by_adamw`, norms and biases are not such matrices: theirs is
    AdamW with Nesterov momentum. Updates are scaled to the size of AdamW's (Liu et al., 2025), so
    that both take the same `rate` and `weight_decay`; as in `adamw`, norms and biases have none.
    """
    _check("muon", rate=rate, weight_decay=weight_decay)

    def numbers(params: Any) -> Any:
        """Which axes are a matrix's rows and columns; None for what AdamW trains."""
        leaves = by_path(params)

        def of_leaf(path: Any, leaf: Any) -> Any:
            name = path_name(path)
            if leaf.ndim not in (2, 3) or is_bias(name) or re.search(by_adamw, name):
                return None
            begin, end = input_axes(name, leaves)
            rows, columns = tuple(range(begin, end)), tuple(range(end, leaf.ndim))
            return optax.contrib.MuonDimensionNumbers(rows, columns)

        return jax.tree_util.tree_map_with_path(of_leaf, params)

    optimizer = optax.chain(
        optax.contrib.muon(
            -1.0,  # the sign and the rate follow, once for both and their decay
            adam_learning_rate=-1.0,
            muon_weight_dimension_numbers=numbers,
            consistent_rms=0.2,
        ),
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.scale_by_learning_rate(rate),
    )
    return clip_gradients(optimizer, max_norm)


def clip_gradients(
    optimizer: optax.GradientTransformation, max_norm: float | None
) -> optax.GradientTransformation:
    """Gradient clipping by the global norm (Pascanu et al., 2013), before the optimizer.

    None is no clipping. Raises `Error` for a `max_norm` of 0, which would train nothing, or below,
    which would turn the gradient around.
    """
    if max_norm is None:
        return optimizer
    _check("clip_gradients", max_norm=max_norm)
    return optax.chain(optax.clip_by_global_norm(max_norm), optimizer)


def per_module(**optimizers: optax.GradientTransformation) -> optax.GradientTransformation:
    """A separate optimizer for each top-level module: `generator=..., discriminator=...`."""
    return optax.partition(optimizers, lambda params: {name: name for name in params})


def balance_experts(
    optimizer: optax.GradientTransformation, rate: optax.ScalarOrSchedule = 1e-3
) -> optax.GradientTransformation:
    """Auxiliary-loss-free load balancing of a mixture of experts (Wang et al., 2024).

    Of `TransformerConfig(experts=8, balance_bias=True)` the router's biases move in each step by
    `rate`: up for experts with less than the mean load of the whole batch, down for those with
    more. The `optimizer` trains all else, its gradient clipping included: of all that wraps an
    optimizer this comes last, and `jdl.descent` refuses another order. The objective is
    `next_token`, also as the own loss of `distil` or `mutual`. Raises `Error` for a `rate` below 0,
    and where there is no such bias.
    """
    _check("balance_experts", rate=rate)

    def label(params: Any) -> Any:
        biases = balance_biases(params)
        if not any(jax.tree.leaves(biases)):
            raise Error(
                "balance_experts moves the biases of a mixture of experts, and there is none to "
                "train: give TransformerConfig(experts=..., balance_bias=True), or leave it out."
            )
        return jax.tree.map(lambda bias: BALANCE if bias else "train", biases)

    return optax.partition({BALANCE: optax.sign_sgd(rate), "train": optimizer}, label)


def update_every(
    steps: int, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Applies the optimizer in every `steps`-th step only.

    Of the generator in a Wasserstein GAN, `steps` is n_critic, the critic steps for each of the
    generator's: the critic is updated in every training step, each time on another batch.
    """
    if steps < 1:
        raise Error(f"update_every takes 1 step or more, got {steps}.")
    return optax.conditionally_mask(optimizer, lambda step: (step + 1) % steps == 0)


@dataclass(frozen=True)
class Stage:
    """A stage of `stages`: its steps, its optimizer, and a pattern of what it trains."""

    steps: int
    optimizer: optax.GradientTransformation
    train: str = ""  # a regular expression, searched in paths like "head/kernel"; all by default


def stages(*parts: Stage) -> optax.GradientTransformation:
    """Gradual unfreezing (Howard and Ruder, 2018), for fine-tuning: one stage after another.

    Each stage trains the parameters whose path matches its pattern, and leaves the others as they
    are. Its optimizer begins with the stage: schedules count from its first step, and there is
    optimizer state only for what it trains. The last stage goes on after its steps. The backward
    pass is that of all parameters in every stage; `jdl.freeze` saves it too, for a whole run.
    An optimizer does not see BatchNorm's running statistics: these change in every stage, and a
    layer that a stage leaves normalizes by the batch. `jdl.freeze(objective, "BatchNorm")` keeps
    them, and the layers' parameters, for the whole run. Raises `Error` where a stage has no
    steps or trains nothing.
    """
    for n, part in enumerate(parts, 1):
        if part.steps < 1:
            raise Error(f"Stage {n} of stages must have 1 step or more, not {part.steps}.")
    if not parts:
        raise Error("stages needs at least one Stage.")
    optimizers = [_only(part.train, part.optimizer) for part in parts]
    ends = jnp.asarray(list(accumulate(part.steps for part in parts)))

    def init(params: Any) -> tuple[jax.Array, list[Any]]:
        return jnp.zeros((), jnp.int32), [optimizer.init(params) for optimizer in optimizers]

    def update(grads: Any, state: Any, params: Any = None, **given: Any) -> tuple[Any, Any]:
        step, states = state

        def branch(n: int) -> Callable[[], tuple[Any, list[Any]]]:
            def update_stage() -> tuple[Any, list[Any]]:
                updates, new = optimizers[n].update(grads, states[n], params, **given)
                return updates, [*states[:n], new, *states[n + 1 :]]

            return update_stage

        stage = (step >= ends[:-1]).sum()
        updates, states = jax.lax.switch(stage, [branch(n) for n in range(len(parts))])
        return updates, (step + 1, states)

    return optax.GradientTransformationExtraArgs(init, update)


def _only(
    pattern: str, optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of the parameters whose path matches; the others are left as they are."""

    def label(params: Any) -> Any:
        trained = set(matching(pattern, by_path(params), "Stage(train)"))
        return _map_paths(lambda path: "train" if path in trained else "keep", params)

    return optax.partition({"train": optimizer, "keep": optax.set_to_zero()}, label)


def layer_rates(
    optimizer: optax.GradientTransformation, rates: Mapping[str, float]
) -> optax.GradientTransformation:
    """Discriminative learning rates (Howard and Ruder, 2018): layers with rates of their own.

    `rates` has factors by patterns: the update of a parameter is multiplied by the factor of the
    first pattern that matches its path, as `re.search` does, or else by 1. Weight decay is scaled
    alike. Raises `Error` where a pattern matches nothing.
    """
    for factor in rates.values():
        _check("layer_rates", factor=factor)

    def factors(params: Any) -> Any:
        found: dict[str, float] = {}
        for pattern, rate in rates.items():
            for path in matching(pattern, by_path(params), "layer_rates"):
                found.setdefault(path, rate)
        return _map_paths(lambda path: found.get(path, 1.0), params)

    return optax.chain(optimizer, _scale_by(factors))


def layerwise_decay(
    optimizer: optax.GradientTransformation,
    decay: float,
    layers: str = r"block_(\d+)",
    first: str = "token|patches|positions",
) -> optax.GradientTransformation:
    """Layer-wise learning rate decay (Clark et al., 2020): the deeper, the smaller the rate.

    Of N layers, layer n from 0 has `decay` ** (N - n) times the rate, parameters that match `first`
    (embeddings) `decay` ** (N + 1), and all others, such as a head, the whole rate. `layers` is a
    regular expression with the layer's number as its group, searched in paths like
    "stack/block_0/feed_forward/in/kernel". Raises `Error` where it matches nothing.
    """
    _check("layerwise_decay", decay=decay)

    def factors(params: Any) -> Any:
        paths = matching(layers, by_path(params), "layerwise_decay")
        blocks = map(re.compile(layers).search, paths)
        depth = max(int(match[1]) + 1 for match in blocks if match)

        def factor(path: str) -> float:
            if match := re.search(layers, path):
                return decay ** (depth - int(match[1]))
            return decay ** (depth + 1) if re.search(first, path) else 1.0

        return _map_paths(factor, params)

    return optax.chain(optimizer, _scale_by(factors))


def _scale_by(factors: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Multiplies each update by its factor, of a tree that `factors` makes for the parameters."""

    def init(params: Any) -> optax.EmptyState:
        factors(params)  # refuses wrong patterns at once
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u, f: u * f, updates, factors(updates)), state

    return optax.GradientTransformation(init, update)


def _check(function: str, **numbers: Any) -> None:
    """Raises `Error` for numbers that the function's arguments cannot be; see `RANGES`."""
    for name, number in numbers.items():
        least, end, must = RANGES[name]
        if isinstance(number, jax.core.Tracer) or (name in SCHEDULES and callable(number)):
            continue  # of a study by vmap, or a function of the step
        known = isinstance(number, int | float | np.number | np.ndarray | jax.Array)
        if isinstance(number, bool) or np.ndim(number) or not known or not (least <= number < end):
            raise Error(f"{name} of {function} must be {must}, not {number!r}.")


def _map_paths(function: Callable[[str], Any], params: Any) -> Any:
    """A tree of what the function gives for the path of each parameter."""
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_name(path)), params)
