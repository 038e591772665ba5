"""Knowledge distillation: the loss, whose variables are whose, and what is refused.

Seen to fail: without T^2; with the two sides of the divergence exchanged; with the masks of rows
alone, for tokens; with a teacher in training mode, one that sees the last token, and another key
for the student's first parameters; hints without the weights of rows, and with the projection
doubled; a column of logits in the order of the source, or beside augmented rows, also of the
members of a population; features of layers within nn.remat.
"""

import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import digest
from scipy.special import log_softmax

import jdl
from jdl.inspect.restore import restore
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.rnn import RNN
from jdl.models.transformer import TransformerConfig
from jdl.objectives import classify, next_token, regress, teacher_logits
from jdl.objectives.pretrained_model import Weights
from jdl.train.check import check_run
from jdl.weights.load import arrays_by_path

CLASSES, ROWS = 10, 6
KEY = jax.random.key(0)
IMAGES = {
    "x": jax.random.normal(jax.random.key(1), (ROWS, 8, 8, 1)),
    "y": jnp.arange(ROWS, dtype=jnp.int32),
    "mask": jnp.arange(ROWS) < 4,
    "weight": jnp.arange(ROWS) / 2,
}
TOKENS = {
    "x": jax.random.randint(jax.random.key(1), (ROWS, 6), 0, 13),
    "length": 6 - jnp.arange(ROWS) % 3,
    "loss_mask": jnp.arange(6)[None] >= jnp.arange(ROWS)[:, None] % 2 + 2,
}


def cnn(width, outputs=CLASSES):
    return CNN(outputs, blocks=((width, 1),), dense=(), batch_norm=True, dropout=0.2)


def trained(model, x=IMAGES["x"]):
    """The model with weights, BatchNorm's statistics included, that no other model has."""
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY, x)
    arrays = jax.tree.map(lambda s: draw.normal(1, 0.3, s.shape).astype(s.dtype), shapes)
    return jdl.pretrained(model, Weights(lambda: (arrays_by_path(arrays), "0" * 64, "given")))


def bigram():
    """The logits of the next token, by the one before alone."""
    return jdl.Model(
        lambda key: {"table": jax.random.normal(key, (13, 13))},
        lambda params, x: params["table"][x],
    )


def numpy_loss(student, teacher, labels, weights, temperature, weight):
    """The loss, and T^2 KL, by NumPy in float64."""
    student, teacher = (np.asarray(logits, np.float64) for logits in (student, teacher))
    own = -np.take_along_axis(log_softmax(student, -1), np.asarray(labels)[..., None], -1)[..., 0]
    p, q = (log_softmax(logits / temperature, -1) for logits in (teacher, student))
    divergence = temperature**2 * (np.exp(p) * (p - q)).sum(-1)
    mixed = (1 - weight) * own + weight * divergence
    return [np.average(losses, weights=weights) for losses in (mixed, divergence)]


@pytest.mark.parametrize("train", [True, False])
def test_the_loss_of_classes_is_numpys_over_weighted_real_rows(train):
    """State, metrics and predictions are those of the student alone."""
    teacher, alone = trained(cnn(8)), classify(cnn(4), row_weights="weight")
    objective = jdl.distil(alone, teacher, temperature=3.0, weight=0.7)
    variables = jax.jit(objective.init)(KEY, IMAGES)
    of_student = {name: v for name, v in variables.items() if name != "teacher"}
    jax.tree.map(np.testing.assert_array_equal, of_student, jax.jit(alone.init)(KEY, IMAGES))
    output = jax.jit(objective.loss, static_argnums=3)(variables, IMAGES, KEY, train)
    own = jax.jit(alone.loss, static_argnums=3)(of_student, IMAGES, KEY, train)
    logits = alone.outputs(of_student, IMAGES, KEY, train)[0]
    given = teacher.model.apply(variables["teacher"], IMAGES["x"])
    weights = np.asarray(IMAGES["weight"]) * np.asarray(IMAGES["mask"])
    loss, divergence = numpy_loss(logits, given, IMAGES["y"], weights, 3.0, 0.7)
    assert float(output.loss.value()) == pytest.approx(loss, rel=1e-5)
    assert float(output.metrics["distillation"].value()) == pytest.approx(divergence, rel=1e-5)
    assert output.metrics.keys() - own.metrics.keys() == {"distillation"}
    state = output.model_state
    jax.tree.map(np.testing.assert_array_equal, state["teacher"], variables["teacher"])
    jax.tree.map(
        np.testing.assert_array_equal, state["batch_stats"], own.model_state["batch_stats"]
    )
    predicted, expected = (objective.predict(variables, IMAGES), alone.predict(of_student, IMAGES))
    jax.tree.map(np.testing.assert_array_equal, predicted, expected)


