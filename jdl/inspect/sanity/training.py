"""Sanity checks of the training: the initial loss, one batch overfitted, gradients, activations."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdl.inspect.sanity.cut_off import CutOff
from jdl.inspect.sanity.finding import Finding
from jdl.inspect.sanity.outputs import has_far_targets
from jdl.inspect.sanity.subject import Subject, by_name, same_params
from jdl.inspect.size import REST, layer_of, layer_of_scope
from jdl.objectives.adversarial import Adversarial
from jdl.objectives.classification import BinaryClassification, Classification
from jdl.objectives.clustering import DeepClustering
from jdl.objectives.language_modelling import MaskedToken, NextToken
from jdl.paths import by_path
from jdl.train.nan_trace import nan_trace

FELL = 0.5  # of the first loss: a batch of known chance that is overfitted gets below it
FALLS = 0.95  # of the first loss: above it, nothing was learned
HUGE = 100  # times the loss of chance: a first loss
EXPLODES = 1e3  # times the largest input, of activations; times the loss, of gradients
VANISHES = 1e-5  # of the largest layer's gradient
NO_DATA = "the batches come from an environment, not from a dataset"
NO_GRADIENTS = "this learner has no gradients of a batch's loss"
DEAD, MANY_DEAD = 0.9, 0.5  # shares of a ReLU layer's units


def chance(subject: Subject) -> tuple[float, str] | None:
    """The loss of a guess among equally likely classes, and its formula; None if not known."""
    objective = subject.objective
    if isinstance(objective, BinaryClassification):
        usual = objective.element_loss is optax.sigmoid_binary_cross_entropy
        return (math.log(2), "log 2") if usual else None
    if isinstance(objective, Classification) and objective.row_loss is not None:
        return None
    if not isinstance(objective, Classification | NextToken | MaskedToken):
        return None
    outputs = list(subject.evaluated_at_start.outputs.values())
    if len(outputs) != 1:
        return None
    classes = outputs[0].shape[-1]
    return math.log(classes), f"log {classes}"


def check_first_loss(subject: Subject) -> Finding:
    """The loss before the first update beside that of a guess (Karpathy, 2019)."""
    name = "initial loss"
    if not subject.has_rows or not (subject.losses or subject.trouble):
        return Finding(name, "n/a", "this learner has no loss of a batch of data")
    if not math.isfinite(first := (subject.losses or [math.nan])[0]):
        return Finding(name, "wrong", f"it is {first}", _trace(subject))
    guess = chance(subject)
    if guess is None:
        return Finding(name, "ok", f"{first:.4g}")
    text = f"{first:.4g}; chance gives {guess[1]} = {guess[0]:.4g}"
    if first > 2 * guess[0] + 1:
        advice = "The outputs are too large at the start: smaller initial weights, or standardize x"
        if first < HUGE * guess[0] and subject.losses[-1] < FELL * guess[0]:
            advice += ". The training gets over it, here on one batch"
            return Finding(name, "note", text, advice)
        return Finding(name, "wrong", text, advice)
    if first < FELL * guess[0]:
        advice = "Before any training it knows the labels: are they in the inputs? (Or pretrained.)"
        return Finding(name, "note", text, advice)
    return Finding(name, "ok", text)


def check_overfit(subject: Subject) -> Finding:
    """One batch, overfitted: its loss must fall strongly."""
    name, losses = "overfit one batch", subject.losses
    if subject.trouble:
        return Finding(name, "wrong", subject.trouble, _trace(subject))
    if int(subject.last.step) <= subject.learning_starts > 0:
        text = f"it learns from step {subject.learning_starts} on, after the steps of this check"
        return Finding(name, "n/a", text)
    if not jax.tree.leaves(subject.start.params):
        return Finding(name, "n/a", "there are no parameters")
    if same_params(subject.start, subject.last):
        advice = (
            "Is the learning rate 0? Is everything frozen, or masked in the optimizer? (Gradient "
            "accumulation over more steps: --check-steps)"
        )
        return Finding(name, "wrong", f"no parameter changed in {len(losses)} steps", advice)
    if not subject.has_rows or isinstance(subject.objective, Adversarial):
        kind = "a GAN's two players" if subject.has_rows else "reinforcement learning"
        text = f"the parameters change and stay finite; the losses of {kind} need not fall"
        return Finding(name, "ok", text)
    if not losses:
        return Finding(name, "n/a", "the learner's step gives no metric of the name loss")
    first, last = losses[0], float(np.mean(losses[-5:]))
    text = f"in {len(losses)} steps on one batch the loss went from {first:.4g} to {last:.4g}"
    if last > first - (1 - FALLS) * abs(first):
        if max(losses) > first + abs(first) / 2:
            advice = f"It rose to {max(losses):.4g}: the learning rate is too large; try --find-lr"
        elif has_far_targets(subject):
            return Finding(name, "n/a", f"{text}, as the targets are far away: see output scale")
        elif broken := subject.cut_off.broken:
            advice = f"No gradient reaches {_some(broken)}: see unused parameters"
        else:
            advice = "Learning rate too small (try --find-lr), or the model cut off from the loss"
        return Finding(name, "wrong", text, advice)
    guess = chance(subject)
    if guess and last > FELL * first:
        advice = "Slow: a warmup, a small rate (try --find-lr), or strong regularization"
        return Finding(name, "note", text, advice)
    return Finding(name, "ok", text)


def _trace(subject: Subject) -> str:
    """Where a step from the last finite state is not finite."""
    return nan_trace(subject.learner, subject.last, subject.batch)


@dataclass(frozen=True)
class LayerGradient:
    """A layer's gradient: its norm and share of zeros, and its update relative to its weights."""

    layer: str
    norm: float
    zeros: float
    update_ratio: float  # about 1e-3 is usual; NaN where all weights are 0


