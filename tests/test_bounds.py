"""Bounds of a dataset's columns, before and after transforms; the check of labels by them.

Seen to fail: bounds of labels kept through `.map`, in both directions, and dropped where a
transform changes x alone; fewer names than classes without their check.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from image_table import AUGMENT, IMAGES, ROWS

import jdl
from jdl.data import arrays, normalize, random_crop, random_flip
from jdl.data.dataflow import dependences
from jdl.models.cnn import CNN
from jdl.train.check import check_run

LABELS = np.arange(ROWS) % 3
CHANGE_X = {
    "augmentation": AUGMENT,
    "jit": (jax.jit(random_crop(1)),),
    "jit in jit": (jax.jit(lambda key, row: jax.jit(normalize(0.5, 0.2))(key, row)),),
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
    assert table.map(normalize(0.5, 0.2)).batches(4).bounds == {"z": (0.25, 0.75)}
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


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("wrong", [{"y": 3}, {"y": -1}, {"w": -1}], ids=str)
def test_a_run_is_refused_for_the_bounds_of_any_split(split, wrong):
    """Also where they are checked together, as they have the same columns."""
    columns = {"x": IMAGES, "y": LABELS, "w": np.ones(ROWS, np.float32)}
    changed = {name: np.append(columns[name][1:], value) for name, value in wrong.items()}
    tables = {name: arrays(**columns) for name in ("train", "valid", "test")}
    tables[split] = arrays(
        **(columns | {name: x.astype(columns[name].dtype) for name, x in changed.items()})
    )
    learner = jdl.descent(
        jdl.objectives.classify(CNN(3, blocks=((2, 1),)), row_weights="w"), optax.sgd(0.1)
    )
    loaders = {name: table.batches(4) for name, table in tables.items()}
    run = jdl.Run(jdl.Config("bounds", steps=1), learner, **loaders)
    with pytest.raises(jdl.Error, match=" ".join(wrong)):
        check_run(run)


@pytest.mark.parametrize("binary", [False, True])
def test_fewer_names_than_classes_are_refused(binary):
    data = arrays(x=IMAGES, y=LABELS % 2).batches(4)
    model = CNN(1 if binary else 3, blocks=((2, 1),))
    objective = (jdl.objectives.classify_binary if binary else jdl.objectives.classify)(model)
    learner = jdl.descent(objective, optax.sgd(0.1))
    names = ("a", "b", "c")[: 2 - binary]
    run = jdl.Run(jdl.Config("names", steps=1), learner, data, data, labels=names)
    with pytest.raises(jdl.Error, match=f"names {2 - binary} classes, and the model has"):
        check_run(run)
    check_run(replace(run, labels=(*names, "d")))