def test_the_loss_of_tokens_is_numpys_over_those_that_count():
    teacher, alone = trained(bigram(), TOKENS["x"]), next_token(bigram())
    objective = jdl.distil(alone, teacher, temperature=2.0, weight=0.4)
    objective.check(jax.eval_shape(lambda: TOKENS), {})
    variables = jax.jit(objective.init)(KEY, TOKENS)
    output = jax.jit(objective.loss, static_argnums=3)(variables, TOKENS, KEY, True)
    seen = TOKENS["x"][:, :-1]
    student, given = (found["params"]["table"][seen] for found in (variables, variables["teacher"]))
    real = np.arange(6)[None] < np.asarray(TOKENS["length"])[:, None]
    weights = (real & np.asarray(TOKENS["loss_mask"]))[:, 1:]
    loss, divergence = numpy_loss(student, given, TOKENS["x"][:, 1:], weights, 2.0, 0.4)
    assert float(output.loss.value()) == pytest.approx(loss, rel=1e-5)
    assert float(output.metrics["distillation"].value()) == pytest.approx(divergence, rel=1e-5)
    assert isinstance(objective, jdl.DecodesTokens)


@pytest.mark.parametrize(
    "layers", [("Conv_0", "Conv_0"), ("BatchNorm_0", "BatchNorm_0"), ("head", "head")]
)
def test_features_learn_the_teachers_by_a_projection(layers):
    """FitNets: the mean squared error of real rows, by NumPy; the weights of rows count."""
    of_student, of_teacher = layers
    teacher, alone = trained(cnn(8)), classify(cnn(4), row_weights="weight")
    objective = jdl.distil(alone, teacher, weight=0.5, features=dict([layers]), feature_weight=3.0)
    variables = jax.jit(objective.init)(KEY, IMAGES)
    plain = jdl.distil(alone, teacher, weight=0.5)
    kernels = variables["params"]["feature_projections"][of_student]["kernel"]
    rest = {name: v for name, v in variables["params"].items() if name != "feature_projections"}
    without = {**variables, "params": rest}
    jax.tree.map(np.testing.assert_array_equal, without, jax.jit(plain.init)(KEY, IMAGES))

    def features(model, variables, layer):
        state = {name: variables[name] for name in ("params", "batch_stats")}
        return model.apply(state, IMAGES["x"], capture_intermediates=True)[1]["intermediates"][
            layer
        ]["__call__"][0]

    x = features(alone.model, without, of_student)
    y = features(teacher.model, variables["teacher"], of_teacher)
    errors = np.asarray(jnp.square(x @ kernels - y).reshape(ROWS, -1).mean(1))
    weights = np.asarray(IMAGES["weight"]) * np.asarray(IMAGES["mask"])
    expected = np.average(errors, weights=weights)
    loss = jax.jit(objective.loss, static_argnums=3)
    output = loss(variables, IMAGES, KEY, False)
    assert float(output.metrics["features"].value()) == pytest.approx(expected, rel=1e-5)
    before = float(plain.loss(without, IMAGES, KEY, False).loss.value())
    assert float(output.loss.value()) == pytest.approx(before + 3 * expected, rel=1e-5)
    found, expected = objective.predict(variables, IMAGES), alone.predict(without, IMAGES)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("adapt", [jdl.lora, jdl.ia3, jdl.freeze])
def test_projections_of_features_are_trained_whatever_else_is(adapt):
    hints = {"Dense_0": "Dense_0"}
    teacher, student = trained(MLP(CLASSES, (8,))), classify(MLP(CLASSES, (4,)))
    objective = adapt(jdl.distil(student, teacher, features=hints), "Dense_[01].*kernel")
    projections = objective.init(KEY, IMAGES)["params"]["feature_projections"]
    assert projections["Dense_0"]["kernel"].shape == (4, 8)


@pytest.mark.slow
def test_a_column_of_logits_teaches_as_the_teacher_does():
    """Computed once, for a split of the data in an order of its own."""
    rows = jdl.data.arrays(**{name: np.asarray(IMAGES[name]) for name in ("x", "y")})
    data, teacher = rows.select([4, 1, 0, 5]), trained(cnn(8))
    given = teacher_logits(teacher, data.batches(3))
    with pytest.raises(jdl.Error, match="The batches are shuffled"):
        teacher_logits(teacher, data.shuffled(2, 0))
    with pytest.raises(jdl.Error, match="rows more than once"):
        data.select([0, 0]).with_columns(given=given[:2])
    data = data.with_columns(given=given)
    assert data.fingerprint != data.select([1, 0, 2, 3]).fingerprint != rows.fingerprint
    students = jdl.distil(classify(cnn(4)), teacher), jdl.distil(classify(cnn(4)), "given")
    results = []
    for objective in students:
        objective.check(data.shuffled(2, 0).spec, {})
        learner = jdl.descent(objective, optax.sgd(0.1))
        state = jax.jit(learner.init)(KEY, data.batches(4)[0])
        for i in range(3):
            state, metrics = jax.jit(learner.step)(state, data.shuffled(2, 0)[i])
        results.append((state.params, metrics["distillation"].value()))
    assert "teacher" not in state.model_state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)
    for i in range(2):
        batch = data.shuffled(2, 0)[i]
        places = [[4, 1, 0, 5].index(row) for row in batch["id"]]
        np.testing.assert_array_equal(batch["given"], given[places])


