"""Classes that are left out, and principal components, against scikit-learn's PCA.

Seen to fail: the unseen class in the training; validation rows without it; columns that are lost;
a streamed dataset that is kept on the device; components by the test's rows, by padding too, with
the other sign, or of batches about their own means; directions without any variance.
"""

import numpy as np
import pytest
from sklearn.decomposition import PCA

import jdl
from jdl.data import principal_components, unseen_class

RNG = np.random.default_rng(0)
Y = np.arange(1_500) % 5
IMAGES = RNG.integers(0, 256, (1_500, 4, 4, 1)).astype(np.uint8)
TRAIN, TEST = jdl.data.arrays(x=IMAGES, y=Y, row=np.arange(1_500)).split(0.8, 0.2)


def test_one_class_is_never_in_training():
    """Validation has its share of it; rows keep their columns, and the test its order."""
    train, valid, test = unseen_class(3, TRAIN.streaming(), TEST, valid=0.25)
    assert [part.fits_on_device for part in (train, valid, test)] == [False, False, True]
    known = TRAIN.column("y")
    seen = np.concatenate([part.column("row") for part in (train, valid)])
    assert len(set(seen)) == len(seen)
    assert not train.column("y").any()
    assert 3 not in Y[train.column("row")]
    assert len(train) == pytest.approx(0.75 * (known != 3).sum(), abs=1)
    np.testing.assert_array_equal(valid.column("y"), Y[valid.column("row")] == 3)
    assert valid.column("y").sum() == pytest.approx(0.25 * (known == 3).sum(), abs=1)
    np.testing.assert_array_equal(test.column("row"), TEST.column("row"))
    np.testing.assert_array_equal(test.column("y"), TEST.column("y") == 3)
    np.testing.assert_array_equal(test.column("x"), TEST.column("x"))
    assert train.labels == ("normal", "anomaly")


def test_components_are_those_of_scikit_learn():
    """Of rows in two batches, far from 0, by the training rows alone."""
    scale = np.linspace(3, 0.5, 6).reshape(2, 3)
    x = 1_000 + scale * RNG.normal(size=(1_500, 2, 3))
    train, test = jdl.data.arrays(x=x, y=Y).split(0.8, 0.2)
    reference = PCA(4).fit(train.column("x").astype(np.float64).reshape(-1, 6))
    for part in principal_components(train, test, components=4):
        batch = part.batches(len(part))[0]
        expected = reference.transform(part.column("x").astype(np.float64).reshape(-1, 6))
        np.testing.assert_allclose(batch["x"], expected, atol=1e-3)  # 1,000 in float32
        np.testing.assert_array_equal(batch["y"], part.column("y"))


def test_of_images_they_are_of_pixels_from_0_to_1_after_the_transforms():
    darker = TRAIN.map(jdl.data.augment.on_x(lambda key, x: x / 2))
    (part,) = principal_components(darker, components=2)
    pixels = TRAIN.column("x").reshape(-1, 16) / 510
    np.testing.assert_allclose(
        part.batches(len(part))[0]["x"], PCA(2).fit_transform(pixels), atol=1e-5
    )


REFUSED = {
    "class": (lambda: unseen_class(7, TRAIN, TEST), "Class 7 is none or all of train, which has"),
    "labels": (
        lambda: unseen_class(1, TRAIN, jdl.data.arrays(x=IMAGES)),
        "one class for each row of test",
    ),
    "integers": (
        lambda: principal_components(jdl.data.arrays(x=Y[:, None]), components=1),
        "of floats or images",
    ),
    "components": (lambda: principal_components(TRAIN, components=17), "from 1 to 16: a row has"),
    "rows": (
        lambda: principal_components(TRAIN.select(np.arange(9)), components=9),
        "from 1 to 8: a row has 16 numbers, and one less than the training rows is 8",
    ),
    "directions": (
        lambda: principal_components(
            jdl.data.arrays(x=RNG.normal(size=(40, 2)) @ RNG.normal(size=(2, 5))), components=3
        ),
        "vary in 2 directions only",
    ),
    "constant": (
        lambda: principal_components(jdl.data.arrays(x=np.full((30, 2), 0.1)), components=1),
        "All training rows are the same",
    ),
    "size": (
        lambda: principal_components(jdl.data.arrays(x=np.zeros((3, 5_000))), components=1),
        "up to 4096 numbers, and these have 5000",
    ),
    "shapes": (
        lambda: principal_components(TRAIN, jdl.data.arrays(x=np.zeros((3, 2))), components=1),
        r"\(4, 4, 1\) in the training data and \(2,\) in another",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_what_is_wrong(case):
    make, message = REFUSED[case]
    with pytest.raises(jdl.Error, match=message):
        make()
