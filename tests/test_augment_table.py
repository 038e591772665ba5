"""All augmentations: pure, by (seed, epoch, id), in range; and each against its reference.

Seen to fail: a hue turned the wrong way; a window resized without antialiasing, or with what lies
beyond its border; cutout that stays within the image; a mask of time beyond the length; colors
after `normalize` that are not refused.
"""

import math
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from xla_flags import WITH_NEW_EMITTERS

import jdl
from jdl.data import (
    arrays,
    color_jitter,
    cutmix,
    cutout,
    gaussian_blur,
    gaussian_noise,
    mixup,
    normalize,
    rand_augment,
    random_affine,
    random_crop,
    random_erase,
    random_flip,
    random_grayscale,
    random_resized_crop,
    spec_augment,
)
from jdl.data.augment import BatchTransform
from jdl.data.augment_color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blur,
    to_gray,
)
from jdl.data.rand_augment import (
    COLOR,
    GEOMETRIC,
    apply_operation,
    autocontrast,
    equalize,
    posterize,
    sharpen,
    solarize,
)
from jdl.data.resample import affine_places, resize_window, sample_bilinear

ROWS = 13
IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, 7, 5, 3), dtype=np.uint8)
SPECTRA = np.random.default_rng(1).random((ROWS, 9, 6), np.float32)
WHOLE = {"scale": (1, 1), "ratio": (5 / 7, 5 / 7)}  # the whole image of 7 x 5
TABLE = {  # name: (with a strength, with none, the bounds of x where promised)
    "affine": (random_affine(20, 1, 0.2, 10), random_affine(), (0, 1)),
    "blur": (gaussian_blur(3), gaussian_blur(3, (1e-3, 1e-3)), (0, 1)),
    "crop": (random_crop(2), random_crop(0), (0, 1)),
    "cutmix": (cutmix(1.0, 3), cutmix(0.0, 3), (0, 1)),
    "cutout": (cutout(3), cutout(0), (0, 1)),
    "erase": (random_erase(2), random_erase(2, 0.0), (0, 1)),
    "flip": (random_flip(), random_flip(0.0), (0, 1)),
    "flip-vertical": (random_flip(vertical=True), random_flip(0.0, vertical=True), (0, 1)),
    "grayscale": (random_grayscale(0.5), random_grayscale(0.0), (0, 1)),
    "jitter": (color_jitter(0.4, 0.4, 0.4, 0.2), color_jitter(), (0, 1)),
    "mixup": (mixup(0.4, 3), mixup(0.0, 3), (0, 1)),
    "noise": (gaussian_noise(0.2), gaussian_noise(0.0), None),
    "rand_augment": (rand_augment(), rand_augment(0), (0, 1)),
    "resized_crop": (random_resized_crop(), random_resized_crop(**WHOLE), (0, 1)),
    "spec_augment": (spec_augment(1, 4, 1, 3), spec_augment(1, 0, 1, 0), (0, 1)),
}


CHAIN = [name for name in TABLE if name not in ("cutmix", "mixup", "spec_augment")]


@pytest.fixture(scope="module")
def changed():
    """Of each augmentation: what it makes of the rows, with a strength and with none."""

    @jax.jit
    def change(images, spectra):
        images = images.astype(jnp.float32) * np.float32(1 / 255)
        found = {}
        for n, (name, (strong, none, _)) in enumerate(TABLE.items()):
            x = spectra if name == "spec_augment" else images
            columns = {"x": x, "y": jnp.arange(ROWS) % 3}
            found[name] = columns, apply(strong, 2 * n, columns), apply(none, 2 * n + 1, columns)
        return found

    return jax.device_get(change(IMAGES, SPECTRA))


def apply(transform, seed, columns):
    keys = jax.random.split(jax.random.key(seed), ROWS)
    if isinstance(transform, BatchTransform):
        return transform.change(keys, {**columns, "mask": jnp.arange(ROWS) < ROWS})
    return jax.vmap(transform)(keys, columns)


