"""Figures of a generative model: grids of samples, reconstructions and interpolations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.keys import stream
from jdl.objectives.diffusion import Diffusion
from jdl.parallel import processes, to_local
from jdl.run import Run
from jdl.store.folder import write_atomically
from jdl.types import (
    Array,
    Batch,
    Encodes,
    Error,
    Generates,
    Key,
    Loader,
    SamplesLatents,
    State,
    Variables,
)

COLUMNS, BATCH = 8, 64


def sample_writer(run: Run, folder: Path) -> Callable[[State], None]:
    """The function that writes samples of a state to `samples/<step>.png`, if the run makes images.

    A collective: with several processes, all must call it, and only the first writes.
    """
    objective = run.learner.objective
    if not isinstance(objective, SamplesLatents) or not is_image(run.train.spec["x"].shape[1:]):
        return lambda state: None

    def paint(state: State) -> None:
        images = generate(run, to_local(run.learner.eval_variables(state)), BATCH)
        if processes.is_first():
            write_png(folder / "samples" / f"{int(state.step)}.png", images)

    return paint


def draw_figures(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws interpolations and reconstructions at the end of a run that makes images.

    A collective: with several processes, all must call it, and only the first writes.
    """
    objective = run.learner.objective
    if not isinstance(objective, Generates) or not is_image(run.train.spec["x"].shape[1:]):
        return []
    figures = {"interpolations": interpolate(run, variables, COLUMNS)}
    if isinstance(objective, Encodes):
        figures["reconstructions"] = reconstruct(run, variables, 32)
    paths = [folder / "figures" / f"{name}.png" for name in figures]
    if processes.is_first():
        for path, images in zip(paths, figures.values(), strict=True):
            write_png(path, images)
    return paths


