"""Batches are a function of the step; no example is lost or counted twice, wherever it is kept.

Seen to fail: bounds of labels kept through `.map`, in both directions, and dropped where a
transform changes x alone; datasets that were added in spite of other sources or transforms.
"""

from itertools import count, islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.data import (
    arrays,
    digits,
    normalise,
    random_affine,
    random_crop,
    random_erase,
    random_flip,
)
from jdl.data.dataflow import dependences
from jdl.data.order import epoch_order, permutation
from jdl.types import Loader

ROWS = 23
IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, 6, 5, 2), dtype=np.uint8)
AUGMENT = (
    random_crop(1),
    random_flip(),
    random_erase(2),
    random_affine(10, 0.5, 0.1),
    normalise([0.5, 0.4], [0.2, 0.3]),
)


@pytest.fixture(params=["on the device", "streaming"])
def dataset(request):
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3, labels="abc")
    return table if request.param == "on the device" else table.streaming()


def ids_of(*batches):
    return [
        k for batch in batches for k in np.asarray(batch["id"])[np.asarray(batch["mask"])].tolist()
    ]


def test_every_epoch_has_each_example_once_in_an_order_of_its_own(dataset):
    data = dataset.shuffled(8, seed=3)
    assert len(data) == 3
    epochs = [ids_of(*(data[e * 3 + i] for i in range(3))) for e in range(3)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != ids_of(*(dataset.shuffled(8, seed=4)[i] for i in range(3)))


def test_batches_have_one_size_and_the_last_is_masked(dataset):
    data = dataset.batches(8)
    batches = [data[i] for i in range(len(data))]
    assert [int(batch["mask"].sum()) for batch in batches] == [8, 8, 7]
    assert {column.shape[0] for batch in batches for column in batch.values()} == {8}
    assert ids_of(*batches) == list(range(ROWS))
    np.testing.assert_array_equal(batches[1]["x"], IMAGES[8:16] * np.float32(1 / 255))
    assert batches[0]["x"].dtype == jnp.float32
    assert batches[0]["y"].dtype == jnp.int32


def test_reading_from_any_step_gives_the_batches_of_those_steps(dataset):
    data = dataset.shuffled(5, 0, *AUGMENT)
    make = jax.jit(data.batch)
    for start in (0, 3, 11):
        for i, source in enumerate(islice(data.read(start), 7), start):
            read = make(source, jnp.asarray(i, jnp.int32))
            jax.tree.map(np.testing.assert_array_equal, read, data[i])


def test_kept_on_the_device_or_streamed_the_bits_are_the_same():
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3)
    first, second = (t.shuffled(5, 1, *AUGMENT) for t in (table, table.streaming()))
    assert table.fits_on_device
    assert not table.streaming().fits_on_device
    for i in (0, 4, 5, 9, 17):
        jax.tree.map(np.testing.assert_array_equal, first[i], second[i])
    assert first.fingerprint == second.fingerprint


def test_augmentation_belongs_to_the_example_and_the_epoch():
    """However an epoch is cut into batches, example k of it is the same; in the next it differs."""
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3)

    def views(size, epoch):
        data = table.shuffled(size, 0, *AUGMENT)
        batches = [data[epoch * len(data) + i] for i in range(len(data))]
        return {
            k: x
            for b in batches
            for k, x in zip(ids_of(b), np.asarray(b["x"])[np.asarray(b["mask"])], strict=True)
        }

    first, other_cut, later = views(8, 0), views(5, 0), views(8, 1)
    for k in range(ROWS):
        np.testing.assert_array_equal(first[k], other_cut[k])
    assert sum((first[k] != later[k]).any() for k in range(ROWS)) > ROWS // 2


def test_the_order_is_pinned():
    """Resumed runs rely on it: with a change, jdl.store.checkpoints.FORMAT has to be raised."""
    assert permutation(10, seed=0, epoch=0).tolist() == PINNED[0]
    assert permutation(10, seed=1, epoch=2).tolist() == PINNED[1]
    assert epoch_order(5, 4, None, 0).tolist() == [0, 1, 2, 3, 4, 0, 0, 0]


PINNED = [[9, 8, 6, 0, 1, 5, 4, 7, 3, 2], [9, 0, 2, 7, 3, 4, 5, 8, 6, 1]]


