"""Models that begin with pretrained weights: matched by path, recorded, and the same wherever.

Seen to fail: with `skip` or `rename` ignored, a cast that rounds, weights as constants of the
compiled `init`, no field "pretrained" in IDENTITY, `restore` without `leave_fresh`,
new tokens of zeros, and grow_vocabulary ignored by a model of no vocabulary, and advised to it.
"""

import json
from dataclasses import dataclass, replace

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import digest

import jdl
from jdl.inspect.restore import restore
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.transformer import TransformerConfig
from jdl.objectives import pretrained_model
from jdl.objectives.pretrained_model import Weights, record_loaded
from jdl.train.placement import place_on_devices
from jdl.weights.load import arrays_by_path

X = jnp.ones((4, 8, 8, 1))


def cnn(outputs=10):
    return CNN(outputs, blocks=((4, 1),), dense=(8,), batch_norm=True, dropout=0.2)


def random_arrays(model, x=X):
    """Arrays for all variables of the model, BatchNorm's statistics included, all different."""
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    draw = np.random.default_rng(0)
    return arrays_by_path(
        jax.tree.map(lambda leaf: draw.normal(1, 0.1, leaf.shape).astype(leaf.dtype), variables)
    )


@pytest.fixture(scope="module")
def arrays():
    return random_arrays(cnn())


def given(arrays, source="given", sha256="0" * 64):
    return Weights(lambda: (arrays, sha256, source))


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "tuned"
    steps: int = 4


def run(c, path, outputs=10):
    """Fine-tuning of a CNN: a new head, LoRA of the dense layer, BatchNorm in full; no more."""
    train, test = jdl.data.digits()
    model = jdl.pretrained(cnn(outputs), jdl.weights.load(path), skip="Dense_1")
    objective = jdl.lora(jdl.objectives.classify(model), "Dense_0", 2, train="Dense_1|BatchNorm")
    learner = jdl.ema(jdl.descent(objective, optax.adamw(1e-3)), 0.9)
    data = train.shuffled(32, c.seed, jdl.data.random_crop(1))
    return jdl.Run(c, learner, data, test=test.batches(100))


@pytest.fixture
def file(tmp_path, arrays):
    np.savez(tmp_path / "weights.npz", **arrays)
    return tmp_path / "weights.npz"


def quiet(root, **options):
    return jdl.Options(root=root, quiet=True, log_every=2, eval_every=0, save_every=2, **options)


@pytest.mark.slow
def test_fine_tuned_recorded_resumed_to_the_bit_and_restored_without_the_file(
    tmp_path, file, arrays
):
    whole = jdl.fit(run(Config(), file), quiet(tmp_path / "whole"))
    record = json.loads((whole.folder / "run.json").read_text())["pretrained"]
    assert [one["source"] for one in record] == [str(file)]
    assert record[0]["fresh"] == ["params/head/Dense_1/kernel", "params/head/Dense_1/bias"]
    assert set(record[0]["names"].values()) | set(record[0]["left_out"]) == set(arrays)
    np.testing.assert_array_equal(
        whole.state.model_state["lora"]["base"]["Conv_0"]["kernel"], arrays["params/Conv_0/kernel"]
    )

    with pytest.raises(jdl.train.preemption.PausedError):
        jdl.fit(run(Config(), file), quiet(tmp_path / "parts", until=2))
    folder = next((tmp_path / "parts").glob("*/*/*"))
    assert restore(folder, run(Config(), file)).step == 2
    np.savez(file, **{name: array + 1 for name, array in arrays.items()})
    with pytest.raises(jdl.Error, match="other pretrained weights"):
        jdl.fit(run(Config(), file), quiet(tmp_path / "parts"))
    moved = tmp_path / "moved.npz"  # the same numbers
    np.savez(moved, **arrays)
    with pytest.raises(jdl.train.preemption.PausedError):
        jdl.fit(run(Config(), moved), quiet(tmp_path / "parts", until=3))

    moved.unlink()  # the checkpoint has them
    assert digest(jdl.fit(run(Config(), moved), quiet(tmp_path / "parts"))) == digest(whole)
    assert digest(restore(folder, run(Config(), moved))) == digest(whole)
    with pytest.raises(jdl.Error, match="no weights at"):
        jdl.fit(run(Config(), moved), quiet(tmp_path / "parts", fresh=True))


@pytest.mark.parametrize("way", ["one device", "mesh", "fsdp", "pmap", "elastic", "population"])
def test_the_state_begins_with_the_weights_as_arguments(file, arrays, way):
    config = replace(Config(), elastic=4 if way == "elastic" else 0)
    tuned = run(config, file)
    if way == "population":
        tuned = replace(tuned, learner=jdl.population(tuned.learner, [3, 4]))
    options = {
        "mesh": jdl.Options(devices=4),
        "fsdp": jdl.Options(mesh="fsdp=4"),
        "pmap": jdl.Options(devices=4, parallel="pmap"),
    }.get(way, jdl.Options())
    with record_loaded():
        key, example = jax.random.key(0), tuned.train[0]
        like = jax.eval_shape(tuned.learner.init, key, example)
        learner = place_on_devices(tuned, options).learner
        with pretrained_model._set(pretrained_model._provider, None):  # nothing else gives them
            state = learner.init(key, example)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, like)
    merge = jax.vmap(jdl.merge_lora) if way == "population" else jdl.merge_lora
    found = arrays_by_path(merge({"params": state.params, **state.model_state}))
    for path, array in arrays.items():
        if "Dense_1" not in path:
            expected = np.broadcast_to(array, found[path].shape)
            np.testing.assert_array_equal(found[path], expected, path)
    jax.tree.map(np.testing.assert_array_equal, state.extra["ema"]["params"], state.params)


