"""A fuzz of malformed inputs: whatever a file holds, a verb ends with a message, not a traceback.

    scripts/fuzz -n 600

Seeded: the same cases come again with the same --seed. Ends with code 1 where any case ended
otherwise.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import pandas
import soundfile
from harness import train
from PIL import Image

import jdl
from jdl import cli
from jdl.train.compile_cache import quiet_libraries, use_compilation_cache
from jdl.train.summary import summarize

SECONDS = 60  # after which a case hangs
ODD = (
    None,
    True,
    -1,
    0,
    2.5,
    1e400,
    10**400,
    "",
    "x",
    "../..",
    "\x00",
    [],
    [[1]],
    {},
    {"step": 3},
    float("nan"),
)


def bytes_changed(path: Path, chance: random.Random) -> None:
    """Flips, cuts, empties, repeats or replaces."""
    content = path.read_bytes()
    place = chance.randrange(max(1, len(content)))
    path.write_bytes(
        chance.choice(
            [
                content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :],
                content[:place],
                b"",
                content[:place] + content,
                chance.randbytes(40),
                b"\xff\xfe" + content,
                b"[" * 50_000,
                content.replace(b"0", b"9"),
            ]
        )
    )


def json_changed(path: Path, chance: random.Random) -> None:
    """Another value, a lost key or a new one, somewhere in one of the JSON objects of a file."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = chance.randrange(len(lines))
    whole = json.loads(lines[number])
    node, depth = whole, chance.randrange(4)
    while depth and (inner := [v for v in node.values() if isinstance(v, dict) and v]):
        node, depth = chance.choice(inner), depth - 1
    name = chance.choice(list(node))
    change = chance.randrange(3)
    if change == 0:
        del node[name]
    elif change == 1:
        node[chance.choice(["new", ""])] = chance.choice(ODD)
    else:
        node[name] = chance.choice(ODD)
    lines[number] = json.dumps(chance.choice([whole, whole, whole, [whole], *ODD]))
    path.write_text("\n".join(lines) + "\n")


def deleted(path: Path, chance: random.Random) -> None:
    """No file, or a folder in its place."""
    path.unlink()
    if chance.random() < 0.5:
        path.mkdir()


@dataclass(frozen=True)
class Target:
    """Files to change, and the verbs that read them; {} is the run's folder or the file."""

    files: str
    verbs: tuple[str, ...]
    changes: tuple[Callable[[Path, random.Random], None], ...] = (bytes_changed, deleted)


RECORD = ("runs", "show {}", "digest {}", "diff {} {}", "train")
FOLDER = ("folder raise", "folder skip", "folder skip stream")
TARGETS = [
    Target("run.json", RECORD, (bytes_changed, json_changed, json_changed, json_changed, deleted)),
    Target(
        "metrics.jsonl",
        ("runs", "show {}", "diff {} {}", "train"),
        (bytes_changed, json_changed, deleted),
    ),
    Target("leaves.jsonl", ("diff {} {}", "train"), (bytes_changed, json_changed, deleted)),
    Target("trace.f32", ("diff {} {}", "train")),
    Target("summary.json", ("runs", "show {}"), (bytes_changed, json_changed, deleted)),
    Target(
        "checkpoints/*/manifest.json",
        ("digest {}", "runs", "train"),
        (bytes_changed, json_changed, deleted),
    ),
    Target("checkpoints/*/*/*", ("digest {}", "train")),
    Target("inputs/*", ("predict RUN {}",)),
    Target("records/*", ("load",)),
    Target("tables/*", ("load",)),
    Target("idx/*", ("data prepare mnist --from {}/.. --data-dir DATA",)),
    Target("photos/*/*", FOLDER),
    Target("sounds/*/*", FOLDER),
]


def prepared(base: Path) -> Path:
    """The root of a small run, with inputs for it beside its files."""
    result = train(base / "runs", steps=2, save_every=1, keep=1)
    summarize(result)
    folder = result.folder
    (folder / "inputs").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "inputs" / "a.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "inputs" / "a.jpg")
    np.savez(folder / "inputs" / "a.npz", x=np.zeros((2, 8, 8, 1), np.float32))
    (folder / "records").mkdir()
    rows = {"text": ["one text", 'a "second"', "0"], "label": ["a", "b", "a"]}
    with (folder / "records" / "a.csv").open("w") as file:
        csv.writer(file).writerows([rows, *zip(*rows.values(), strict=True)])
    lines = [
        json.dumps(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)
    ]
    (folder / "records" / "a.jsonl").write_text("\n".join(lines))
    np.savez_compressed(folder / "records" / "a.npz", x=np.zeros((3, 2)), y=np.arange(3))
    with h5py.File(folder / "records" / "a.h5", "w") as file:
        file.create_dataset("x", data=np.ones((30, 2)), chunks=(7, 2), compression="gzip")
    (folder / "tables").mkdir()
    table = pandas.DataFrame(
        {
            "age": [3.5, None, *range(20, 38)],
            "city": ["Köln", 'a "quoted", one', "two\nlines", None] * 5,
            "since": pandas.date_range("2020-01-01", periods=20),
            "y": ["no", "yes"] * 10,
        }
    )
    table.to_csv(folder / "tables" / "a.csv", index=False)
    table.to_csv(folder / "tables" / "a.csv.gz", index=False)
    table.to_parquet(folder / "tables" / "a.parquet", row_group_size=7)
    (folder / "idx").mkdir()
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = (
            b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28)) + bytes(999)
        )
        (folder / "idx" / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / "idx" / f"{part}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(99)
        )
    for number, suffix in enumerate(("jpg", "png", "webp", "gif", "tif", "bmp")):
        photo = folder / "photos" / "ab"[number % 2] / f"{number}.{suffix}"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(1_200, dtype=np.uint8).reshape(20, 20, 3)).save(photo)
    for number, suffix in enumerate(("wav", "flac", "ogg", "mp3")):
        sound = folder / "sounds" / "ab"[number % 2] / f"{number}.{suffix}"
        sound.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(sound, np.sin(np.arange(2_000) / 9).astype(np.float32), 8_000)
    return folder