def test_split_gives_disjoint_parts_by_seed():
    table = arrays(x=np.arange(50, dtype=np.float32), y=np.arange(50))
    parts = table.split(0.6, 0.2, 0.2, seed=1)
    assert [len(part) for part in parts] == [30, 10, 10]
    assert sorted(np.concatenate([part.ids for part in parts])) == list(range(50))
    np.testing.assert_array_equal(parts[0].ids, table.split(0.6, seed=1)[0].ids)
    assert parts[0].ids.tolist() != table.split(0.6, seed=2)[0].ids.tolist()
    batch = parts[1].batches(10)[0]
    np.testing.assert_array_equal(batch["y"], batch["id"])


def test_select_takes_rows_by_their_places():
    table = arrays(x=np.arange(10.0), y=np.arange(10) % 3, labels="abc").select([7, 2, 5])
    assert table.ids.tolist() == [7, 2, 5]
    assert table.select(slice(1, 3)).columns["x"].tolist() == [2, 5]
    assert table.labels == ("a", "b", "c")


def test_columns_are_those_of_the_source_in_the_order_of_the_dataset():
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3).map(normalise(0.5, 0.2)).select([3, 1])
    assert sorted(table.columns) == ["x", "y"]
    np.testing.assert_array_equal(table.columns["x"], IMAGES[[3, 1]])
    assert table.columns["y"].tolist() == [0, 1]


def test_folds_can_be_joined_to_train_on():
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3).map(normalise(0.5, 0.2))
    folds = table.split(*[1 / 4] * 4, seed=2)
    train, held_out = folds[0] + folds[2] + folds[3], folds[1]
    assert sorted([*train.ids, *held_out.ids]) == list(range(ROWS))
    assert train.ids.tolist() == [k for n in (0, 2, 3) for k in folds[n].ids.tolist()]
    x, whole = (data.batches(4)[0]["x"] for data in (train, table.select(train.ids)))
    np.testing.assert_array_equal(x, whole)
    assert train.fingerprint == table.select(train.ids).fingerprint
    assert len(folds[0] + folds[0]) == 2 * len(folds[0])
    assert not (folds[0] + folds[1].streaming()).fits_on_device
    again = arrays(x=IMAGES, y=np.arange(ROWS) % 3).select(folds[1].ids)  # another source, as good
    both = folds[0] + again.map(*table.transforms)
    assert both.fingerprint == (folds[0] + folds[1]).fingerprint


def test_datasets_that_do_not_go_together_are_not_added():
    one, other = arrays(x=IMAGES), arrays(x=IMAGES[::-1])
    with pytest.raises(jdl.Error, match="different sources"):
        one + other
    with pytest.raises(jdl.Error, match="same transforms"):
        one + one.map(random_flip())
    with pytest.raises(TypeError):
        one + 1


def test_fingerprints_follow_the_content():
    def fingerprint(**columns):
        return arrays(**columns).fingerprint

    x = np.arange(6, dtype=np.float32)
    one = fingerprint(x=x)
    assert one == fingerprint(x=x.copy())
    different = [
        fingerprint(x=x + 1),
        fingerprint(z=x),
        fingerprint(x=x.reshape(6, 1)),
        fingerprint(x=x[:5]),
    ]
    assert len({one, *different, arrays(x=x).split(0.5)[0].fingerprint}) == 6


def test_digits_are_the_real_ones():
    train, test = digits()
    assert (len(train), len(test)) == (1438, 359)
    assert not set(train.ids) & set(test.ids)
    batch = train.batches(1438)[0]
    assert batch["x"].shape == (1438, 8, 8, 1)
    assert float(batch["x"].min()) == 0
    assert float(batch["x"].max()) == 1
    assert set(np.asarray(batch["y"]).tolist()) == set(range(10))
    (whole,) = digits(1.0)
    assert whole.ids.tolist() == list(range(1797))  # the order of scikit-learn
    order = np.argsort((train + test).ids)
    np.testing.assert_array_equal((train + test).select(order).columns["x"], whole.columns["x"])
    assert [len(part) for part in digits(0.5, 0.25, 0.25)] == [898, 450, 449]