def test_a_column_of_logits_is_of_rows_that_are_not_augmented():
    """Whatever is around the student; transforms of all rows change what the teacher saw too."""
    data = jdl.data.arrays(x=np.asarray(IMAGES["x"]), y=np.arange(ROWS))
    data = data.map(jdl.data.normalize(0.0, 2.0)).with_columns(given=np.zeros((ROWS, CLASSES)))
    mixup = jdl.data.mixup(classes=CLASSES)

    def check(teacher, *augment, members=1):
        objective = jdl.freeze(jdl.distil(classify(cnn(4)), teacher), "Conv_0")
        learner = jdl.ema(jdl.descent(objective, optax.sgd(0.1)))
        learner = jdl.population(learner, range(members)) if members > 1 else learner
        check_run(jdl.Run(jdl.Config("taught"), learner, data.shuffled(4, 0, *augment)))

    check("given")
    check(trained(cnn(8)), mixup)
    for members in (1, 2):
        with pytest.raises(jdl.Error, match="The column given was computed once for each row"):
            check("given", mixup, members=members)


@pytest.mark.slow
def test_a_column_of_logits_of_tokens_teaches_as_a_causal_teacher_does():
    """`teacher_logits` has those after the last token too, which nothing is learned from."""
    tokens = np.asarray(TOKENS["x"])
    teacher = trained(GPT(13, TransformerConfig(width=8, depth=1, heads=2)), tokens)
    data = jdl.data.arrays(x=tokens)
    data = data.with_columns(given=teacher_logits(teacher, data.batches(3)))
    outputs = []
    for objective in (jdl.distil(next_token(bigram()), given) for given in (teacher, "given")):
        objective.check(data.batches(ROWS).spec, {})
        batch, key = data.batches(ROWS)[0], jax.random.key(0)
        variables = objective.init(jax.random.clone(key), batch)
        outputs.append(objective.loss(variables, batch, key, True))
    pairs = [[out.loss.value(), out.metrics["distillation"].value()] for out in outputs]
    np.testing.assert_allclose(*pairs, rtol=1e-5)


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "student"
    steps: int = 4


def run(c, path):
    """A small MLP, partly frozen, that is taught by a wider one."""
    data = jdl.data.arrays(**{name: np.asarray(IMAGES[name]) for name in ("x", "y")})
    teacher = jdl.pretrained(MLP(CLASSES, (8,)), jdl.weights.load(path))
    student, hints = classify(MLP(CLASSES, (4,))), {"Dense_0": "Dense_0"}
    objective = jdl.freeze(jdl.distil(student, teacher, features=hints), "^Dense_0")
    learner = jdl.descent(objective, optax.adamw(1e-2))
    return jdl.Run(c, learner, data.shuffled(4, c.seed))


@pytest.mark.slow
def test_a_run_keeps_and_records_its_teacher_and_resumes_to_the_bit(tmp_path):
    """And the student is the next teacher, without the one that it had."""
    arrays = trained(MLP(CLASSES, (8,))).weights.arrays
    file = tmp_path / "teacher.npz"
    np.savez(file, **arrays)
    options = {"quiet": True, "log_every": 2, "eval_every": 0, "save_every": 2}
    whole = jdl.fit(run(Config(), file), jdl.Options(root=tmp_path / "whole", **options))
    record = json.loads((whole.folder / "run.json").read_text())["pretrained"]
    assert [one["source"] for one in record] == [str(file)]
    kept = arrays_by_path(whole.state.model_state["teacher"])
    assert kept.keys() == arrays.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(kept[path], array, path)
    assert "teacher" not in str(jax.tree.structure((whole.state.params, whole.state.opt_state)))

    parts = jdl.Options(root=tmp_path / "parts", **options)
    with pytest.raises(jdl.train.preemption.PausedError):
        jdl.fit(run(Config(), file), replace(parts, until=2))
    np.savez(file, **{name: array + 1 for name, array in arrays.items()})
    with pytest.raises(jdl.Error, match="other pretrained weights"):
        jdl.fit(run(Config(), file), parts)
    np.savez(file, **arrays)
    assert digest(jdl.fit(run(Config(), file), parts)) == digest(whole)
    file.unlink()
    restored = restore(whole.folder, run(Config(), file))
    assert digest(restored) == digest(whole)

    weights = jdl.weights.load(tmp_path / "student.npz")
    np.savez(tmp_path / "student.npz", **arrays_by_path(restored.variables))
    skip = "^teacher/|feature_projections"
    student = jdl.pretrained(MLP(CLASSES, (4,)), weights, skip=skip)
    again = jdl.distil(classify(MLP(CLASSES, (2,))), student).init(KEY, IMAGES)["teacher"]
    jax.tree.map(
        np.testing.assert_array_equal, again["params"]["Dense_1"], whole.state.params["Dense_1"]
    )