@pytest.mark.parametrize("name", TABLE)
def test_an_augmentation_keeps_shape_type_and_range(changed, name):
    before, strong, none = changed[name]
    bounds = TABLE[name][2]
    assert strong["x"].dtype == np.float32
    assert strong["x"].shape == before["x"].shape
    assert np.isfinite(strong["x"]).all()
    assert bounds is None or -1e-6 <= strong["x"].min() <= strong["x"].max() <= 1 + 1e-6
    assert (strong["x"] != before["x"]).any((1, 2)).sum() > 3
    np.testing.assert_allclose(none["x"], before["x"], atol=1e-6)
    batchwise = isinstance(TABLE[name][1], BatchTransform)
    np.testing.assert_array_equal(none["y"], np.eye(3)[before["y"]] if batchwise else before["y"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [("resized_crop", "noise"), pytest.param(CHAIN, marks=pytest.mark.slow)],
    ids=["quick", "all"],
)
def test_augmentations_are_a_function_of_seed_epoch_and_id(names):
    """In batches of another size, streamed, the same bits; in another epoch, others."""
    table, chain = arrays(x=IMAGES), [TABLE[name][0] for name in names]
    first = rows_of(table.shuffled(5, 0, *chain))
    streamed = table.streaming().shuffled(8, 0, *chain)
    second, later = rows_of(streamed), rows_of(streamed, 1)
    for k, x in first.items():
        np.testing.assert_array_equal(second[k], x)
        assert (later[k] != x).any()


def rows_of(loader, epoch=0):
    """The images of an epoch by their ids, from batches compiled as users' are.

    Two programs of the older fusion emitter may round a row in two ways.
    """
    batch = jax.jit(loader.batch, compiler_options=WITH_NEW_EMITTERS)
    start = epoch * len(loader)
    raw = islice(loader.read(start), len(loader))
    batches = [batch(r, jnp.int32(i)) for i, r in enumerate(raw, start)]
    rows = [
        (int(k), x)
        for b in batches
        for k, x, real in zip(b["id"], np.asarray(b["x"]), b["mask"], strict=True)
        if real
    ]
    assert len(dict(rows)) == len(rows) == ROWS
    return dict(rows)


GOLDEN = np.load(Path(__file__).parent / "golden" / "torchvision.npz")
X = GOLDEN["x"]


def affine(angle=0.0, scale=1.0, slope=0.0):
    values = [jnp.float32(value) for value in (math.radians(angle), scale, slope)]
    return lambda x: sample_bilinear(x, affine_places(x, *values, jnp.zeros(2)))


TORCHVISION = {
    "brightness": lambda x: adjust_brightness(x, 1.4),
    "contrast": lambda x: adjust_contrast(x, 1.7),
    "saturation": lambda x: adjust_saturation(x, 0.3),
    "hue": lambda x: adjust_hue(x, jnp.float32(-0.2)),
    "gray": to_gray,
    "blur": lambda x: blur(x, jnp.float32(0.8), 5),
    "larger": lambda x: resize_window(x, jnp.array([3.0, 2]), jnp.array([6.0, 8]), (14, 11)),
    "smaller": lambda x: resize_window(x, jnp.array([1.0, 0]), jnp.array([12.0, 10]), (5, 4)),
    "rotate": affine(angle=20),
    "zoom": affine(scale=1.3),
    "shear": affine(slope=math.tan(math.radians(15))),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_an_operation_equals_torchvision(name):
    np.testing.assert_allclose(TORCHVISION[name](jnp.asarray(X)), GOLDEN[name], atol=2e-6)


PIXELS = np.random.default_rng(2).normal(100, 40, (20, 31, 3)).clip(0, 255).astype(np.uint8)
FLOATS = PIXELS / np.float32(255)
PILLOW = {  # (ours, Pillow's, bound in levels): Pillow rounds twice where it blends with a gray
    "brightness": (lambda x: adjust_brightness(x, 1.9), ImageEnhance.Brightness, 1.0),
    "contrast": (lambda x: adjust_contrast(x, 1.9), ImageEnhance.Contrast, 1.5),
    "color": (lambda x: adjust_saturation(x, 1.9), ImageEnhance.Color, 1.5),
    "sharpness": (lambda x: sharpen(x, 1.9), ImageEnhance.Sharpness, 1.5),
    "posterize": (lambda x: posterize(x, 5), lambda i: ImageOps.posterize(i, 5), 0.01),
    "solarize": (lambda x: solarize(x, 0.4), lambda i: ImageOps.solarize(i, 102), 0.01),
    "autocontrast": (autocontrast, ImageOps.autocontrast, 1.0),
    "equalize": (equalize, ImageOps.equalize, 0.01),
}


@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_of_rand_augment_equals_pillow(name):
    ours, pillow, bound = PILLOW[name]
    expected = pillow(Image.fromarray(PIXELS))
    expected = expected if isinstance(expected, Image.Image) else expected.enhance(1.9)
    found = np.asarray(ours(jnp.asarray(FLOATS))) * 255
    assert np.abs(found - np.asarray(expected, np.float32)).max() <= bound + 1e-3


def operations(x):
    """What each operation makes of an image, by name, in both directions."""
    names = (*GEOMETRIC, *COLOR)

    @jax.jit
    def both(index):
        return jax.vmap(lambda positive: apply_operation(x, index, positive, 1.0))(
            jnp.asarray([False, True])
        )

    return {name: np.asarray(both(jnp.asarray(n))) for n, name in enumerate(names)}


def test_rand_augment_moves_images_in_both_directions():
    """An image of its own coordinates says where each pixel was read, seen from the middle."""
    places = jnp.moveaxis(jnp.indices((9, 11), jnp.float32), 0, -1)
    found = operations(jnp.pad(places, ((0, 0), (0, 0), (0, 1))))
    inner = np.s_[3:6, 4:7]
    down, right = (np.asarray(places[inner][..., n]) - side for n, side in enumerate((4, 5)))
    sine, cosine = math.sin(math.radians(30)), math.cos(math.radians(30))
    for positive, sign in ((1, 1), (0, -1)):
        for name, rows, columns in (
            ("identity", down, right),
            ("shear_x", down, right + sign * 0.3 * down),
            ("shear_y", down + sign * 0.3 * right, right),
            ("translate_x", down, right - sign * 4),  # 150 / 331 of 11 pixels
            ("translate_y", down - sign * 4, right),  # of 9 pixels
            ("rotate", cosine * down + sign * sine * right, cosine * right - sign * sine * down),
        ):
            seen = (np.abs(rows) <= 4) & (np.abs(columns) <= 5)  # within the image
            read = found[name][positive][inner]
            np.testing.assert_allclose(read[..., 0][seen], rows[seen] + 4, atol=1e-5)
            np.testing.assert_allclose(read[..., 1][seen], columns[seen] + 5, atol=1e-5)


def test_rand_augment_draws_all_operations():
    x = jnp.asarray(FLOATS[:6, :7])
    change = rand_augment(1, 30)
    keys = jax.random.split(jax.random.key(0), 300)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: change(key, {"x": x})["x"]))(keys))
    for name, images in operations(x).items():
        for image in images:
            assert (np.abs(drawn - image).max((1, 2, 3)) < 1e-4).sum() > 2, name