LABELS = np.arange(ROWS) % 3
CHANGE_X = {
    "augmentation": AUGMENT,
    "jit": (jax.jit(random_crop(1)),),
    "jit in jit": (jax.jit(lambda key, row: jax.jit(normalise(0.5, 0.2))(key, row)),),
}


@pytest.mark.parametrize("transforms", CHANGE_X.values(), ids=CHANGE_X)
def test_transforms_of_x_keep_the_bounds_of_the_labels(transforms):
    table = arrays(x=IMAGES, y=LABELS + 4, z=np.linspace(0.25, 0.75, ROWS))
    low, high = int(IMAGES.min()) / 255, int(IMAGES.max()) / 255
    expected = {"y": (4, 6), "z": (0.25, 0.75)}
    assert table.batches(5).bounds == {"x": (low, high), **expected}
    for data in (table, table.streaming()):
        assert data.shuffled(5, 0, *transforms).bounds == expected
        assert data.map(*transforms).batches(5).bounds == expected


NEW_LABELS = {
    "is it a 1?": (lambda key, row: {**row, "y": (row["y"] == 1).astype(jnp.int32)}, (0, 1)),
    "raised": (lambda key, row: {**row, "y": row["y"] + 5}, (5, 7)),
    "in a jit": (jax.jit(lambda key, row: {**row, "y": row["y"] + 5}), (5, 7)),
    "looked up": (lambda key, row: {**row, "y": jnp.asarray([40, 20, 30])[row["y"]]}, (20, 40)),
    "one for all": (lambda key, row: {**row, "y": jnp.int32(7)}, (7, 7)),
    "exchanged": (lambda key, row: {**row, "y": row["w"]}, (-9, 13)),
    "chosen": (
        lambda key, row: {
            **row,
            "y": jax.lax.cond(row["y"] > 0, lambda y: y, lambda y: y + 9, row["y"]),
        },
        (1, 9),
    ),
    "drawn": (
        lambda key, row: {**row, "y": row["y"] + jax.random.bernoulli(key).astype(jnp.int32)},
        None,
    ),
    "dropped": (lambda key, row: {name: row[name] for name in ("x", "w")}, None),
}


@pytest.mark.parametrize(("transform", "bounds"), NEW_LABELS.values(), ids=NEW_LABELS)
def test_bounds_of_new_labels_are_their_own(transform, bounds):
    """They are unknown where the key may change them, and where all rows would have to be read."""
    table = arrays(x=IMAGES, y=LABELS, w=np.arange(ROWS) - 9)
    for transforms in ((transform,), (random_flip(), transform)):
        loader = table.shuffled(5, 0, *transforms)
        assert loader.bounds.get("y") == bounds
        assert loader.bounds["w"] == (-9, 13)
        streamed = table.streaming().shuffled(5, 0, *transforms).bounds
        assert streamed.get("y") == (bounds if bounds == (-9, 13) else None)
    if bounds:
        batches = [loader[i] for i in range(len(loader))]
        labels = np.concatenate([np.asarray(b["y"])[np.asarray(b["mask"])] for b in batches])
        assert (labels.min(), labels.max()) == bounds


def test_bounds_of_labels_made_of_images_are_known_unless_these_are_augmented():
    def is_bright(key, row):
        return {**row, "y": 3 + (row["x"].mean() > 0).astype(jnp.int32)}

    table = arrays(x=IMAGES, y=LABELS)
    assert table.map(is_bright).shuffled(5, 0, random_flip()).bounds == {"y": (4, 4)}
    assert table.map(random_flip(), is_bright).batches(5).bounds == {}


def test_labels_are_checked_as_the_transforms_make_them():
    from jdl.models.mlp import MLP

    table = arrays(x=IMAGES, y=np.arange(ROWS) % 10)
    is_eight, raised = (
        table.map(lambda key, row: {**row, "y": (row["y"] == 8).astype(jnp.int32)}).batches(8),
        table.map(lambda key, row: {**row, "y": row["y"] + 5}).batches(8),
    )
    two, ten = (jdl.objectives.classify(MLP(outputs, ())) for outputs in (2, 10))
    two.check(is_eight.spec, is_eight.bounds)
    with pytest.raises(jdl.Error, match="5 to 14"):
        ten.check(raised.spec, raised.bounds)


