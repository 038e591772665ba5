"""Deep mutual learning: the loss, whose gradients are whose, a run and what it hands over.

Seen to fail: with gradients through the other's logits; with one key for both; with each taught by
itself; with the peer handed over and predicted by.
"""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import optax
import pytest
from harness import digest
from test_distil import IMAGES, KEY, TOKENS, bigram, cnn, numpy_loss

import jdl
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.transformer import TransformerConfig
from jdl.objectives import classify, next_token, regress
from jdl.objectives.distil import softened_divergence
from jdl.objectives.networks import of_network
from jdl.objectives.override import merge
from jdl.weights.load import arrays_by_path

ALONE, PEER = classify(cnn(4), row_weights="weight"), cnn(6)
TEMPERATURE, WEIGHT = 3.0, 0.7
MUTUAL = jdl.mutual(ALONE, PEER, TEMPERATURE, WEIGHT)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
def test_the_loss_is_the_sum_of_both_by_numpy(train):
    """Each with the other's logits, over weighted real rows; state and metrics are of each."""
    variables = jax.jit(MUTUAL.init)(KEY, IMAGES)
    both = [of_network(variables, name) for name in ("student", "peer")]
    equal(both[0], jax.jit(ALONE.init)(KEY, IMAGES))
    output = jax.jit(MUTUAL.loss, static_argnums=3)(variables, IMAGES, KEY, train)
    objectives = ALONE, classify(PEER, row_weights="weight")
    keys = KEY, jdl.stream(KEY, "peer")
    found = [o.outputs(v, IMAGES, k, train) for o, v, k in zip(objectives, both, keys, strict=True)]
    logits = [out for out, _ in found]
    weights = np.asarray(IMAGES["weight"]) * np.asarray(IMAGES["mask"])
    by_numpy = [
        numpy_loss(*pair, IMAGES["y"], weights, TEMPERATURE, WEIGHT)
        for pair in (logits, logits[::-1])
    ]
    expected = [sum(loss for loss, _ in by_numpy), *(divergence for _, divergence in by_numpy)]
    scores = [output.metrics[name] for name in ("distillation", "peer/distillation")]
    assert [float(mean.value()) for mean in (output.loss, *scores)] == pytest.approx(
        expected, rel=1e-4
    )
    assert output.metrics["accuracy"].value() == (logits[0].argmax(-1) == IMAGES["y"])[:4].mean()
    assert "peer/accuracy" in output.metrics
    for name, (_, state) in zip(("student", "peer"), found, strict=True):
        found = of_network(output.model_state, name)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, state)
    equal(MUTUAL.predict(variables, IMAGES), ALONE.predict(both[0], IMAGES))


@pytest.mark.slow
def test_each_learns_from_the_other_and_through_its_own_logits_alone():
    """The student's gradient is that beside the peer's logits as they are given."""
    objective = jdl.mutual(next_token(bigram()), bigram(), 2.0, 0.4)
    objective.check(jax.eval_shape(lambda: TOKENS), {})
    variables = objective.init(jax.random.key(0), TOKENS)  # KEY is used up in test_distil

    def total(params):
        return objective.loss({"params": params}, TOKENS, KEY, True).loss.value()

    def beside(name, other, params):
        seen = TOKENS["x"][:, :-1]
        logits, given = params[name]["table"][seen], variables["params"][other]["table"][seen]
        own = {"params": params[name]}
        taught = 0.6 * next_token(bigram()).loss(own, TOKENS, KEY, True).loss.value()
        weights = next_token(bigram()).loss_weights(logits, TOKENS)
        return taught + 0.4 * jdl.Mean.of(softened_divergence(logits, given, 2.0), weights).value()

    found = jax.grad(total)(variables["params"])
    for name, other in (("student", "peer"), ("peer", "student")):
        expected = jax.grad(partial(beside, name, other))(variables["params"])[name]
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found[name], expected)
    assert isinstance(objective, jdl.DecodesTokens)


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "mutual"
    steps: int = 4
    elastic: int = 2


def run(c):
    """Two MLPs, the peer's first layer frozen, and an average of both."""
    data = jdl.data.arrays(**{name: np.asarray(IMAGES[name]) for name in ("x", "y")})
    objective = jdl.freeze(jdl.mutual(classify(MLP(10, (4,))), MLP(10, (6,))), "peer/Dense_0")
    learner = jdl.ema(jdl.descent(objective, optax.adamw(1e-2)), 0.5)
    return jdl.Run(c, learner, data.shuffled(4, c.seed), test=data.batches(4))