def test_cutout_may_cross_the_border():
    ones = {"x": jnp.ones((6, 5, 1))}
    keys = jax.random.split(jax.random.key(0), 200)
    cut = jax.vmap(lambda key: cutout(3)(key, ones)["x"])(keys)
    sizes = np.asarray((cut == 0).sum((1, 2, 3)))
    assert set(sizes) == {4, 6, 9}
    assert np.asarray((cut == 0).any(0)).all()


def test_resized_crops_have_the_shares_that_were_asked_for():
    """An image of its own coordinates says how large the window was."""
    places = jnp.moveaxis(jnp.indices((40, 30), jnp.float32), 0, -1)
    change = random_resized_crop((20, 10), scale=(0.25, 0.5), ratio=(0.5, 1.5))
    keys = jax.random.split(jax.random.key(0), 100)
    seen = np.asarray(jax.jit(jax.vmap(lambda key: change(key, {"x": places})["x"]))(keys))
    assert seen.shape == (100, 20, 10, 2)
    tall = (seen[:, 12, 5, 0] - seen[:, 8, 5, 0]) / 4 * 20
    wide = (seen[:, 10, 6, 1] - seen[:, 10, 4, 1]) / 2 * 10
    share, ratio = tall * wide / 1200, wide / tall
    assert 0.23 < share.min() < 0.29
    assert 0.46 < share.max() < 0.52
    assert 0.47 < ratio.min() < 0.7
    assert 1.2 < ratio.max() < 1.55


@pytest.mark.slow
def test_masks_of_a_spectrogram_lie_within_its_length():
    ones = {"x": jnp.ones((12, 8, 1)), "length": jnp.int32(7)}

    def masked(*given):
        keys = jax.random.split(jax.random.key(0), 200)
        change = spec_augment(*given)
        return np.asarray(jax.vmap(lambda key: change(key, ones)["x"][..., 0] == 0)(keys))

    time, freq = masked(1, 3, 0, 0), masked(0, 0, 1, 4)
    assert not time[:, 7:].any()
    assert time[:, :7].any((0, 2)).all()
    assert set(time.all(2).sum(1)) == {0, 1, 2, 3}
    assert set(freq.all(1).sum(1)) == {0, 1, 2, 3, 4}
    assert set(masked(1, 99, 0, 0).all(2).sum(1)) == set(range(8))


GRAY = arrays(x=np.zeros((4, 4, 4, 1), np.uint8))
REFUSED = {
    "after normalize": (
        lambda: GRAY.map(normalize(0.5, 0.2)).shuffled(4, 0, rand_augment()),
        "raw",
    ),
    "one channel": (lambda: GRAY.shuffled(4, 0, color_jitter(hue=0.1)).spec, "three channels"),
    "no color": (lambda: GRAY.shuffled(4, 0, random_grayscale()).spec, "three channels"),
    "whole numbers": (
        lambda: arrays(x=np.ones((4, 3, 3, 1), int)).shuffled(4, 0, rand_augment()).spec,
        "int32",
    ),
    "strength": (lambda: color_jitter(hue=0.7), "up to 0.5"),
    "magnitude": (lambda: rand_augment(2, 31), "from 0 to 30"),
    "kernel": (lambda: gaussian_blur(4), "odd"),
    "shares": (lambda: random_resized_crop(scale=(0, 1)), "above 0"),
    "noise": (lambda: gaussian_noise(-1), "0 or more"),
    "side": (lambda: cutout(-1), "0 or more"),
    "images": (lambda: arrays(x=IMAGES).shuffled(4, 0, spec_augment()).spec, "spectrograms"),
}


@pytest.mark.parametrize(("build", "match"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(build, match):
    with pytest.raises(jdl.Error, match=match):
        build()


@pytest.mark.slow
def test_gray_images_take_what_needs_no_color():
    assert GRAY.shuffled(4, 0, rand_augment(), color_jitter(0.2, 0.2))[0]["x"].shape == (4, 4, 4, 1)
