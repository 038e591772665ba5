"""Folders of photos: jdl.data.image_folder beside Pillow alone, and torchvision's ImageFolder.

Photos of 500 x 375 (crops of scikit-learn's sample images, JPEG of quality 90) are brought to 64 x
64. All take turns; printed are the medians in photos a second, the ratio to jdl's first epoch, and
milliseconds of processor time a photo, in which other work on the machine hardly counts. An epoch
is over batches of 64. torchvision runs with a worker a core, in the Python that the variable
TORCH_PYTHON names, if it is set; its processor time includes the start of PyTorch.

    scripts/bench images 2000
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

import jdl

SIZE, BATCH, ROUNDS = 64, 64, 3
CORES = len(os.sched_getaffinity(0))


def write_photos(folder: Path, count: int) -> None:
    """Crops of two photos, in two classes."""
    rng, photos = np.random.default_rng(0), load_sample_images().images
    for n in range(count):
        width = int(rng.integers(384, 569))
        left, top = rng.integers(0, 640 - width + 1), rng.integers(0, 427 - width * 3 // 4 + 1)
        box = (left, top, left + width, top + width * 3 // 4)
        path = folder / ("china", "flower")[n % 2] / f"{n}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photos[n % 2]).resize((500, 375), box=box).save(path, quality=90)


def pillow(folder: Path) -> None:
    """The decoding and resizing alone, by a thread a core."""

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(ImageOps.fit(upright, (SIZE, SIZE), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(CORES) as threads:
        list(threads.map(read, folder.rglob("*.jpg")))


def epoch(data: jdl.data.Dataset) -> None:
    """An epoch of shuffled batches."""
    loader = data.shuffled(BATCH, 0)
    for i, raw in zip(range(len(loader)), loader.read(), strict=False):
        jax.block_until_ready(loader._jit_batch(raw, np.int32(i)))


def first(folder: Path) -> None:
    """Hashing, decoding, writing the cache, and an epoch."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["JDL_CACHE"] = cache
        epoch(jdl.data.image_folder(folder, SIZE))


def torchvision(folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of an epoch of torchvision, in a process of its own."""
    script = Path(__file__).with_name("bench_images_torchvision.py")
    words = [os.environ["TORCH_PYTHON"], script, folder, SIZE, BATCH, CORES]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    wall, processor = map(float, done.stdout.split())
    return wall, processor


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    began, before = time.perf_counter(), sum(os.times()[:4])
    run()
    return time.perf_counter() - began, sum(os.times()[:4]) - before


def main() -> None:
    """Makes the photos, measures all in turn, and prints."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        folder.mkdir()
        write_photos(folder, count)
        os.environ["JDL_CACHE"] = str(Path(temporary) / "cache")
        memory = jdl.data.image_folder(folder, SIZE)
        streamed = jdl.data.image_folder(folder, SIZE, stream=True)
        cases = {
            "Pillow alone": lambda: timed(lambda: pillow(folder)),
            "jdl, first epoch": lambda: timed(lambda: first(folder)),
            "jdl, streamed epoch": lambda: timed(lambda: epoch(streamed)),
            "jdl, later epoch": lambda: timed(lambda: epoch(memory)),
        }
        if "TORCH_PYTHON" in os.environ:
            cases["torchvision, epoch"] = lambda: torchvision(folder)
        epoch(memory)  # compiles
        epoch(streamed)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, run in cases.items():
                seconds[name].append(run())
    ours = statistics.median(wall for wall, _ in seconds["jdl, first epoch"])
    print(f"{count} photos, {CORES} cores: photos a second, ratio to jdl's first, ms of processor")
    for name, measured in seconds.items():
        wall, processor = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{name:<22}{count / wall:>9,.0f}{ours / wall:>9.2f}{1e3 * processor / count:>9.2f}")


if __name__ == "__main__":
    main()
