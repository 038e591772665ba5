"""Object detection: box arithmetic, suppression, mAP, FCOS's targets and loss, boxes on photos.

tests/golden/detection.npz is written by scripts/golden_detection.py: crowded random scenes, with
what pycocotools and torchvision make of them.

Seen to fail: a GIoU without its second term, suppression across labels, and by boxes that are
suppressed themselves; the first of equally good true boxes, a precision that is not made to fall,
more than 100 detections, and a true box that is found twice; places of the largest object, at every
level, and of padding.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from unsupervised_table import UNSUPERVISED

import jdl
from jdl.boxes import area, clip, giou, iou, iou_matrix, non_maximum_suppression
from jdl.data.source import ArraySource
from jdl.figures.detections import draw_detections
from jdl.figures.masks import COLORS
from jdl.inspect.detections import draw_detected
from jdl.inspect.predict import predict, to_csv
from jdl.inspect.restore import TrainedRun
from jdl.metrics import mean_average_precision, merge
from jdl.models.fcos import FCOS
from jdl.models.resnet import ResNet
from jdl.objectives import detect
from jdl.objectives.detection import Places, _targets
from jdl.types import sides_of

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "detection.npz"))
ROW = next(row for row in UNSUPERVISED if row.name == "fcos")
OBJECTIVE = detect(ROW.model)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(OBJECTIVE.init)(jax.random.key(0), ROW.batch())


@pytest.fixture(scope="module")
def loss(variables):
    """The loss, metrics and gradients of a batch, in training."""

    @jax.jit
    def loss(batch):
        def total(params):
            output = OBJECTIVE.loss({**variables, "params": params}, batch, jax.random.key(0), True)
            return output.loss.total, output

        grads, output = jax.grad(total, has_aux=True)(variables["params"])
        return output, grads

    return loss


@pytest.mark.parametrize("xp", [np, jnp])
def test_box_arithmetic_by_hand(xp):
    a = xp.asarray([[0.0, 0, 4, 2], [0, 0, 4, 2], [0, 0, 4, 2], [3, 3, 1, 1], [0, 0, 0, 0]])
    b = xp.asarray([[2.0, 0, 6, 2], [4, 0, 6, 2], [0, 0, 4, 2], [0, 0, 4, 4], [0, 0, 0, 0]])
    np.testing.assert_allclose(area(a), [8, 8, 8, 0, 0])
    np.testing.assert_allclose(iou(a, b), [4 / 12, 0, 1, 0, 0], rtol=1e-6)
    # Of the first two pairs, the smallest box around both is covered; the third pair is one box.
    np.testing.assert_allclose(giou(a, b)[:3], [4 / 12, 0, 1], atol=1e-6)
    apart = giou(xp.asarray([[0.0, 0, 1, 1]]), xp.asarray([[3.0, 0, 4, 1]]))
    np.testing.assert_allclose(apart, [-0.5], rtol=1e-6)
    assert iou_matrix(a[:2], b[:3]).shape == (2, 3)
    np.testing.assert_array_equal(clip(b, 1, 3)[0], [2, 0, 3, 1])
    assert isinstance(iou(a, b), np.ndarray) == (xp is np)


def test_the_gradient_of_giou_is_finite_for_empty_boxes():
    boxes = jnp.asarray([[0.0, 0, 0, 0], [1, 1, 1, 5], [3, 3, 1, 1]])
    grads = jax.grad(lambda a: giou(a, jnp.zeros_like(a)).sum())(boxes)
    assert np.isfinite(grads).all()


@pytest.mark.slow
def test_suppression_is_that_of_torchvision():
    crowd = (GOLDEN["crowd"].astype(np.float32), GOLDEN["crowd_score"], GOLDEN["crowd_label"])
    suppress = partial(non_maximum_suppression, threshold=0.41, limit=90)
    kept = jax.jit(jax.vmap(suppress))(*map(jnp.asarray, crowd))
    assert kept.shape == (4, 90)
    np.testing.assert_array_equal(kept[:, :80], GOLDEN["kept"])
    assert (kept[:, 80:] == -1).all()
    few = suppress(*(jnp.asarray(column[0]) for column in crowd), limit=7)
    np.testing.assert_array_equal(few, GOLDEN["kept"][0, :7])


def test_a_box_that_is_suppressed_suppresses_none():
    """Each overlaps the next alone; equal scores go by order, and a score of 0 is no box."""
    boxes = jnp.asarray([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [12, 0, 22, 10]])
    labels, scores = jnp.zeros(4, jnp.int32), jnp.asarray([0.5, 0.5, 0.5, 0.0])
    suppress = jax.jit(partial(non_maximum_suppression, threshold=0.3, limit=4))
    np.testing.assert_array_equal(suppress(boxes, scores, labels), [0, 2, -1, -1])
    np.testing.assert_array_equal(suppress(boxes, scores, labels.at[1].set(1)), [0, 1, 2, -1])


def columns(rows=slice(None)):
    predictions = {name: GOLDEN[name][rows] for name in ("boxes", "label", "score")}
    batch = {"boxes": GOLDEN["true_boxes"][rows], "y": GOLDEN["y"][rows]}
    return predictions, batch


@pytest.mark.parametrize("thresholds", [None, (0.5,), (0.75,)])
def test_mean_average_precision_is_that_of_pycocotools(thresholds):
    options = {} if thresholds is None else {"thresholds": thresholds}
    expected = GOLDEN["map"][[None, (0.5,), (0.75,)].index(thresholds)]
    whole = mean_average_precision(*columns(), **options)
    assert 0.05 < expected < 0.95
    assert whole.value() == pytest.approx(expected, abs=1e-6)
    parts = [mean_average_precision(*columns(slice(n, n + 9)), **options) for n in (0, 9, 18)]
    assert merge([{"map": part} for part in parts])["map"].value() == whole.value()


def test_the_order_of_the_thresholds_does_not_matter():
    rising, falling = (
        mean_average_precision(*columns(), thresholds=thresholds).value()
        for thresholds in ((0.5, 0.9), (0.9, 0.5))
    )
    assert rising == pytest.approx(falling, rel=1e-12)


def test_of_true_boxes_that_overlap_equally_the_last_is_taken():
    """As by pycocotools: else the second detection would find its box taken."""
    boxes = np.asarray([[[2.0, 0, 12, 10], [0, 0, 10, 10]]])
    found = {"boxes": boxes, "label": np.zeros((1, 2), int), "score": np.asarray([[0.9, 0.8]])}
    true = {"boxes": np.asarray([[[0.0, 0, 10, 10], [4, 0, 14, 10]]]), "y": np.zeros((1, 2), int)}
    assert mean_average_precision(found, true, thresholds=(0.5,)).value() == 1


def test_padding_rows_do_not_count_and_nothing_to_find_is_nan():
    predictions, batch = columns()
    batch["mask"] = np.arange(len(batch["y"])) < 12
    some = mean_average_precision(predictions, batch).value()
    assert some == mean_average_precision(*columns(slice(0, 12))).value()
    batch["y"] = np.full_like(batch["y"], -1)
    assert np.isnan(mean_average_precision(predictions, batch).value())
    with pytest.raises(jdl.Error, match="above 0 and up to 1"):
        mean_average_precision(predictions, batch, thresholds=(0.0,))
    with pytest.raises(jdl.Error, match=r"of shape \(24, 8\) and \(24, 8\)"):
        mean_average_precision(predictions, {**batch, "boxes": batch["y"]})


def test_places_stand_for_the_smallest_object_of_their_level():
    center = jnp.asarray([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [8.0, 8.0]])
    stride = jnp.asarray([8.0, 8.0, 8.0, 16.0])
    places = Places(center, stride, jnp.asarray([0.0, 0, 0, 16]), jnp.asarray([16.0, 16, 16, 99]))
    boxes = jnp.asarray([[0.0, 0, 8, 8], [2, 0, 14, 8], [0, 0, 30, 30], [4, 4, 4, 4], [1, 1, 7, 7]])
    targets = _targets(places, boxes, jnp.asarray([3, 1, 2, 0, -1]))
    # The third place is in the large box alone, which is farther than 16 pixels; the fourth is of
    # the coarse level. The last two boxes have no area, or no label.
    np.testing.assert_array_equal(targets.label, [3, 1, -1, 2])
    np.testing.assert_array_equal(targets.positive, [True, True, False, True])
    np.testing.assert_array_equal(targets.boxes[jnp.asarray([0, 1, 3])], boxes[:3])
    shares = [1, (2 / 10) * 1, 0, (8 / 22) ** 2]
    np.testing.assert_allclose(targets.centerness, np.sqrt(shares), rtol=1e-6)


def maps_of(batch, objective):
    """The maps of a model that knows the answer: at stride 1 and 2."""
    rows = len(batch["y"])
    maps = [jnp.zeros((rows, 16 // stride, 16 // stride, 8)) for stride in (1, 2)]
    places = objective._places(maps, batch)
    targets = jax.vmap(partial(_targets, places))(batch["boxes"], batch["y"])
    logits = 20 * jax.nn.one_hot(targets.label, 3) - 10
    center, edges = places.center[None], targets.boxes
    distances = jnp.concatenate([center - edges[..., :2], edges[..., 2:] - center], -1)
    raw = jnp.log(jnp.expm1((distances / places.stride[None, :, None]).clip(0.01)))
    centered = jax.scipy.special.logit(targets.centerness.clip(0.01, 0.99))[..., None]
    out = jnp.concatenate([logits, raw, centered], -1)
    return [out[:, :256].reshape(rows, 16, 16, 8), out[:, 256:].reshape(rows, 8, 8, 8)]


@pytest.mark.slow
def test_the_right_maps_are_the_right_boxes():
    batch = ROW.batch()
    maps = maps_of(batch, OBJECTIVE)
    found = jax.jit(lambda: OBJECTIVE._predictions(maps, OBJECTIVE._places(maps, batch), batch))()
    assert {name: column.shape for name, column in found.items()} == {
        "boxes": (12, 100, 4), "label": (12, 100), "score": (12, 100)
    }  # fmt: skip
    for n, y in enumerate(np.asarray(batch["y"])):
        count = (y >= 0).sum()
        assert (found["label"][n] >= 0).sum() == (found["score"][n] > 0).sum() == count
        order = np.argsort(found["label"][n][:count])
        expected = np.argsort(y[y >= 0])
        np.testing.assert_array_equal(found["label"][n][order], y[y >= 0][expected])
        boxes = batch["boxes"][n][y >= 0][expected]
        np.testing.assert_allclose(found["boxes"][n][order], boxes, atol=1e-3)
    assert mean_average_precision(found, batch).value() == 1


@pytest.mark.slow
def test_what_is_no_object_counts_nowhere(loss):
    """Padding, a box without area, and one that is reversed: to the bit; and no object at all."""
    batch = ROW.batch()
    before = loss(batch)
    wild = jnp.where(batch["y"][..., None] < 0, 7.5, batch["boxes"])
    jax.tree.map(np.testing.assert_array_equal, before, loss({**batch, "boxes": wild}))
    bad = jnp.asarray([[[3.0, 3, 3, 9], [9, 9, 3, 3]]])
    boxes = jnp.where(batch["y"][:1, :, None] >= 0, bad, batch["boxes"][:1])
    one = {**batch, "boxes": batch["boxes"].at[:1].set(boxes)}
    none = {**batch, "y": batch["y"].at[0].set(-1)}
    jax.tree.map(np.testing.assert_array_equal, loss(one), loss(none))
    output, grads = loss({**batch, "y": jnp.full_like(batch["y"], -1)})
    assert output.metrics["box_loss"].total == 0
    assert output.loss.count == len(batch["y"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((output.loss, grads)))


def test_a_box_without_area_is_not_one_that_was_missed():
    batch = ROW.batch()
    maps = maps_of(batch, OBJECTIVE)
    found = jax.jit(lambda: OBJECTIVE._predictions(maps, OBJECTIVE._places(maps, batch), batch))()
    flat = jnp.asarray([[[3.0, 3, 3, 9]]]).repeat(len(batch["y"]), 0)
    more = {
        **batch,
        "boxes": jnp.concatenate([batch["boxes"], flat], 1),
        "y": jnp.pad(batch["y"], ((0, 0), (0, 1))),
    }
    assert [float(s.value()) for s in OBJECTIVE._scores(found, more).values()] == [1, 1]


@pytest.mark.slow
def test_the_loss_is_divided_once_by_the_places_of_the_whole_batch(variables):
    """Parts of a batch with different numbers of objects add up to it."""
    batch = ROW.batch()
    evaluate = jax.jit(lambda batch: OBJECTIVE.loss(variables, batch, jax.random.key(0), False))
    whole = evaluate(batch)
    parts = [evaluate({n: c[rows] for n, c in batch.items()}) for rows in (slice(6), slice(6, 12))]
    assert parts[0].loss.count != parts[1].loss.count
    together = parts[0].loss + parts[1].loss
    np.testing.assert_allclose(whole.loss.value(), together.value(), rtol=1e-5)
    names = ("class_loss", "box_loss", "centerness_loss")
    np.testing.assert_allclose(
        sum(whole.metrics[name].value() for name in names), whole.loss.value(), rtol=1e-6
    )
    assert 0 <= whole.metrics["map"].value() <= whole.metrics["map_50"].value() <= 1
    prior = jax.nn.sigmoid(ROW.model.apply(variables, batch["x"])[0][..., :3])
    np.testing.assert_allclose(prior, 0.01, atol=0.005)


SPEC = jax.eval_shape(ROW.batch)


@pytest.mark.parametrize(
    ("columns", "bounds", "message"),
    [
        ({"y": None}, {}, "there is no column y"),
        ({"boxes": None}, {}, "there is no column boxes"),
        ({"y": SPEC["boxes"]}, {}, "but boxes is"),
        ({}, {"y": (-1, 3)}, "from -1 to 3, but the model has 3 classes"),
        ({}, {"boxes": (0.0, 16.5)}, "from 0 to 16.5, which are outside of images of 16 x 16"),
        ({}, {"boxes": (-1.0, 16.0)}, "from -1 to 16"),
        ({"x": jax.ShapeDtypeStruct((12, 16, 15, 1), jnp.float32)}, {}, "a map of 8 x 8: pad"),
    ],
)
def test_data_that_do_not_fit_are_refused(columns, bounds, message):
    spec = {name: part for name, part in (SPEC | columns).items() if part is not None}
    with pytest.raises(jdl.Error, match=message):
        OBJECTIVE.check(spec, bounds)


def test_reversed_boxes_and_other_models_are_refused():
    boxes = np.asarray([[[0, 0, 4, 4], [6, 6, 3, 9]]], np.float32)
    data = jdl.data.arrays(x=np.zeros((1, 16, 16, 1), np.uint8), boxes=boxes, y=[[0, 1]])
    with pytest.raises(jdl.Error, match="right or lower edge 3 pixels before the left"):
        OBJECTIVE.check(data.batches(1).spec, data.bounds)
    raw = ArraySource({"boxes": boxes.astype(np.uint8), "flags": np.ones((1, 2, 4), bool)})
    assert raw.bounds[sides_of("boxes")] == (-3, 4)
    assert sides_of("flags") not in raw.bounds
    with pytest.raises(jdl.Error, match="a tuple of maps"):
        detect(ResNet(3, ((4, 1),))).check(SPEC, {})
    with pytest.raises(jdl.Error, match="limit of 1 or more"):
        detect(ROW.model, limit=0)


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "boxes"
    steps: int = 1


class Finds(jdl.objectives.detection.Detection):
    """A detector that finds the same two objects everywhere, the first also by another label."""

    def predict(self, variables, batch):
        boxes = jnp.asarray([[10.0, 15, 30, 20], [0, 20, 2, 22], [9, 15, 30, 20]])
        rows = len(batch["x"])
        found = {
            "boxes": boxes,
            "label": jnp.asarray([1, 0, 2]),
            "score": jnp.asarray([0.9, 0.5, 0.4]),
        }
        return {n: jnp.broadcast_to(c[None], (rows, *c.shape)) for n, c in found.items()}


@pytest.fixture(scope="module")
def trained():
    model = FCOS(3, ResNet(None, ((4, 1),)), 8, 1, 1)
    x = np.full((4, 40, 40, 1), 100, np.uint8)
    boxes = [[(10, 15, 30, 21)], [], [(0, 0, 2, 2)], [(5, 5, 9, 9)]]
    data = jdl.data.boxed_images(x, boxes, [[1], [], [2], [0]], ["a", "b", "c"])
    learner = jdl.descent(Finds(model, 4.0, 0.05, 0.6, 100), optax.adam(1e-3))
    batches = data.shuffled(4, 0), None, data.batches(4)
    run = jdl.Run(Config(), learner, *batches, labels=data.labels)
    return TrainedRun(run, jax.jit(learner.init)(jax.random.key(0), run.train[0]))


@pytest.mark.slow
def test_predict_finds_and_draws_objects_in_photos_of_any_size(trained, tmp_path):
    """In 160 x 80 pixels: 4 times as large, 10 black lines above and below the photo taken off."""
    Image.new("RGB", (160, 80), "gray").save(tmp_path / "photo.jpg")
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 40, 40, 1), np.uint8))
    inputs = [tmp_path / "photo.jpg", tmp_path / "rows.npz"]
    rows = predict(trained, inputs)
    assert [row["label"] for row in rows] == ["b", "a"] * 3
    assert [row["input"] for row in rows[2::2]] == [f"{inputs[1]}[{n}]" for n in (0, 1)]
    edges = [[row[edge] for edge in ("x0", "y0", "x1", "y1")] for row in rows]
    assert edges[0] == [40, 20, 120, 40]
    assert edges[1] == [0, 40, 8, 48]
    assert edges[2] == [10, 15, 30, 20]
    assert to_csv(rows).splitlines()[0] == "input,label,score,x0,y0,x1,y1"
    (path,) = draw_detected(rows, inputs, tmp_path / "new", trained.run.labels)
    assert path.name == "photo.boxes.png"
    with Image.open(path) as drawn:
        assert drawn.size == (480, 240)  # enlarged, to be read
        assert drawn.getpixel((240, 60)) == COLORS[1]
        assert drawn.getpixel((240, 61)) != drawn.getpixel((240, 100)) == (128, 128, 128)


def test_bytes_and_floats_are_not_mixed(trained, tmp_path):
    Image.new("RGB", (160, 80), "gray").save(tmp_path / "photo.jpg")
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 40, 40, 1), np.float32))
    with pytest.raises(jdl.Error, match=r"rows.npz\[0\] is of float32, and .*photo.jpg of uint8"):
        predict(trained, [tmp_path / "photo.jpg", tmp_path / "rows.npz"])


def test_boxes_are_drawn_on_what_the_model_saw_in_a_color_for_each_class(tmp_path):
    Image.fromarray(np.full((20, 20), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    box = {"label": "c", "score": 0.9, "x0": 2, "y0": 5, "x1": 9, "y1": 9}
    for labels, row in ((("a", "b", "c"), box), ((), {**box, "label": 2})):
        rows = [{"input": str(tmp_path / "deep.png"), **row}]
        (path,) = draw_detected(rows, [tmp_path / "deep.png"], tmp_path, labels)
        with Image.open(path) as drawn:
            assert drawn.getpixel((300, 300)) == (128, 128, 128)
            assert drawn.getpixel((100, 90)) == COLORS[2]
    with pytest.raises(jdl.Error, match=r"would both be written to deep.boxes.png"):
        draw_detected([], [tmp_path / "deep.png", tmp_path / "deep.jpg"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_detections_are_drawn_of_boxes_alone(trained, tmp_path):
    (path,) = draw_detections(trained.run, trained.variables, tmp_path)
    assert path == tmp_path / "figures" / "detections.png"
    with Image.open(path) as sheet:
        colors = {color for _, color in sheet.convert("RGB").getcolors(1 << 20)}
    assert colors >= {(0, 150, 60), (215, 30, 30), (30, 90, 230)}  # right, wrong, missed
    _, digits = jdl.data.digits()
    other = jdl.Run(Config(), trained.run.learner, trained.run.train, test=digits.batches(50))
    assert draw_detections(other, trained.variables, tmp_path) == []