def generate(
    run: Run,
    variables: Variables,
    count: int,
    seed: int = 0,
    label: int | None = None,
    guidance_scale: float | None = None,
) -> np.ndarray:
    """Samples x (count, ...) of a generative model, whose labels are those of `sample_labels`.

    Raises `Error` for a model without a prior, which cannot sample, and for a label or a
    `guidance_scale` that the model cannot take.
    """
    objective = run.learner.objective
    labels = sample_labels(run, -(-count // BATCH) * BATCH, label)
    if guidance_scale is not None:
        if not isinstance(objective, Diffusion):
            raise Error(f"{run.config.name} has no guidance scale, which is that of diffusion.")
        objective = objective.guided(guidance_scale)
    if not isinstance(objective, SamplesLatents):
        raise Error(
            f"{run.config.name} cannot generate new rows, as its objective has no prior: use "
            "--reconstruct to reconstruct rows of its test data."
        )
    key = stream(jax.random.key(seed), "samples")
    decode = jax.jit(objective.decode)
    parts = []
    for n in range(-(-count // BATCH)):
        batch = class_batch(run.train, n * BATCH)
        if labels is not None:
            y = labels[n * BATCH : (n + 1) * BATCH]
            batch["y"] = jnp.asarray(y, batch["y"].dtype)
        z = objective.sample_latent(latent_key(seed, n), batch)
        parts.append(np.asarray(decode(variables, z, batch, jax.random.fold_in(key, n))))
    return np.concatenate(parts)[:count]


def sample_labels(run: Run, count: int, label: int | None = None) -> np.ndarray | None:
    """The labels y (count,) of samples: `label`, or all classes in turn; None if unconditional."""
    objective = run.learner.objective
    classes = objective.classes if isinstance(objective, Diffusion) else 0
    if not classes:
        if label is not None:
            raise Error(f"{run.config.name} is not class-conditional: leave out --label.")
        return None
    if label is None:
        return np.arange(count) % (num_classes(run.train) or classes)
    if not 0 <= label < classes:
        raise Error(f"--label {label} is no class of {run.config.name}: 0 to {classes - 1} are.")
    return np.full(count, label)


def latent_key(seed: int, n: int) -> Key:
    """The key of the latents of batch n of `generate`, whose batches have `BATCH` rows."""
    key = stream(jax.random.key(seed), "samples")
    return jax.random.fold_in(stream(key, "noise"), n)


def reconstruct(run: Run, variables: Variables, count: int) -> np.ndarray:
    """The first rows of the evaluation data, each followed by its reconstruction: (2 * rows, ...).

    Raises `Error` for a model without an encoder.
    """
    objective = run.learner.objective
    if not isinstance(objective, Encodes):
        raise Error(
            f"{run.config.name} cannot reconstruct rows, as its model has no encoder: without "
            "--reconstruct it generates new ones."
        )
    batch = _first_rows(run.test or run.valid or run.train, count)
    z = jax.jit(objective.encode)(variables, batch)
    x = jax.jit(objective.decode)(variables, z, batch, jax.random.key(0))
    return np.stack([batch["x"], x], 1).reshape(-1, *x.shape[1:])


def interpolate(run: Run, variables: Variables, steps: int, pairs: int = 8) -> np.ndarray:
    """Interpolations between the latents of pairs of rows: (pairs * steps, ...).

    The latents are those of evaluation rows if the model has an encoder, or else samples of the
    prior. The interpolation is spherical (slerp; Shoemake, 1985), so that normally distributed
    latents keep their norm.
    """
    objective = run.learner.objective
    if isinstance(objective, Encodes):
        batch = _first_rows(run.test or run.valid or run.train, 2 * pairs)
        ends = jax.jit(objective.encode)(variables, batch)
    else:
        assert isinstance(objective, SamplesLatents)
        batch = {name: x[: 2 * pairs] for name, x in class_batch(run.train, 0).items()}
        ends = objective.sample_latent(stream(jax.random.key(0), "ends"), batch)
    pairs = len(ends) // 2
    z = jnp.concatenate([_slerp(ends[2 * n], ends[2 * n + 1], steps) for n in range(pairs)])
    repeated = {name: jnp.repeat(x[0 : 2 * pairs : 2], steps, 0) for name, x in batch.items()}
    return np.asarray(jax.jit(objective.decode)(variables, z, repeated, jax.random.key(0)))


def _slerp(a: Array, b: Array, steps: int) -> Array:
    """Spherical linear interpolation from a to b; linear where they are almost parallel."""
    share = jnp.linspace(0, 1, steps).reshape(-1, *(1,) * a.ndim)
    cosine = (a * b).sum() / jnp.sqrt((a * a).sum() * (b * b).sum()).clip(1e-12)
    angle = jnp.arccos(cosine.clip(-1, 1))
    sine = jnp.sin(angle)
    of_a, of_b = (
        jnp.where(sine > 1e-3, jnp.sin(s * angle) / sine.clip(1e-3), s) for s in (1 - share, share)
    )
    return of_a * a[None] + of_b * b[None]


def class_batch(data: Loader, first: int, count: int = BATCH) -> Batch:
    """A batch of zeros of the data's shape, whose labels y cycle through the classes."""
    rows = first + np.arange(count, dtype=np.int32)
    batch = {
        name: jnp.zeros((count, *column.shape[1:]), column.dtype)
        for name, column in data.spec.items()
        if name not in ("mask", "id")
    }
    if (classes := num_classes(data)) is not None:
        batch["y"] = jnp.asarray(rows % classes, batch["y"].dtype)
    return batch


def num_classes(data: Loader) -> int | None:
    """The number of classes of labels y (B,), whole numbers from 0; None where y are no such."""
    y = data.spec.get("y")
    if y is None or y.ndim != 1 or "y" not in data.bounds:
        return None
    return int(data.bounds["y"][1]) + 1 if jnp.issubdtype(y.dtype, jnp.integer) else None


def _first_rows(data: Loader, count: int) -> Batch:
    batch = data[0]
    rows = min(count, data.num_examples, data.batch_size)
    return {name: column[:rows] for name, column in batch.items() if name != "mask"}


def is_image(shape: Sequence[Any]) -> bool:
    """Whether rows of this shape are images that a grid can show, (H, W, 1) or (H, W, 3)."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def write_png(path: Path, images: np.ndarray, columns: int = COLUMNS) -> Path:
    """Writes a grid of images (N, H, W, 1 or 3) from 0 to 1 as a PNG; `Error` for other rows."""
    if not is_image(images.shape[1:]):
        raise Error(
            f"Rows of shape {images.shape[1:]} are not images, (H, W, 1) or (H, W, 3): use --out "
            "FILE.npz."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(images, columns))
    return path


def png(images: np.ndarray, columns: int = COLUMNS) -> bytes:
    """A PNG of a grid of images (N, H, W, 1 or 3) from 0 to 1."""
    from PIL import Image

    rows = -(-len(images) // columns)
    pixels = (255 * images.clip(0, 1)).round().astype(np.uint8)
    pixels = np.pad(
        pixels, ((0, rows * columns - len(pixels)), (1, 1), (1, 1), (0, 0)), constant_values=128
    )
    height, width, channels = pixels.shape[1:]
    grid = pixels.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * height, columns * width, channels)
    zoom = max(1, 800 // max(grid.shape[:2]))  # small images are hard to see
    grid = grid.repeat(zoom, 0).repeat(zoom, 1)
    file = BytesIO()
    Image.fromarray(grid[..., 0] if channels == 1 else grid).save(file, "PNG")
    return file.getvalue()
