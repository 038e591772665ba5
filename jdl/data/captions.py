"""Scenes of two colored garments and the sentences that describe them, made from Fashion-MNIST."""

from __future__ import annotations

from functools import partial

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.garments import CHUNK, SEEN, garment_pixels
from jdl.data.order import permutation
from jdl.data.padding import padded
from jdl.data.scenes import Ranges, of_parts, raw_draws, within
from jdl.data.tfds_records import tfds
from jdl.types import Tokenizer

SIZE = 48  # pixels a side of a scene
PATCH = 32  # pixels a side that a garment is drawn in
NOUNS = (  # of the classes of Fashion-MNIST, in their order
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
)
COLORS = {  # red, green and blue of each
    "red": (1.0, 0.2, 0.2),
    "green": (0.2, 0.8, 0.2),
    "blue": (0.2, 0.4, 1.0),
    "yellow": (1.0, 0.9, 0.2),
}
RELATIONS = (("left of", "right of"), ("above", "below"))  # of the first to the second, and back
THINGS = len(NOUNS) * len(COLORS)
HELD_OUT = 5  # of so many arrangements, one is for test scenes alone

SCENE: Ranges = {"canvas": (0.0, 0.35), "noise": (0.0, 0.08)}  # brightness, and its deviation
GARMENT: Ranges = {
    "along": (-2.0, 2.0),  # pixels from the middle of its half of the scene
    "across": (-6.0, 6.0),
    "scale": (0.7, 0.85),  # pixels per pixel of its own image
    "turn": (-0.1, 0.1),  # up to 11 degrees, as of `jdl.data.garments`
    "light": (0.75, 1.0),
}
GARMENT_DRAWS = 1 + len(GARMENT)  # which garment of its class, and the above
NOISE = SIZE * SIZE // 8  # draws, of 8 bytes each


def garment_captions(
    tokenizer: Tokenizer,
    train: int = 6_000,
    test: int = 500,
    seed: int = 0,
    both_ways: bool = True,
) -> tuple[Dataset, Dataset]:
    """Scenes of two colored garments, and a sentence about each (captions): (train, test).

    Columns: x (48, 48, 3) of bytes; y (T,), the tokens of a sentence such as "a red boot left of a
    blue bag", with the end token, which is also the padding; and `y_length`. The garments are those
    of Fashion-MNIST (Xiao et al., 2017), which must be prepared: `jdl data prepare fashion_mnist`.
    Of the 3,200 arrangements (two garments, two colors, side by side or one above the other)
    test scenes show 640, and scenes to train on show the others, each with garments of its side of
    the split alone. Of 640 test scenes no two have the same arrangement. Each is told from one
    garment or from the other (`garment_sentences` has all sentences); without `both_ways` from the
    left or upper one, so that one caption alone is right. Scene i is a function of
    (seed, i) alone: with more scenes the first ones stay the same. They are made at 400 a second (a
    core of an AMD EPYC).
    """
    make = partial(_scenes, tokenizer, both_ways)
    return of_parts("garment_captions", lambda: tfds("fashion_mnist"), make, train, test, seed)


def garment_sentences() -> tuple[str, ...]:
    """All 6,400 sentences of `garment_captions`: 2 n and 2 n + 1 tell of the arrangement n."""
    things = [f"a {color} {noun}" for noun in NOUNS for color in COLORS]
    return tuple(
        sentence
        for first in things
        for second in things
        for forth, back in RELATIONS
        for sentence in (f"{first} {forth} {second}", f"{second} {back} {first}")
    )


def _scenes(
    tokenizer: Tokenizer, both_ways: bool, part: Dataset, rows: int, seed: int, name: str
) -> Dataset:
    order = permutation(THINGS * THINGS * len(RELATIONS), seed, name="arrangements")
    held_out = len(order) // HELD_OUT
    own = order[:held_out] if name == "test" else order[held_out:]
    arrangements = own[np.arange(rows) % len(own)]
    count = 1 + len(SCENE) + 2 * GARMENT_DRAWS + NOISE
    draws = raw_draws(rows, count, seed, f"captions {name}")
    x = np.zeros((rows, SIZE, SIZE, 3), np.uint8)
    for n in range(0, rows, CHUNK):
        chunk = slice(n, n + CHUNK)
        x[chunk] = _draw(part, arrangements[chunk], draws[chunk, 1:])
    tokens, lengths = _tokens(tokenizer)
    sentences = 2 * arrangements
    if both_ways:
        sentences += (draws[:, 0] % np.uint64(2)).astype(int)
    return arrays((), x=x, y=tokens[sentences], y_length=lengths[sentences])


def _tokens(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all sentences, padded, and their lengths."""
    encoded = [[*tokenizer.encode(text), tokenizer.eos_id] for text in garment_sentences()]
    return padded(encoded, max(map(len, encoded)), fill=tokenizer.eos_id)


def _draw(part: Dataset, arrangements: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The scenes' pixels (n, SIZE, SIZE, 3).

    By sums, products and quotients of single numbers alone, whose bits are the same everywhere.
    """
    garments, classes = part.columns["x"][..., 0], part.columns["y"]
    by_class = [np.flatnonzero(classes == k) for k in range(len(NOUNS))]
    things, axis = np.divmod(arrangements, len(RELATIONS))
    scene = within(SCENE, draws[:, : len(SCENE)])
    of_garments = draws[:, len(SCENE) : -NOISE].reshape(-1, 2, GARMENT_DRAWS)
    numbers = within(GARMENT, of_garments[..., 1:])
    pixels = np.repeat(scene["canvas"], (SIZE + PATCH) ** 2 * 3)
    pixels = pixels.reshape(-1, SIZE + PATCH, SIZE + PATCH, 3)
    for n, thing in enumerate(np.divmod(things, THINGS)):
        nouns, colors = np.divmod(thing, len(COLORS))
        which = of_garments[:, n, 0]
        chosen = [by_class[k][int(w) % len(by_class[k])] for k, w in zip(nouns, which, strict=True)]
        place = {name: values[:, n, None, None] for name, values in numbers.items()}
        along, across = place["along"] + SIZE * (1 + 2 * n) // 4, place["across"] + SIZE // 2
        aside = (axis == 0)[:, None, None]
        place["right"] = np.where(aside, along, across)
        place["down"] = np.where(aside, across, along)
        color = np.asarray(list(COLORS.values()), np.float32)[colors]
        _paint(pixels, garments[chosen], place, color)
    inside = slice(PATCH // 2, -(PATCH // 2))
    grain = draws[:, -NOISE:].astype("<u8").view(np.uint8).reshape(-1, SIZE, SIZE, 1)
    noise = scene["noise"][:, None, None, None] * (grain.astype(np.float32) / 127.5 - 1)
    bright = (pixels[:, inside, inside] + noise.astype(np.float32)).clip(0, 1)
    return np.rint(255 * bright).astype(np.uint8)


def _paint(
    pixels: np.ndarray, garments: np.ndarray, place: dict[str, np.ndarray], color: np.ndarray
) -> None:
    """Draws a garment (28, 28) of this color (3,) into each scene, in place."""
    top, left = (np.floor(place[name]).astype(int) for name in ("down", "right"))
    steps = np.arange(PATCH)
    at = np.arange(len(pixels))[:, None, None], top + steps[:, None], left + steps
    seen = garment_pixels(garments, place, top, left, PATCH)
    bright = seen * np.float32(1 / 255) * place["light"]
    painted = bright[..., None] * color[:, None, None]
    pixels[at] = np.where((seen > SEEN)[..., None], painted, pixels[at])
