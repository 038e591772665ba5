"""The CRNN, CTC over the width of images, and the line that `jdl predict` reads in an image file.

Seen to fail: features that are not masked after a block, statistics of BatchNorm over padding,
outputs counted as real by their last column, an image that keeps its size.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.axes import Axes
from PIL import Image

import jdl
from jdl.figures import readings
from jdl.figures.readings import draw_readings
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.models.crnn import CRNN
from jdl.models.rnn import RNN
from jdl.objectives import ctc

TRAIN, TEST = jdl.data.digit_lines(8, 30)
OBJECTIVE = ctc(CRNN(11, (4, 4, 8), (8,)))


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "lines"
    steps: int = 1


@pytest.fixture(scope="module")
def trained():
    """A run that was not trained, and reads more than blanks."""
    learner = jdl.descent(OBJECTIVE, optax.adam(1e-3))
    data = TRAIN.shuffled(8, 0), None, TEST.batches(15)
    run = jdl.Run(Config(), learner, *data, labels=TRAIN.labels)
    state = jax.jit(learner.init)(jax.random.key(0), run.train[0])
    head = state.params["rnn"]["head"]
    head["bias"] = head["bias"].at[0].set(-1.0)
    return TrainedRun(run, state)


@pytest.fixture(scope="module")
def evaluated():
    def evaluate(variables, batch):
        loss = OBJECTIVE.loss(variables, batch, jax.random.key(0), True)
        return loss.loss.total, loss.model_state, OBJECTIVE.predict(variables, batch)["labels"]

    return jax.jit(evaluate)


@pytest.mark.slow
def test_padding_on_the_right_changes_nothing(trained, evaluated):
    """Neither its content nor its width, in training and in evaluation."""
    batch = trained.run.train[0]
    width = int(-(-batch["width"].max() // 4) * 4)
    assert width < batch["x"].shape[2]
    real = jnp.arange(batch["x"].shape[2])[None] < batch["width"][:, None]
    others = [
        {**batch, "x": jnp.where(real[:, None, :, None], batch["x"], 9.0)},
        {**batch, "x": batch["x"][:, :, :width]},
    ]
    loss, statistics, labels = evaluated(trained.variables, batch)
    for n, other in enumerate(others):
        again = evaluated(trained.variables, other)
        np.testing.assert_allclose(again[0], loss, rtol=0 if n == 0 else 1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            again[1],
            statistics,
        )
        np.testing.assert_array_equal(again[2], labels[:, : again[2].shape[1]])


def test_ctc_of_a_model_that_shortens_time_is_that_of_its_outputs():
    """The outputs as they are, with the number of those that have a real step as their length."""
    out = jax.random.normal(jax.random.key(0), (4, 5, 3))
    y = jnp.asarray([[1, 2], [2, 2], [1, 0], [2, 1]])
    labels = {"y": y, "y_length": jnp.asarray([2, 2, 1, 2])}
    plain = ctc(jdl.Model(lambda key, x: {"w": jnp.ones(())}, lambda params, x: x * params["w"]))
    params = {"params": {"w": jnp.ones(())}}
    lengths = jnp.asarray([5, 4, 1, 3])
    shorter = ctc(
        jdl.Model(lambda key, x: {"w": jnp.ones(())}, lambda params, x: x[:, 0, ::4] * params["w"])
    )
    image = jnp.repeat(out, 4, 1)[:, None]  # (B, 1, W, C)
    losses = [
        jax.jit(lambda v, b, o=o: o.loss(v, b, jax.random.key(0), False)) for o in (plain, shorter)
    ]
    for widths in ([20, 16, 4, 12], [17, 13, 1, 9]):
        results = [
            loss(params, {**labels, **batch})
            for loss, batch in zip(
                losses,
                ({"x": out, "length": lengths}, {"x": image, "width": jnp.asarray(widths)}),
                strict=True,
            )
        ]
        np.testing.assert_array_equal(results[0].loss.total, results[1].loss.total)
        jax.tree.map(np.testing.assert_array_equal, results[0].metrics, results[1].metrics)


def test_shapes_that_do_not_fit_are_refused():
    spec = jax.eval_shape(lambda: {**TRAIN.batches(4)[0], "x": jnp.ones((4, 24, 210, 1))})
    with pytest.raises(jdl.Error, match="W a multiple of 4, and not"):
        OBJECTIVE.check(spec, {})
    with pytest.raises(jdl.Error, match="two blocks at least"):
        CRNN(11, (4,)).init(jax.random.key(0), jnp.ones((1, 24, 8, 1)))
    rows = jax.eval_shape(lambda: {**TRAIN.batches(4)[0]})
    with pytest.raises(jdl.Error, match="24 for 212 steps"):
        ctc(RNN(11, return_sequences=True)).check(rows, {})


def test_predict_reads_the_line_in_an_image_of_any_size(trained, tmp_path):
    """The same as in the rows of a file of arrays, which are at the model's height already."""
    x, width = np.zeros((4, 24, 212, 1), np.uint8), np.asarray([100, 180, 212, 60])
    x[:, :, :, 0] = TEST.columns["x"][:4, :, :, 0]
    files = []
    for row in range(4):
        image = Image.fromarray(x[row, :, : width[row], 0])
        if row > 1:  # at another size
            image = image.resize((3 * image.width, 3 * image.height))
            x[row, :, : width[row], 0] = image.resize((width[row], 24), Image.Resampling.BILINEAR)
        files.append(tmp_path / f"{row}.png")
        image.save(files[-1])
    np.savez(tmp_path / "lines.npz", x=x, width=width)
    rows = predict(trained, [tmp_path / "lines.npz"])
    read = predict(trained, files)
    assert [row["labels"] for row in read] == [row["labels"] for row in rows]
    assert read[0].keys() == {"input", "labels"}
    assert all(set(row["labels"]) <= set("0123456789") for row in read)
    assert len({row["labels"] for row in read}) > 1
    Image.new("L", (500, 24)).save(tmp_path / "long.png")
    with pytest.raises(jdl.Error, match=r"500 x 24 at the model's height.*up to 212"):
        predict(trained, [tmp_path / "long.png"])


def test_readings_are_drawn_of_lines_alone(trained, tmp_path):
    (path,) = draw_readings(trained.run, trained.variables, tmp_path)
    assert path.name == "readings.png"
    with Image.open(path) as image:
        assert image.size[0] == 960
    _, digits = jdl.data.digits()
    other = jdl.Run(Config(), trained.run.learner, trained.run.train, test=digits.batches(50))
    assert draw_readings(other, trained.variables, tmp_path) == []


def test_a_right_reading_of_many_labels_is_not_called_wrong(monkeypatch, tmp_path):
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda axes, text, **_: titles.append(text))
    y = np.tile(np.arange(10, dtype=np.int32) % 3 + 1, (2, 3))  # of 30 labels
    read = np.where(np.arange(2)[:, None] == 1, 1, y)
    lines = {"x": np.zeros((2, 4, 9, 1)), "size": np.full(2, 9), "y": y, "labels": read}
    readings._draw({**lines, "length": np.full(2, 30)}, ("", *"abc"), tmp_path / "long.png")
    assert titles == ["abcabcabca" * 3, f"{'a' * 30}  (is {'abcabcabca' * 3})"]