def test_floats_that_a_transform_changes_have_no_bounds():
    table = arrays(x=IMAGES, z=np.linspace(0.25, 0.75, ROWS))
    assert table.map(normalise(0.5, 0.2)).batches(4).bounds == {"z": (0.25, 0.75)}
    doubled = table.map(lambda key, row: {**row, "z": 2 * row["z"], "u": row["x"]}).batches(4)
    assert doubled.bounds.keys() == {"x", "u"}
    assert doubled.bounds["u"] == doubled.bounds["x"] == table.batches(4).bounds["x"]


def test_dataflow_says_what_an_output_depends_on():
    def function(a, b, c):
        d = jax.jit(lambda a, b: (b, a + b))(a, b)
        return *d, c, jnp.float32(1), jax.lax.cond(c > 0, lambda x: x, lambda x: -x, a)

    jaxpr = jax.make_jaxpr(function)(1.0, 2.0, 3.0).jaxpr
    outputs = [(set(output.inputs), output.copy_of) for output in dependences(jaxpr)]
    assert outputs == [({1}, 1), ({0, 1}, None), ({2}, 2), (set(), None), ({0, 2}, None)]


class Noise(Loader):
    """The four required members and nothing else: y is 3 x + 1, of fresh rows in every batch."""

    def __init__(self, seed=0):
        self.seed, self.factor = seed, jnp.full((16,), 3.0)

    def __len__(self):
        return 4

    @property
    def spec(self):
        return {name: jax.ShapeDtypeStruct((16, 1), jnp.float32) for name in "xy"}

    def read(self, start=0):
        for i in count(start):
            rng = np.random.default_rng((self.seed, i))
            yield {"x": rng.normal(size=(16, 1)).astype(np.float32), "factor": self.factor}

    def batch(self, source, i):
        return {"x": source["x"], "y": source["x"] * source["factor"][0] + 1}


def test_a_loader_of_four_members_has_all_the_others():
    loader = Noise()
    assert (len(loader), loader.size, loader.rows, loader.bounds) == (4, 16, 64, {})
    first, later = loader[0], loader[5]
    assert jax.tree.map(lambda c: (c.shape, c.dtype), first) == jax.tree.map(
        lambda c: (c.shape, c.dtype), loader.spec
    )
    assert (first["x"] != later["x"]).all()
    np.testing.assert_array_equal(later["y"], loader.batch(next(loader.read(5)), 5)["y"])
    assert loader.fingerprint == Noise().fingerprint != Noise(1).fingerprint


def test_a_part_of_a_loader_reads_those_rows_and_leaves_the_rest_as_it_is():
    loader = Noise()
    part = loader.shard(slice(4, 8))
    whole, cut = next(loader.read(3)), next(part.read(3))
    np.testing.assert_array_equal(cut["x"], whole["x"][4:8])
    assert cut["factor"] is whole["factor"]
    assert (len(part), part.size, part.rows, part.bounds) == (4, 16, 64, {})
    assert (part.spec, part.fingerprint) == (loader.spec, loader.fingerprint)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_loader_of_four_members_trains(tmp_path, devices):
    from jdl.models.mlp import MLP

    learner = jdl.descent(jdl.objectives.regress(MLP(1, ())), jdl.optim.adamw(0.1))
    run = jdl.Run(jdl.Config(name="noise", steps=150), learner, Noise(), test=Noise(1))
    result = jdl.fit(run, jdl.Options(root=tmp_path, quiet=True, devices=devices))
    assert float(result.metrics["test"]["loss"].value()) < 1e-2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: arrays(x=[np.zeros((2, 2)), np.zeros((2, 3))]),
            r"number 0 is \(2, 2\) and number 1 is \(2, 3\)",
        ),
        (lambda: arrays(x=np.asarray([0.0, np.nan])), "NaN or infinite value, first in row 1"),
        (lambda: arrays(x=np.zeros(3), y=np.zeros(4)), "same number of rows"),
        (lambda: arrays(x=np.zeros(3), id=np.zeros(3)), "none of them id"),
        (lambda: arrays(), "at least one column"),
        (lambda: arrays(x=np.asarray(["a"])), "must hold numbers"),
        (lambda: arrays(y=np.asarray([2**40])), "32 bits"),
        (lambda: arrays(x=np.zeros(3)).batches(0), "at least 1"),
        (lambda: arrays(x=np.zeros(3)).batches(-5), "not -5"),
        (lambda: arrays(x=np.zeros(3)).shuffled(4, 0), "larger than the dataset, which has 3"),
        (lambda: arrays(x=np.zeros((0, 2))).batches(1), "no examples"),
        (lambda: arrays(x=np.zeros(3)).split(0.9, 0.2), "sum to 1 at most"),
        (lambda: normalise(0.5, 0.0), "above 0"),
    ],
)
def test_refusals_name_what_is_wrong(make, message):
    with pytest.raises(jdl.Error, match=message):
        make()