def layer_gradients(subject: Subject) -> list[LayerGradient]:
    """The gradients of the layers at the early state, and what the optimizer makes of them."""
    if not subject.learner.has_grads:
        return []
    params = by_path(subject.early.params)
    grads, after = subject.gradients, by_path(subject.after.params)
    layers: dict[str, list[str]] = {}
    for path in params:
        layers.setdefault(layer_of(path), []).append(path)
    return [
        _layer_gradient(name, layers[name], params, grads, after)
        for name in sorted(layers, key=_by_number)
    ]


def _by_number(layer: str) -> list[str | int]:
    """A sort key by which Dense_2 comes before Dense_10."""
    return [int(part) if n % 2 else part for n, part in enumerate(re.split(r"([0-9]+)", layer))]


def _layer_gradient(
    name: str, paths: list[str], params: Any, grads: Any, after: Any
) -> LayerGradient:
    def norm(arrays: list[Any]) -> float:
        return math.sqrt(sum(float(np.square(np.asarray(a, np.float64)).sum()) for a in arrays))

    zeros = sum(int((np.asarray(grads[path]) == 0).sum()) for path in paths)
    changes = [np.asarray(after[p], np.float64) - np.asarray(params[p]) for p in paths]
    weight = norm([params[path] for path in paths])
    return LayerGradient(
        name,
        norm([grads[path] for path in paths]),
        zeros / max(1, sum(params[path].size for path in paths)),
        norm(changes) / weight if weight else float("nan"),
    )


def check_gradients(subject: Subject) -> Finding:
    """Exploding gradients and vanishing gradients (Bengio et al., 1994), by layer."""
    name, layers = "gradient norms", layer_gradients(subject)
    if not layers:
        return Finding(name, "n/a", NO_GRADIENTS)
    norms = {layer.layer: layer.norm for layer in layers}
    most, least = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
    largest = norms[most]
    text = f"norms by layer from {norms[least]:.2g} ({least}) to {largest:.2g} ({most})"
    # Zero is for the next check: a layer whose gradient is exactly 0 is cut off.
    tiny = [name for name, norm in norms.items() if 0 < norm < VANISHES * largest]
    guess = chance(subject)
    usual = max(1.0, guess[0] if guess else abs(subject.losses[0]))
    if not largest < EXPLODES * usual:
        advice = "Exploding gradients: smaller initial weights, normalization layers, clipping"
        return Finding(name, "wrong", text, advice)
    if tiny:
        advice = f"Vanishing in {', '.join(tiny[:3])}: ReLU for sigmoid, residuals, normalization"
        return Finding(name, "wrong", text, advice)
    return Finding(name, "ok", text)


