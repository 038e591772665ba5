"""Pictures of what a run makes: grids of samples, of rows made again, and of what lies between two samples."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jdl.keys import stream
from jdl.parallel import to_local
from jdl.parallel import processes
from jdl.store.folder import write_whole
from jdl.types import Array, Batch, Loader, Error, Maker, Run, State, Variables

COLUMNS, MADE_AT_ONCE = 8, 64


def painter(run: Run, folder: Path) -> Callable[[State], None]:
    """The function that writes samples of a state to `samples/<step>.png`, where the run draws images.

    Of several processes all must call it, and one writes.
    """
    maker = run.learner.objective.maker
    if maker is None or maker.noise is None or not _is_image(run.train.spec["x"].shape[1:]):
        return lambda state: None

    def paint(state: State) -> None:
        images = drawn(run, to_local(run.learner.eval_variables(state)), MADE_AT_ONCE)
        if processes.first():
            write_png(folder / "samples" / f"{int(state.step)}.png", images)

    return paint


def last_figures(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """What is drawn at the end of a run: rows made again and rows between others, as far as it makes images."""
    maker = run.learner.objective.maker
    if maker is None or not _is_image(run.train.spec["x"].shape[1:]):
        return []
    figures = {"interpolations": between(run, variables, COLUMNS)}
    if maker.encode:
        figures["reconstructions"] = remade(run, variables, 32)
    paths = [folder / "figures" / f"{name}.png" for name in figures]
    if processes.first():
        for path, images in zip(paths, figures.values(), strict=True):
            write_png(path, images)
    return paths


def drawn(run: Run, variables: Variables, count: int, seed: int = 0) -> np.ndarray:
    """`count` fresh rows (count, ...), of each class in turn where there are any; `Error` where the run draws none."""
    maker = _maker(run)
    if maker.noise is None:
        raise Error(
            f"{run.config.name} draws no new rows: it makes those that it is given again, with --remake."
        )
    key = stream(jax.random.key(seed), "samples")
    parts = []
    for n in range(-(-count // MADE_AT_ONCE)):
        batch = _asked(run.train, n * MADE_AT_ONCE)
        z = maker.noise(jax.random.fold_in(stream(key, "noise"), n), batch)
        parts.append(
            np.asarray(jax.jit(maker.make)(variables, z, batch, jax.random.fold_in(key, n)))
        )
    return np.concatenate(parts)[:count]


def remade(run: Run, variables: Variables, count: int) -> np.ndarray:
    """The first rows of the evaluation data, each followed by the same made again: (2 * rows, ...)."""
    maker = _maker(run)
    if maker.encode is None:
        raise Error(
            f"{run.config.name} finds no codes of rows that it is given: it draws new ones, without --remake."
        )
    batch = _first_rows(run.test or run.valid or run.train, count)
    z = jax.jit(maker.encode)(variables, batch)
    again = jax.jit(maker.make)(variables, z, batch, jax.random.key(0))
    return np.stack([batch["x"], again], 1).reshape(-1, *again.shape[1:])


def between(run: Run, variables: Variables, steps: int, pairs: int = 8) -> np.ndarray:
    """From one row to another in `steps`, both ends among them: (pairs * steps, ...).

    Ends are codes of the data where the run finds them, and else noise. A great circle joins them (Shoemake, 1985), on
    which normal numbers stay as great as they are.
    """
    maker = _maker(run)
    if maker.encode:
        batch = _first_rows(run.test or run.valid or run.train, 2 * pairs)
        ends = jax.jit(maker.encode)(variables, batch)
    else:
        assert maker.noise is not None
        batch = {name: column[: 2 * pairs] for name, column in _asked(run.train, 0).items()}
        ends = maker.noise(stream(jax.random.key(0), "ends"), batch)
    pairs = len(ends) // 2
    z = jnp.concatenate([_arc(ends[2 * n], ends[2 * n + 1], steps) for n in range(pairs)])
    repeated = {
        name: jnp.repeat(column[0 : 2 * pairs : 2], steps, 0) for name, column in batch.items()
    }
    return np.asarray(jax.jit(maker.make)(variables, z, repeated, jax.random.key(0)))


def _arc(a: Array, b: Array, steps: int) -> Array:
    share = jnp.linspace(0, 1, steps).reshape(-1, *(1,) * a.ndim)
    cosine = (a * b).sum() / jnp.sqrt((a * a).sum() * (b * b).sum()).clip(1e-12)
    angle = jnp.arccos(cosine.clip(-1, 1))
    sine = jnp.sin(angle)
    of_a, of_b = (
        jnp.where(sine > 1e-3, jnp.sin(s * angle) / sine.clip(1e-3), s) for s in (1 - share, share)
    )
    return of_a * a[None] + of_b * b[None]


def _maker(run: Run) -> Maker:
    maker = run.learner.objective.maker
    assert maker is not None
    return maker


def _asked(data: Loader, first: int) -> Batch:
    """A batch that says what to make: rows of the data's shape, and the classes in turn from row `first` on."""
    rows = first + np.arange(MADE_AT_ONCE, dtype=np.int32)
    batch = {
        name: jnp.zeros((MADE_AT_ONCE, *column.shape[1:]), column.dtype)
        for name, column in _spec(data).items()
    }
    if "y" in batch and "y" in data.bounds and batch["y"].ndim == 1:
        batch["y"] = jnp.asarray(rows % (int(data.bounds["y"][1]) + 1), batch["y"].dtype)
    return batch


def _spec(data: Loader) -> Batch:
    return {name: column for name, column in data.spec.items() if name not in ("mask", "id")}


def _first_rows(data: Loader, count: int) -> Batch:
    batch = data[0]
    rows = min(count, data.rows, data.size)
    return {name: column[:rows] for name, column in batch.items() if name != "mask"}


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[-1] in (1, 3)


def write_png(path: Path, images: np.ndarray, columns: int = COLUMNS) -> Path:
    """Images (N, H, W, 1 or 3) from 0 to 1, side by side in so many columns, as a PNG; `Error` for other rows."""
    from PIL import Image

    if not _is_image(images.shape[1:]):
        raise Error(
            f"Rows of {images.shape[1:]} are no images, which are (H, W, 1) or (H, W, 3): take --out FILE.npz."
        )
    rows = -(-len(images) // columns)
    pixels = (255 * images.clip(0, 1)).round().astype(np.uint8)
    pixels = np.pad(
        pixels, ((0, rows * columns - len(pixels)), (1, 1), (1, 1), (0, 0)), constant_values=128
    )
    height, width, channels = pixels.shape[1:]
    grid = pixels.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * height, columns * width, channels)
    zoom = max(1, 800 // max(grid.shape[:2]))  # small images are hard to look at
    grid = grid.repeat(zoom, 0).repeat(zoom, 1)
    file = BytesIO()
    Image.fromarray(grid[..., 0] if channels == 1 else grid).save(file, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue())
    return path
