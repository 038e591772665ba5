"""Small random data in place of those that are fetched or large, under the names of `jdl.data`."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np

import jdl
from jdl.data import time_series
from jdl.data.graphs import graph
from jdl.data.promoters import promoters as of_grammar
from jdl.data.spoken_keywords import LABELS, KeywordDataset, SpokenWords
from jdl.data.spoken_numbers import to_waveform
from jdl.weights.files import write_safetensors


def digit_boxes(train, test):
    """Small random images with a box each."""
    x = np.random.default_rng(0).integers(0, 256, (train + test, 64, 64, 1), np.uint8)
    boxes = np.tile(np.float32([[8, 8, 30, 30], [0, 0, 0, 0]]), (len(x), 1, 1))
    whole = jdl.data.arrays(x=x, boxes=boxes, y=np.tile([3, -1], (len(x), 1)))
    return whole.select(slice(train)), whole.select(slice(train, None))


def stdlib():
    modules = ("import os, re", "import sys", "import ast, io, re, sys")
    return [
        f"{modules[n % 3]}\n"
        + f'def f{n}(x, y={n}):\n    """Add {n} to x."""\n    return x + {n}\n' * 40
        for n in range(100)
    ]


def spoken_numbers(train=6_000, test=1_000, seed=0):
    """Noise in place of speech."""
    rng = np.random.default_rng(0)
    length = rng.integers(400, 1_280, 50)
    x = rng.random((50, 1_280), np.float32) * (np.arange(1_280) < length[:, None])
    y = rng.integers(1, 28, (50, 2))
    labels = ("", *" abcdefghijklmnopqrstuvwxyz")
    return jdl.data.arrays(labels, x=x, length=length, y=y).split(0.6, 0.2, 0.2)


def single_speaker_numbers(numbers=1_000, seed=0):
    """The same, of one speaker."""
    return spoken_numbers()


def spoken_keywords(train=6_000, test=1_200, seed=0):
    """Noise in place of words, and of noise."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3_000, 3_000, (50, 2_560)).astype(np.int16)
    columns = {"x": x, "length": np.full(50, 2_560), "y": np.arange(50) % len(LABELS)}
    source = SpokenWords(columns, LABELS, rate=16_000, noise=x[:3])
    return KeywordDataset(source, np.arange(50)).map(to_waveform).split(0.6, 0.2, 0.2)


def tfds(name, *splits, **options):
    rng = np.random.default_rng(0)
    return tuple(
        jdl.data.arrays(
            "0123456789", x=rng.integers(0, 256, (n, 28, 28, 1), np.uint8), y=np.arange(n) % 10
        )
        for n in (300, 70)
    )


def electricity(context=96, horizon=48):
    rng = np.random.default_rng(0)
    table = np.stack([np.sin(np.arange(3_000) / 8), *rng.random((6, 3_000))], 1)
    return time_series.forecast_windows(table, context, horizon, season=336)


def electricity_anomalies():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 48, 4)), np.arange(300) % 3 == 0
    return jdl.data.arrays(("normal", "anomaly"), x=x, y=y).split(0.7, 0.3)


def translation(source="en", target="fr"):
    texts = [(f"the number {n} is", f"le nombre {n} est") for n in range(400)]
    return texts[:300], texts[300:350], texts[350:]


def quran_places():
    texts = [f"verse {n} of this place" for n in range(300)]
    places = [("meccan", "medinan")[n % 2] for n in range(300)]
    return tuple({"text": texts[:n], "label": places[:n]} for n in (300, 70, 70))


def pronunciations(frames=2):
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, 400)
    steps = np.arange(8)[None] < lengths[:, None]
    x, y = (np.where(steps, rng.integers(1, 28, (400, 8)), 0) for _ in range(2))
    labels = tuple(f"P{n}" for n in range(40))
    return jdl.data.arrays(labels, x=x, length=lengths, y=y, y_length=lengths).split(0.8, 0.1, 0.1)


def cora():
    rng = np.random.default_rng(0)
    return graph(rng.random((1_700, 8)), rng.integers(0, 1_700, (3_000, 2)), np.arange(1_700) % 7)


def freesolv():
    rng = np.random.default_rng(0)
    molecules = [
        {
            "x": rng.random((n % 5 + 2, 4)),
            "edges": [(0, 1)],
            "edge_features": rng.random((1, 3)),
            "y": float(n),
        }
        for n in range(60)
    ]
    return jdl.data.graphs(molecules)


def orl_faces():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (400, 56, 46, 1), np.uint8)
    return jdl.data.arrays(x=x, y=np.arange(400) // 10)


def promoters():
    return of_grammar(300, 70)


def titanic(**options):
    columns = {"sex": ["male", "female"] * 40, "age": [None, 30.0, 40.5, 8.0] * 20}
    columns["survived"] = ["yes", "no", "no", "yes", "no"] * 16
    return jdl.data.frame(columns, target="survived", **options)


@cache
def dataset_folder(name):
    """A folder of Hugging Face with a BERT of random weights, in place of `minilm`."""
    folder = Path(tempfile.mkdtemp())
    arrays = dict(np.load(Path(__file__).parent / "golden" / "transformers" / "bert_base.npz"))
    (folder / "config.json").write_text(str(arrays.pop("config")))
    weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
    write_safetensors(folder / "model.safetensors", weights)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "verse", "of", "this", "place"]
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder


# What experiments call as jdl.data.NAME.
FAKES = (
    tfds, cora, electricity, electricity_anomalies, orl_faces, titanic, translation, quran_places,
    pronunciations, spoken_keywords, spoken_numbers, digit_boxes, freesolv, promoters,
    single_speaker_numbers, dataset_folder,
)  # fmt: skip