PAIR = jdl.Model(
    lambda key: {"w": jnp.zeros((64, CLASSES))},
    lambda params, x: x.reshape(-1, 64) @ params["w"],
)


def within_remat(layer):
    """The loss of a hint of a transformer's layer, by shapes."""
    model = GPT(13, TransformerConfig(width=8, depth=1, heads=2, remat=True))
    teacher, batch = trained(model, TOKENS["x"]), {"x": TOKENS["x"]}
    objective = jdl.distil(next_token(model), teacher, features={layer: layer})

    def loss():
        return objective.loss(objective.init(KEY, batch), batch, KEY, True).loss

    return jax.eval_shape(loss)


def hinted(features, student=None):
    """The shapes of a student's first variables, with these hints."""
    objective = jdl.distil(classify(student or cnn(4)), trained(cnn(8)), features=features)
    return jax.eval_shape(objective.init, KEY, IMAGES)


STATEFUL = RNN(13, (4,), vocab_size=13, embedding_width=4, return_sequences=True, stateful=True)
REFUSED = {
    "block_0 is within nn.remat, .* remat=False": lambda: within_remat("stack/block_0"),
    "features need the teacher itself": lambda: jdl.distil(
        classify(cnn(4)), "given", features={"Conv_0": "Conv_0"}
    ),
    "needs the column given": lambda: jdl.distil(classify(cnn(4)), "given").check(
        jax.eval_shape(lambda: IMAGES), {}
    ),
    "column weight, gives logits of shape": lambda: jdl.distil(classify(cnn(4)), "weight").check(
        jax.eval_shape(lambda: IMAGES), {}
    ),
    "student has no layer 'Conv_9'": lambda: hinted({"Conv_9": "Conv_0"}),
    "teacher has no layer 'Conv_9'": lambda: hinted({"Conv_0": "Conv_9"}),
    "needs the same shape but for the channels": lambda: hinted({"Conv_0": "head"}),
    "the student is none": lambda: hinted({"Conv_0": "Conv_0"}, PAIR),
    "feature_weight must be 0": lambda: jdl.distil(
        classify(cnn(4)), trained(cnn(8)), feature_weight=-1.0
    ),
    "temperature must be": lambda: jdl.distil(classify(cnn(4)), trained(cnn(8)), 0.0),
    "weight, the share of the divergence": lambda: jdl.distil(
        classify(cnn(4)), trained(cnn(8)), 4.0, 1.1
    ),
    "CNN, has no weights yet": lambda: jdl.distil(classify(cnn(4)), cnn(8)),
    "has no weights yet": lambda: jdl.distil(classify(cnn(4)), jdl.adapt_model(cnn(8), ("x",))),
    "not Regression": lambda: jdl.distil(regress(MLP(1)), trained(cnn(8))),
    "not Objective. Others come afterwards": lambda: jdl.distil(
        jdl.freeze(classify(cnn(4)), "Conv"), trained(cnn(8))
    ),
    r"logits of shape \(6, 9\), and the student, CNN, of shape \(6, 10\)": lambda: jdl.distil(
        classify(cnn(4)), trained(cnn(8, 9))
    ).check(jax.eval_shape(lambda: IMAGES), {}),
    "it leaves params/head/Dense_0/kernel": lambda: jax.eval_shape(
        jdl.distil(classify(cnn(4)), replace(trained(cnn(8)), skip="head")).init, KEY, IMAGES
    ),
    "carries a state from batch to batch": lambda: jax.eval_shape(
        jdl.distil(next_token(bigram()), trained(STATEFUL, TOKENS["x"][:, :5])).init, KEY, TOKENS
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_teach_or_be_taught_is_refused(message):
    with pytest.raises(jdl.Error, match=message):
        REFUSED[message]()
