"""Semantic segmentation: the Dice loss, what is refused, and masks in files and figures.

Seen to fail: with half the Dice coefficient, with sums of p in place of p^2, with unknown pixels
that count, with the mean Dice loss of a batch, with a union without false positives, with two
images written to one file, with a background that is colored, without the unknown pixels in the
figure.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jdl
from jdl.figures import masks
from jdl.figures.masks import draw_segmentation
from jdl.inspect.masks import write_masks
from jdl.inspect.predict import predict, to_csv
from jdl.inspect.restore import TrainedRun
from jdl.models.mlp import MLP
from jdl.models.unet import UNet
from jdl.objectives import classify, segment
from jdl.objectives.segmentation import soft_dice
from jdl.types import State

LABELS = ("background", "left", "right")
IDENTITY = jdl.Model(lambda key, x: {"w": jnp.ones(())}, lambda params, x: params["w"] * x)
PARAMS = {"params": {"w": jnp.ones(())}}


def test_dice_is_that_computed_by_hand():
    """Two pixels and three classes, one of which does not occur; an image that is unknown."""
    probability = jnp.asarray([[[[0.5, 0.5, 0], [0.2, 0.6, 0.2]]], [[[1.0, 0, 0], [1, 0, 0]]]])
    labels = jnp.asarray([[[0, 1]], [[-1, -1]]])
    of_classes = [2 * 0.5 / (0.5**2 + 0.2**2 + 1), 2 * 0.6 / (0.5**2 + 0.6**2 + 1)]
    np.testing.assert_allclose(soft_dice(probability, labels), [np.mean(of_classes), 1], rtol=1e-6)
    known = jnp.asarray([[[0, -1]], [[0, 0]]])
    alone = 2 * 0.5 / (0.5**2 + 1)
    np.testing.assert_allclose(soft_dice(probability, known), [alone, 1], rtol=1e-6)


@pytest.fixture(scope="module")
def scores():
    """The loss and the metrics of logits as they are, by the weight of the Dice loss."""

    def score(dice):
        objective = segment(IDENTITY, dice) if dice is not None else classify(IDENTITY)
        return jax.jit(lambda batch: objective.loss(PARAMS, batch, jax.random.key(0), False))

    return {dice: score(dice) for dice in (None, 0.0, 0.5)}


def images(rows, seed=0):
    x, y = jax.random.split(jax.random.key(seed))
    return {
        "x": 3 * jax.random.normal(x, (rows, 4, 4, 3)),
        "y": jax.random.randint(y, (rows, 4, 4), -1, 3),
    }


def test_the_loss_is_the_cross_entropy_and_the_dice_loss(scores):
    batch = images(3)
    plain, none, half = (scores[dice](batch) for dice in (None, 0.0, 0.5))
    # `classify` sums all pixels at once, `segment` those of each image first.
    np.testing.assert_allclose(plain.loss.total, none.loss.total, rtol=1e-6)
    known = (batch["y"] >= 0).sum((1, 2)).astype(jnp.float32)
    dice = 0.5 * (1 - soft_dice(jax.nn.softmax(batch["x"]), batch["y"]))
    np.testing.assert_allclose(half.loss.total, plain.loss.total + (known * dice).sum(), rtol=1e-5)
    assert float(half.loss.count) == known.sum()


def test_unknown_pixels_count_nowhere_and_parts_add_up(scores):
    batch = images(4)
    changed = {**batch, "x": jnp.where(batch["y"][..., None] < 0, 50.0, batch["x"])}
    whole = scores[0.5](batch)
    np.testing.assert_allclose(whole.loss.total, scores[0.5](changed).loss.total, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, whole.metrics, scores[0.5](changed).metrics)
    halves = [scores[0.5](jax.tree.map(lambda leaf, n=n: leaf[n : n + 2], batch)) for n in (0, 2)]
    np.testing.assert_allclose(
        (halves[0].loss + halves[1].loss).value(), whole.loss.value(), rtol=1e-6
    )


def test_mean_iou_is_that_computed_by_hand(scores):
    """Class 2 is never right; class 1 is right once, in a union of three; class 0 always."""
    y = jnp.asarray([[[0, 0, 1, 1], [2, -1, -1, -1], [0, 0, 0, 0], [0, 0, 0, 0]]])
    predicted = y.clip(0).at[0, 0, 3].set(2).at[0, 1, 0].set(1)
    metrics = scores[0.5]({"x": jax.nn.one_hot(predicted, 3), "y": y}).metrics
    np.testing.assert_allclose(metrics["confusion"].iou(), [1, 1 / 3, 0])
    np.testing.assert_allclose(metrics["iou"].value(), 4 / 9)
    np.testing.assert_allclose(metrics["accuracy"].value(), 11 / 13)


@pytest.mark.parametrize(
    ("outputs", "y", "message"),
    [
        (
            3,
            np.full((2, 8, 8), 255),
            r"which often marks pixels of unknown class.*np.where\(y == 255",
        ),
        (3, np.full((2, 8, 8), 3), "give the model 4 outputs"),
        (3, np.full((2, 8, 8), -2), "must not be negative"),
        (3, np.zeros((2, 8, 4)), r"whole numbers of shape \(2, 8, 8\)"),
        (3, np.zeros((2, 8, 8, 3)), r"give y.argmax\(-1\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(outputs, y, message):
    data = jdl.data.arrays(x=np.zeros((2, 8, 8, 1), np.float32), y=y).batches(2)
    with pytest.raises(jdl.Error, match=message):
        segment(UNet((8,), outputs=outputs)).check(data.spec, data.bounds)


def test_models_and_options_that_do_not_fit_are_refused():
    spec = jdl.data.arrays(x=np.zeros((2, 8, 9, 1), np.float32), y=np.zeros((2, 8, 9))).batches(2)
    with pytest.raises(jdl.Error, match=r"multiples of 4, not 8 x 9: resize or pad"):
        segment(UNet((8, 8), patch_size=2, outputs=3)).check(spec.spec, {})
    with pytest.raises(
        jdl.Error, match=r"logits for every pixel, \(B, H, W, K\), but this one gives"
    ):
        segment(jdl.adapt_model(IDENTITY, outputs=lambda x: x[:, 0])).check(spec.spec, {})
    with pytest.raises(jdl.Error, match="classes=3, only together with times t"):
        segment(UNet((8,), classes=3, outputs=3)).check(spec.spec, {})
    with pytest.raises(jdl.Error, match="only together with times t"):
        UNet((8,)).init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), y=jnp.zeros(1, int))
    with pytest.raises(jdl.Error, match="dice, the weight of the Dice loss"):
        segment(IDENTITY, dice=-1.0)


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "masks"
    steps: int = 1


@pytest.fixture(scope="module")
def trained():
    """A run that predicts background in black, left in gray and right in white."""
    bounds = jnp.asarray([0.0, 0.5, 1.0])

    def apply(params, x):
        return -params["w"] * abs(x - bounds[None, None, None])

    x = np.zeros((3, 6, 4, 1), np.uint8)
    x[:, :, 1], x[:, :, 2:] = 100, 255  # no gray of the unknown
    y = np.rint(x[..., 0] / 127.5).astype(int)
    y[:, 0] = -1
    data = jdl.data.arrays(LABELS, x=x, y=y)
    model = jdl.Model(lambda key, x: {"w": jnp.ones(())}, apply)
    learner = jdl.descent(segment(model), jdl.optim.adamw(1e-3))
    run = jdl.Run(Config(), learner, data.batches(3), test=data.batches(2), labels=LABELS)
    state: State = jax.jit(learner.init)(jax.random.key(0), run.train[0])
    return TrainedRun(run, state)


def test_predict_writes_masks_and_overlays(trained, tmp_path):
    image = np.full((6, 4), 40, np.uint8)
    image[:3, 1], image[:3, 2:] = 128, 255
    Image.fromarray(image).save(tmp_path / "photo.png")
    np.savez(tmp_path / "more.npz", x=np.stack([image, image.T.reshape(6, 4)])[..., None])
    out = tmp_path / "out"
    rows = predict(trained, [tmp_path / "photo.png", tmp_path / "more.npz"], out=out)
    assert [path.name for path in sorted(out.iterdir())] == [
        f"{name}.{kind}.png"
        for name in ("more-0", "more-1", "photo")
        for kind in ("mask", "overlay")
    ]
    with Image.open(rows[0]["mask"]) as mask, Image.open(rows[0]["overlay"]) as overlay:
        np.testing.assert_array_equal(np.asarray(mask), np.rint(image / 127.5))
        painted = np.asarray(overlay)
    left, right = masks.colors(3, LABELS)[1:]
    assert (painted[5, 0] == 40).all()  # the background is not colored
    np.testing.assert_array_equal(painted[0, 1], np.rint(0.45 * 128 + 0.55 * left))
    np.testing.assert_array_equal(painted[0, 3], np.rint(0.45 * 255 + 0.55 * right))
    assert [rows[0][f"share {name}"] for name in LABELS] == [15 / 24, 3 / 24, 6 / 24]
    assert to_csv(rows).splitlines()[0] == ",".join(
        ("input", "mask", "overlay", "share background", "share left", "share right")
    )
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(image).save(other / "photo.jpg")
    with pytest.raises(
        jdl.Error, match=r"photo.png and .*photo.jpg would both be written to photo"
    ):
        predict(trained, [tmp_path / "photo.png", other / "photo.jpg"], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_shares_are_of_all_classes_and_hide_no_column(tmp_path):
    x, label = np.zeros((1, 1, 3, 1), np.uint8), np.asarray([[[0, 0, 1]]])
    predictions = {"label": label, "probability": np.zeros((1, 1, 3, 4))}
    (row,) = write_masks(["a.png"], x, predictions, ["mask", "input", "overlay"], tmp_path)
    assert row == {
        "input": "a.png",
        "mask": str(tmp_path / "a.mask.png"),
        "overlay": str(tmp_path / "a.overlay.png"),
        "share mask": 0.6667,
        "share input": 0.3333,
        "share overlay": 0,
        "share 3": 0,
    }


@pytest.mark.slow
def test_the_figure_is_drawn_of_masks_alone(trained, tmp_path):
    (path,) = draw_segmentation(trained.run, trained.variables, tmp_path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    in_legend = 1_000  # pixels of a color there, at most
    for color in (*masks.colors(3, LABELS), masks.UNKNOWN):
        assert (pixels == np.asarray(color)).all(1).sum() > in_legend
    train, test = jdl.data.digits()
    learner = jdl.descent(classify(MLP(10)), jdl.optim.adamw(1e-3))
    other = jdl.Run(Config(), learner, train.batches(50), test=test.batches(50))
    variables = jax.jit(learner.objective.init)(jax.random.key(0), other.train[0])
    assert draw_segmentation(other, variables, tmp_path) == []