def check_parameters(subject: Subject) -> Finding:
    """Whether every parameter gets a gradient, at the start or soon after, and an update."""
    name = "unused parameters"
    if not subject.learner.has_grads:
        return Finding(name, "n/a", NO_GRADIENTS)
    if same_params(subject.start, subject.last):
        return Finding(name, "n/a", "no parameter changed: see overfit one batch")
    dead = subject.without_gradient
    if not dead:
        before, after = by_name(subject.start.params), by_name(subject.last.params)
        # Of one update alone, those without a gradient at the start need not have changed.
        one = same_params(subject.early, subject.last)
        due = subject.gradients_at_start if one else None
        still = [
            path
            for path in before
            if np.array_equal(before[path], after[path])
            and (due is None or np.any(np.asarray(due[path])))
        ]
        if still and len(still) < len(before):
            text = f"the optimizer does not change {_some(still)}"
            return Finding(name, "note", text, "Its mask, or a rate of 0 for them?")
        return Finding(name, "ok", f"each of the {len(before)} arrays gets a gradient")
    if isinstance(subject.objective, Adversarial | DeepClustering):
        advice = (
            "So it is of the last bias of a Wasserstein critic, and of centers before clustering"
        )
        return Finding(name, "note", f"no gradient reaches {_some(dead)}", advice)
    return _without_gradient(name, subject.cut_off)


def _without_gradient(name: str, cut: CutOff) -> Finding:
    """Each cause for which parameters get no gradient, with what to do."""
    behind, unused = "no gradient reaches", "never used:"
    causes = [
        (
            behind,
            cut.between_zeros,
            f"It is 0 by symmetry, as all weights of {_some(cut.zeros)} are 0: begin with random "
            "ones, such as nn.initializers.lecun_normal()",
        ),
        (
            behind,
            cut.dead,
            "Dead ReLUs, which are 0 for all rows, let none through: see dead ReLUs",
        ),
        (
            behind,
            cut.other,
            "The loss depends on them: a saturated sigmoid, an argmax, a comparison or rounding "
            "cuts them off",
        ),
        (unused, cut.unused, "The loss does not depend on them: remove them, or use them"),
        (
            behind,
            cut.stopped,
            "A stop_gradient cuts them off: as it should be, if they are meant to stay frozen",
        ),
    ]
    found = [cause for cause in causes if cause[1]]
    text = "; ".join(f"{verb} {_some(paths)}" for verb, paths, _ in found)
    advice = "; ".join(advice for *_, advice in found)
    return Finding(name, "wrong" if cut.broken or cut.unused else "note", text, advice)


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(paths[:5]) + more


def _module(subject: Subject, scope: str) -> str:
    """The module of a scope like "/MLP/Dense_0/jit(relu)/"."""
    layer = layer_of_scope(scope, set(map(layer_of, by_path(subject.early.params))))
    if layer != REST:
        return layer
    return next((part for part in scope.split("/") if part and "(" not in part), "the model")


def check_relus(subject: Subject) -> Finding:
    """Dead ReLUs, the dying ReLU problem (Lu et al., 2019): units that are 0 for all rows."""
    name = "dead ReLUs"
    if not subject.has_rows:
        return Finding(name, "n/a", NO_DATA)
    found = subject.activations
    if not found.relus:
        return Finding(name, "n/a", "no ReLU is seen")
    worst = max(range(len(found.relus)), key=found.dead.__getitem__)
    text = (
        f"at most {found.dead[worst]:.0%} of a layer's units are 0 for all rows (ReLU {worst + 1} "
        f"of {len(found.relus)}, in {_module(subject, found.relus[worst])})"
    )
    if found.dead[worst] >= MANY_DEAD:
        if subject.cut_off.between_zeros:
            advice = "Weights that are all 0 give zeros on: see unused parameters"
        else:
            advice = "Dying ReLU: a smaller learning rate, other initial biases, leaky ReLU"
        return Finding(name, "wrong" if found.dead[worst] >= DEAD else "note", text, advice)
    return Finding(name, "ok", f"{text}; zeros: {min(found.zeros):.0%} to {max(found.zeros):.0%}")


def check_activations(subject: Subject) -> Finding:
    """Activations that explode from layer to layer, by what products and convolutions give."""
    name = "activation scale"
    if not subject.has_rows:
        return Finding(name, "n/a", NO_DATA)
    sizes = subject.activations.sizes
    if not sizes:
        return Finding(name, "n/a", "no matrix product or convolution is seen")
    most = max(range(len(sizes)), key=sizes.__getitem__)
    text = (
        f"root mean square of the layers' products from {min(sizes):.2g} to {sizes[most]:.2g} "
        f"({_module(subject, subject.activations.products[most])})"
    )
    columns = subject.batch.values()
    inputs = [float(jnp.abs(c).max()) for c in columns if jnp.issubdtype(c.dtype, jnp.floating)]
    if not sizes[most] < EXPLODES * max([1.0, *inputs]):
        advice = "Exploding: smaller initial weights (variance 1 / inputs), or normalization layers"
        return Finding(name, "wrong", text, advice)
    return Finding(name, "ok", text)
