"""The CNN on log-mel spectrograms, SpecAugment as its layer, and metrics on more test sets.

Seen to fail: samples of padding that are read; masks of one row for the whole batch; masks in
evaluation; sets of which the last batch counts alone.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile

import jdl
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.layers import BATCH_AXIS, SpecAugment
from jdl.models.sound_cnn import SoundCNN
from jdl.objectives import classify, metrics_by_set
from jdl.train.evaluate import evaluator

RATE = 8_000
MODEL = SoundCNN(3, RATE, n_mels=8, n_fft=128, blocks=((4, 1), (4, 1)), dense=())
AUGMENT = SpecAugment(2, 5, 1, 3)


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "sounds"
    steps: int = 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was not trained, on a folder of sounds of three classes."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for n in range(9):
        (folder / "abc"[n % 3]).mkdir(exist_ok=True)
        samples = 0.3 * rng.standard_normal(RATE // 4 - 150 * n)
        soundfile.write(folder / "abc"[n % 3] / f"{n}.wav", samples, RATE, subtype="FLOAT")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JDL_CACHE", str(folder / "cache"))
        data = jdl.data.audio_folder(folder, RATE, 0.25, labels=["a", "b", "c"])
    learner = jdl.descent(classify(MODEL), optax.adam(1e-3))
    run = jdl.Run(Config(), learner, data.shuffled(9, 0), None, data.batches(4), labels=data.labels)
    return folder, TrainedRun(run, jax.jit(learner.init)(jax.random.key(0), run.train[0]))


def test_more_blocks_than_halvings_of_the_filters_are_refused():
    with pytest.raises(jdl.Error, match="halves the 8 mel filters"):
        SoundCNN(3, RATE, n_mels=8).init(jax.random.key(0), jnp.zeros((1, RATE)))


def test_padding_and_loudness_change_nothing(trained):
    _, run = trained
    batch = run.run.train[0]
    length = batch["length"] - 300
    real = jnp.arange(batch["x"].shape[1])[None] < length[:, None]
    apply = jax.jit(lambda x: MODEL.apply(run.variables, x, mask=real))
    expected = apply(jnp.where(real, batch["x"], 0))
    np.testing.assert_array_equal(apply(jnp.where(real, batch["x"], 9.0)), expected)
    np.testing.assert_allclose(apply(batch["x"] * 4), expected, atol=1e-4)
    whole = jax.jit(lambda x: MODEL.apply(run.variables, x))(batch["x"])
    assert (abs(whole - expected) > 1e-3).any()
    with pytest.raises(jdl.Error, match="at least 320 samples, which its 2 blocks pool to one"):
        MODEL.init(jax.random.key(0), jnp.zeros((2, 319)))


def test_a_new_sound_gets_its_class_and_probabilities(trained, tmp_path):
    folder, run = trained
    (answer,) = predict(run, [folder / "b" / "4.wav"])
    assert answer["label"] in "abc"
    row = jax.tree.map(lambda column: column[None, 4], dict(run.run.train.dataset.on_device))
    row = {name: row[name] for name in ("x", "length")}
    ids = run.run.train.dataset.columns["y"].tolist()
    assert ids == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # sorted: 1, 4, 7 are "b"
    expected = jax.jit(run.objective.predict)(run.variables, row)["probability"][0]
    np.testing.assert_allclose(answer["probability"], expected, rtol=1e-5)
    assert sum(answer["probability"]) == pytest.approx(1, abs=1e-5)


def test_masks_are_drawn_row_by_row_however_the_batch_is_divided():
    x, length = jnp.ones((8, 20, 6)), jnp.asarray([20, 9, 20, 20, 5, 20, 20, 20])

    def masked(x, length, stream="row_dropout"):
        return AUGMENT.apply({}, x, True, length, rngs={stream: jax.random.key(3)}) == 0

    def in_parts(x, length):
        parts = jax.vmap(masked, axis_name=BATCH_AXIS)
        return parts(x.reshape(4, 2, 20, 6), length.reshape(4, 2)).reshape(x.shape)

    whole, parts = jax.jit(lambda *row: (masked(*row), in_parts(*row)))(x, length)
    np.testing.assert_array_equal(parts, whole)
    assert len({row.tobytes() for row in np.asarray(whole)}) == 8
    for row, real in zip(np.asarray(whole), length.tolist(), strict=True):
        assert 0 <= row.all(0).sum() <= 3
        assert not row.all(1)[real:].any()
    np.testing.assert_array_equal(AUGMENT.apply({}, x, False, length), x)
    for bad in (lambda: AUGMENT.apply({}, x[0], True), lambda: SpecAugment(-1).apply({}, x, True)):
        with pytest.raises(jdl.Error, match=r"takes spectrograms \(B, T, F\), and counts"):
            bad()


def test_the_model_masks_in_training_alone(trained):
    _, run = trained
    x, augmented = run.run.train[0]["x"], MODEL.clone(augment=AUGMENT)

    @jax.jit
    def logits(one, other):
        def train(key):
            rngs = {"row_dropout": key}
            return augmented.apply(run.variables, x, True, rngs=rngs, mutable=["batch_stats"])[0]

        evaluated = augmented.apply(run.variables, x), MODEL.apply(run.variables, x)
        return train(one), train(other), *evaluated

    one, other, evaluated, plain = logits(*map(jax.random.key, (0, 1)))
    assert (one != other).any()
    np.testing.assert_array_equal(evaluated, plain)


@pytest.mark.slow
def test_metrics_by_set_are_those_of_an_evaluation_of_each(trained):
    _, run = trained
    data = run.run.train.dataset
    sets = {"all": data.batches(4), "some": data.select(slice(2, 7)).batches(2)}
    scores = metrics_by_set(run.objective, sets)(run.variables)
    for name, loader in sets.items():
        expected = jdl.metrics.scalars(evaluator(run.run.learner, loader)(run.state))
        found = {metric: scores[f"{name}/{metric}"] for metric in expected}
        assert found == pytest.approx(expected, rel=1e-6)
    assert scores["all/loss"] != scores["some/loss"]