def read_folder(folder: Path, on_bad: str, stream: bool) -> None:
    """Reads a folder of images or sounds, and exits as a verb does where it cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"on_bad": on_bad, "stream": stream}
            if folder.name == "photos":
                data = jdl.data.image_folder(folder, 8, **options)
            else:
                data = jdl.data.audio_folder(folder, 8_000, 0.3, **options)
        assert all(np.isfinite(column).all() for column in data.columns.values())
    except jdl.Error as error:
        print(error)
        sys.exit(error.code)


def read_records(path: Path) -> None:
    """Reads a file of records or a table, whole, and exits as a verb does where it cannot."""
    readers = {".npz": jdl.data.npz, ".h5": jdl.data.hdf5}
    try:
        if path.parent.name == "tables":
            read = jdl.data.parquet if path.suffix == ".parquet" else jdl.data.csv
            parts = read(path, target="y").split(0.5, 0.5)
        else:
            parts = (readers.get(path.suffix, jdl.data.labelled_text)(path),)
        for data in parts:
            data.take(np.arange(len(data)))
    except jdl.Error as error:
        print(error)
        sys.exit(error.code)


class Late(BaseException):
    """A case has no end. It is no `Exception`, which a reader would take for a bad file."""


def ended(words: list[str], call: Callable[[], None] = cli.main) -> tuple[object, str]:
    """How a command line ended, and what it printed: its exit code, or what it raised."""

    def late(number: int, frame: object) -> None:
        raise Late(f"no end after {SECONDS} s")

    output = io.StringIO()
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with (
            patch.object(sys, "argv", ["jdl", *words]),
            contextlib.redirect_stderr(output),
            contextlib.redirect_stdout(output),
        ):
            call()
        return 0, output.getvalue()
    except SystemExit as end:
        return end.code or 0, output.getvalue()
    except BaseException:
        return "a traceback", traceback.format_exc()
    finally:
        signal.alarm(0)


def words_of(
    verb: str, about: Path, path: Path, folder: Path, root: Path, base: Path
) -> tuple[list[str], Callable[[], None]]:
    """The command line of a verb, and what is to be called."""
    if verb == "train":
        script = Path(__file__).parent / "scripts" / "kitchen_sink.py"
        options = ["--name", "kitchen_sink", "--steps", "2", "--quiet", "--root", str(root)]
        return ["train", str(script), *options], cli.main
    words = verb.split()
    if words[0] == "folder":
        return words, lambda: read_folder(path.parents[1], words[1], "stream" in words)
    if words[0] == "load":
        return words, lambda: read_records(path)
    places = {
        "{}": str(about),
        "RUN": str(folder),
        "{}/..": str(path.parent),
        "DATA": str(base / "data"),
    }
    words = [places.get(word, word) for word in words]
    return words + (["--root", str(root)] if words[0] != "data" else []), cli.main


def case(folder: Path, base: Path, chance: random.Random) -> str | None:
    """Changes one file of a copy, and calls one verb; what went wrong, if anything."""
    root = base / "case"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(folder.parents[2], root)
    copy = root / folder.relative_to(folder.parents[2])
    target = chance.choice(TARGETS)
    path = chance.choice(sorted(path for path in copy.glob(target.files) if path.is_file()))
    change, verb = chance.choice(target.changes), chance.choice(target.verbs)
    seed = chance.random()
    change(path, random.Random(seed))
    about = path if "inputs" in target.files or "idx" in target.files else copy
    words, call = words_of(verb, about, path, folder, root, base)
    code, output = ended(words, call)
    fine = (
        code == 0
        or (code == 1 and verb.startswith("diff"))
        or (code == 2 and output.strip() and "Traceback" not in output)
    )
    what = f"{change.__name__} of {path.relative_to(copy)}, {' '.join(words[:2])}"
    return None if fine else f"{what}: {code}\n{output}"


def storm(count: int, seed: int, verbose: bool = False) -> list[str]:
    """What went wrong in so many cases."""
    base, chance = Path(tempfile.mkdtemp(prefix="fuzz-")), random.Random(seed)
    try:
        folder = prepared(base)
        wrong = []
        with patch.dict(os.environ, JDL_CACHE=str(base / "cache")):
            for number in range(count):
                if error := case(folder, base, chance):
                    wrong.append(f"case {number}: {error}")
                    if verbose:
                        print(wrong[-1], flush=True)
        return wrong
    finally:
        shutil.rmtree(base, ignore_errors=True)


def main() -> None:
    """Raises the storm, and ends with code 1 where a case ended otherwise than it may."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz")
    parser.add_argument("-n", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ |= {"PJRT_NPROC": "8"}
    quiet_libraries()
    use_compilation_cache()
    wrong = storm(given.n, given.seed, verbose=True)
    print(f"{given.n} cases, seed {given.seed}: {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