def key(n=0):
    return jax.random.key(n)


def test_crops_are_windows_of_the_padded_image():
    image = {"x": jnp.arange(1.0, 17).reshape(4, 4, 1)}
    padded = np.pad(np.asarray(image["x"]), ((1, 1), (1, 1), (0, 0)))
    windows = [padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    seen = {
        next(
            n
            for n, window in enumerate(windows)
            if (np.asarray(random_crop(1)(key(k), image)["x"]) == window).all()
        )
        for k in range(60)
    }
    assert seen == set(range(9))


def test_flips_mirror_half_of_the_images():
    image = {"x": jnp.arange(8.0).reshape(2, 4, 1)}
    flipped = [np.asarray(random_flip()(key(k), image)["x"]) for k in range(40)]
    mirrored = sum((x == np.asarray(image["x"])[:, ::-1]).all() for x in flipped)
    assert 10 < mirrored < 30
    assert mirrored + sum((x == np.asarray(image["x"])).all() for x in flipped) == 40


def test_erasing_fills_one_square():
    image = {"x": jnp.ones((5, 6, 2))}
    for k in range(10):
        erased = np.asarray(random_erase(3, probability=1.0)(key(k), image)["x"])
        rows, columns = np.nonzero((erased == 0).all(-1))
        assert len(rows) == 9
        assert (np.ptp(rows), np.ptp(columns)) == (2, 2)
    with pytest.raises(jdl.Error, match="does not fit"):
        random_erase(7)(key(), image)


def test_affine_turns_moves_and_scales():
    """An image of its own coordinates says where each pixel was read."""
    places = jnp.moveaxis(jnp.indices((9, 9), jnp.float32), 0, -1)

    def read(**most):
        return jax.vmap(lambda key: random_affine(**most)(key, {"x": places})["x"])(
            jax.random.split(key(0), 200)
        )

    np.testing.assert_allclose(read(), jnp.broadcast_to(places, (200, 9, 9, 2)), atol=1e-5)
    moved = read(shift=1.5)[:, 2:7, 2:7] - places[None, 2:7, 2:7]
    assert np.ptp(np.asarray(moved), (1, 2)).max() < 1e-4
    assert 1.4 < np.abs(moved).max() <= 1.5 + 1e-4
    for most, angles, sizes in (
        ({"rotation": 30.0}, (25, 30), (1, 1)),
        ({"zoom": 0.3}, (0, 0), (1 / 1.3, 1 / 0.7)),
    ):
        found = read(**most)
        down, right = found[:, 5, 4] - found[:, 4, 4], found[:, 4, 5] - found[:, 4, 4]
        np.testing.assert_allclose(found[:, 4, 4], 4.0, atol=1e-5)  # the middle stays
        np.testing.assert_allclose(down[:, 0], right[:, 1], atol=1e-5)
        np.testing.assert_allclose(down[:, 1], -right[:, 0], atol=1e-5)
        size, angle = np.hypot(*down.T), np.degrees(np.arctan2(down[:, 1], down[:, 0]))
        assert angles[0] - 1e-3 <= np.abs(angle).max() <= angles[1] + 1e-3
        assert sizes[0] - 1e-4 <= size.min() <= size.max() <= sizes[1] + 1e-4
        assert np.ptp(size) >= 0.8 * (sizes[1] - sizes[0])
    with pytest.raises(jdl.Error, match="zoom below 1"):
        random_affine(zoom=1.0)