@pytest.mark.slow
def test_a_run_resumes_elsewhere_to_the_bit_and_hands_over_the_student(tmp_path):
    options = {"quiet": True, "log_every": 2, "eval_every": 0, "save_every": 2}
    whole = jdl.fit(run(Config()), jdl.Options(root=tmp_path / "whole", devices=1, **options))
    with pytest.raises(jdl.train.preemption.PausedError):
        jdl.fit(run(Config()), jdl.Options(root=tmp_path / "parts", devices=1, until=2, **options))
    parts = jdl.fit(run(Config()), jdl.Options(root=tmp_path / "parts", devices=2, **options))
    assert digest(parts) == digest(whole)

    learner = run(Config()).learner
    variables = learner.eval_variables(whole.state)
    student, merged = merge(learner.objective, variables)
    assert merged["params"].keys() == {"Dense_0", "Dense_1"}
    equal(learner.objective.predict(variables, IMAGES), student.predict(merged, IMAGES))
    np.savez(tmp_path / "weights.npz", **arrays_by_path(variables))
    weights = jdl.weights.load(tmp_path / "weights.npz")
    alone = jdl.pretrained(
        MLP(10, (4,)), weights, rename={"^params/student/": "params/"}, skip="peer/"
    )
    equal(classify(alone).init(KEY, IMAGES)["params"], merged["params"])


def test_batch_norm_of_one_is_frozen_by_its_path():
    objective = jdl.freeze(MUTUAL, "^peer/(Conv|BatchNorm)")
    variables = jax.jit(objective.init)(KEY, IMAGES)
    assert variables["params"]["peer"].keys() == {"head"}
    state = jax.jit(objective.loss, static_argnums=3)(variables, IMAGES, KEY, True).model_state
    equal(state["batch_stats"]["peer"], variables["batch_stats"]["peer"])
    moved = state["batch_stats"]["student"]["BatchNorm_0"]["mean"]
    assert (moved != variables["batch_stats"]["student"]["BatchNorm_0"]["mean"]).any()


def of_experts():
    model = GPT(13, TransformerConfig(width=8, depth=1, heads=2, experts=2))
    objective = jdl.mutual(next_token(model), bigram())
    return objective.loss(objective.init(KEY, TOKENS), TOKENS, KEY, True)


def test_a_mixture_of_experts_keeps_its_load_balancing_loss():
    metrics = jax.eval_shape(of_experts).metrics
    assert {"balance", "perplexity", "peer/perplexity"} < metrics.keys()
    assert "peer/balance" not in metrics


IN_CHUNKS = next_token(GPT(13, TransformerConfig(width=8, depth=1, heads=2)), chunk=2)
REFUSED = {
    "mutual compares logits, .* not Regression": lambda: jdl.mutual(regress(MLP(1)), MLP(1)),
    "mutual compares all logits at once": lambda: jdl.mutual(IN_CHUNKS, bigram()),
    r"not Objective. Others come afterwards: jdl.freeze\(jdl.mutual": lambda: jdl.mutual(
        jdl.freeze(ALONE, "Conv"), PEER
    ),
    "distil and mutual do not go together, nor twice": lambda: jdl.mutual(MUTUAL, PEER),
    "temperature must be": lambda: jdl.mutual(ALONE, PEER, 0.0),
    "temperature must be a number above 0, not '2'": lambda: jdl.mutual(ALONE, PEER, "2"),
    "weight, the share of the divergence": lambda: jdl.mutual(ALONE, PEER, 1.0, 1.5),
    r"peer, CNN, gives logits of shape \(6, 9\), and the student, CNN, of shape \(6, 10\)": (
        lambda: jdl.mutual(ALONE, cnn(6, 9)).check(jax.eval_shape(lambda: IMAGES), {})
    ),
    "peer must be a model, not the objective Classification": lambda: jdl.mutual(ALONE, ALONE),
    "peer must be a model, such as .*, not None": lambda: jdl.mutual(ALONE, None),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_teach_or_be_taught_is_refused(message):
    with pytest.raises(jdl.Error, match=message):
        REFUSED[message]()