class NNX(flax.nnx.Module):
    def __init__(self, rngs):
        self.norm = flax.nnx.BatchNorm(3, rngs=rngs)
        self.out = flax.nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.norm(x))


KINDS = {
    "Linen": lambda: MLP(2, (4,)),
    "NNX": lambda: jdl.nnx(lambda rngs: NNX(rngs)),
    "pair": lambda: jdl.Model(
        lambda key: {"w": jax.random.normal(key, (3, 2))}, lambda params, x: x @ params["w"]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_any_kind_begin_with_them(kind):
    model, x = KINDS[kind](), jnp.ones((4, 3))
    values = random_arrays(model, x)
    objective = jdl.objectives.classify(jdl.adapt_model(jdl.pretrained(model, given(values))))
    variables = objective.init(jax.random.key(0), {"x": x, "y": jnp.zeros(4, jnp.int32)})
    jax.tree.map(np.testing.assert_array_equal, arrays_by_path(variables), values)


@pytest.mark.parametrize("tied", [True, False])
def test_a_vocabulary_grows_at_its_end_by_the_mean_of_the_old_tokens(tied):
    x, sizes = jnp.zeros((1, 3), jnp.int32), TransformerConfig(width=8, depth=1, heads=2)
    old = random_arrays(GPT(11, sizes, tied), x)
    model = jdl.pretrained(GPT(13, sizes, tied), given(old), grow_vocabulary=True)
    found = arrays_by_path(model.init(jax.random.key(0), x))
    axes = {"params/tokens/table": 0} | ({} if tied else {"params/head/kernel": 1})
    for path, array in found.items():
        if (axis := axes.get(path)) is not None:
            mean = old[path].mean(axis, keepdims=True)
            np.testing.assert_array_equal(np.delete(array, np.s_[:11], axis) - mean, 0)
            array = np.delete(array, np.s_[11:], axis)
        np.testing.assert_array_equal(array, old[path])
    for other in (GPT(9, sizes, tied), GPT(13, replace(sizes, mlp_width=13), tied)):
        with pytest.raises(jdl.Error, match=r"skip=pattern\.$"):
            jdl.pretrained(other, given(old), grow_vocabulary=True).init(jax.random.key(0), x)
    with pytest.raises(jdl.Error, match="grow_vocabulary=True"):
        jdl.pretrained(GPT(13, sizes, tied), given(old)).init(jax.random.key(0), x)


def test_a_model_of_no_vocabulary_does_not_grow_it(arrays):
    """Nor is it told to, where other weights do not fit."""
    with pytest.raises(jdl.Error, match=r"skip=pattern\.$"):
        jdl.pretrained(cnn(), given({"a": arrays["params/Conv_0/kernel"]})).init(
            jax.random.key(0), X
        )
    with pytest.raises(jdl.Error, match=r"attribute vocab_size.* CNN has none"):
        jdl.pretrained(cnn(), given(arrays), grow_vocabulary=True).init(jax.random.key(0), X)


def test_names_are_renamed_and_half_precision_is_widened(arrays):
    theirs = {name.replace("params/", "net."): array for name, array in arrays.items()}
    theirs["net.Conv_0/kernel"] = theirs["net.Conv_0/kernel"].astype("bfloat16")
    model = jdl.pretrained(cnn(), given(theirs), rename={r"^net\.": "params/"})
    found = arrays_by_path(model.init(jax.random.key(0), X))
    kernel = found["params/Conv_0/kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, theirs["net.Conv_0/kernel"].astype(np.float32))


def without(arrays, name):
    return {other: array for other, array in arrays.items() if other != name}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: without(a, "params/Conv_0/kernel"), {}, "no weights for params/Conv_0/kernel"),
        (
            lambda a: a | {"params/more": a["params/head/Dense_1/bias"]},
            {},
            "no place for params/more",
        ),
        (
            lambda a: a | {"params/head/Dense_1/kernel": a["params/head/Dense_1/kernel"].T},
            {},
            r"params/head/Dense_1/kernel \(float32\[10, 8\] for float32\[8, 10\]\)",
        ),
        (
            lambda a: a | {"params/head/Dense_1/bias": np.zeros(10)},
            {},
            r"params/head/Dense_1/bias \(float64\[10\] for float32\[10\]\)",
        ),
        (lambda a: a, {"skip": "."}, "skips all"),
        (lambda a: a, {"rename": {"kernel|bias": "one"}}, "one name"),
        (lambda a: a, {"skip": "haed"}, "skip='haed' is in no path"),
        (lambda a: a, {"rename": {"^nothing": ""}}, r"'\^nothing' is in no name"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_names(arrays, change, options, message):
    model = jdl.pretrained(cnn(), given(change(arrays), "there"), **options)
    with pytest.raises(jdl.Error, match=message) as caught:
        model.init(jax.random.key(0), X)
    assert "there" in str(caught.value) or "CNN" in str(caught.value)


def test_the_table_is_one_line_for_people(arrays):
    model = jdl.pretrained(cnn(), given(arrays, "there"), skip="Dense")
    fresh = {path: jnp.asarray(array) for path, array in arrays.items()}
    text = str(model.load(fresh))
    assert text.startswith("Loaded ")
    assert "from there, SHA-256 000000000000; fresh: " in text


def test_a_name_in_place_of_weights_and_an_adapted_model_are_refused(arrays):
    with pytest.raises(jdl.Error, match=r"takes jdl\.weights\.load\(source\), not 'w.npz'"):
        jdl.pretrained(cnn(), "w.npz")
    with pytest.raises(jdl.Error, match="Adapt the pretrained model"):
        jdl.pretrained(jdl.adapt_model(cnn(), outputs=lambda x: x), given(arrays))
