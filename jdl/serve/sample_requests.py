"""What a client asks of a generative model: how many samples, of which seed and classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jdl.export.manifest import NORMAL
from jdl.figures.samples import BATCH, is_image, latent_key
from jdl.layers.batch_axis import sample_rows
from jdl.serve.fields import as_object, check_names, number_of, seed_of, wrong
from jdl.serve.inputs import Take, check_columns, parse_json
from jdl.serve.limits import Limits, RequestError
from jdl.serve.models import Columns, ServedModel, ServedProgram

FIELDS = ("n", "seed", "y", "z")
DEFAULT_SAMPLES = 16
JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"


def refusal(model: ServedModel) -> str | None:
    """Why a model is not sampled by a server; None where it is."""
    program = model.programs.get("generate")
    if program is None:
        has = ", ".join(model.programs)
        return f"{model.name} makes no samples: it has the programs {has}."
    if "seed" in program.inputs:
        return (
            f"{model.name} draws noise at each step of sampling, as diffusion with eta above 0 "
            "does, and this noise depends on the batch: predict.py of its folder samples it, and "
            "so does the server once it is exported with eta=0."
        )
    if others := program.inputs.keys() - {"y", "z"}:
        return (
            f"{model.name} takes an extra input {min(others)}: predict.py of its folder shows how "
            "its program is called."
        )
    return None


def latents(shape: Sequence[int], n: int, seed: int) -> np.ndarray:
    """Latents (n, *shape) of the standard normal prior: those of `jdl sample` with the same seed.

    It draws whole batches, so that one shape is compiled; a row's do not depend on `n`.
    """
    draws = [
        sample_rows(jax.random.normal, latent_key(seed, batch), (BATCH, *shape))
        for batch in range(-(-n // BATCH))
    ]
    return np.concatenate([np.asarray(rows) for rows in draws])[:n]


def parse_samples(
    kind: str, body: bytes, program: ServedProgram, limits: Limits, take: Take
) -> tuple[dict[str, Any], Columns]:
    """What an answer of the media type `kind` says besides its samples, and the columns z and y.

    Raises `RequestError` 422 where a field is unknown or wrong, or no image is made of the rows.
    """
    if kind == PNG and not is_image(program.outputs["x"]["shape"][1:]):
        shape = program.outputs["x"]["shape"]
        raise wrong(f"Samples of shape {shape} are no images: accept {JSON} or {NPY}.")
    document = as_object(parse_json(body))
    check_names(document, FIELDS)
    about: dict[str, Any] = {}
    y, z = document.get("y"), document.get("z")
    if z is None:
        shape = program.inputs["z"]["shape"][1:]
        if program.inputs["z"].get("prior") != NORMAL:
            raise wrong("The prior of this model is not known: send latents z, or export it again.")
        some = len(y) if isinstance(y, list) and y else DEFAULT_SAMPLES
        n = int(number_of(document, "n", min(some, limits.max_rows), 1, limits.max_rows, True))
        about["seed"] = seed_of(document)
        take(-(-n // BATCH) * BATCH * math.prod(shape) * 4)
        z = latents(shape, n, about["seed"])
    elif not isinstance(z, list):
        raise wrong("z must be a list of latents.")
    elif any(document.get(name) is not None for name in ("n", "seed")):
        raise wrong("Give z, or n and seed, not both.")
    columns = {"z": z}
    if "y" in program.inputs:
        columns["y"] = about["y"] = _labels(y, len(z), program.inputs["y"])
    elif y is not None:
        raise wrong("This model is unconditional: leave out y.")
    return about, check_columns(columns, program, limits, take)


def _labels(given: Any, n: int, about: Mapping[str, Any]) -> list[Any]:
    """The label y of each sample: one for all, a list, or by default all classes in turn."""
    high = about.get("range", [0, None])[1]
    if given is None:
        if high is None:
            raise wrong("The classes of this model are not known: give y.")
        return [row % (int(high) + 1) for row in range(n)]
    labels = given if isinstance(given, list) else [given] * n
    if len(labels) != n:
        raise wrong(f"y must be a label, or a list of one for each of {n:,} samples.")
    known = high is None or all(type(y) is int and 0 <= y <= high for y in labels)
    if not known:
        raise wrong(f"y must be of whole numbers from 0 to {int(high)}.")
    return labels


def accepted(header: str) -> str:
    """The media type of an answer, by content negotiation (RFC 9110): that of the highest quality.

    Of equal ones it is the first that the header Accept names, and JSON where one range has
    several. Raises `RequestError` 406 where none is accepted.
    """
    ranges: dict[str, tuple[float, int]] = {}  # the quality of each, and its place from the end
    for place, part in enumerate((header or "*/*").lower().split(",")):
        kind, *parameters = (one.strip() for one in part.split(";"))
        ranges[kind] = _quality(parameters), -place

    def rank(kind: str) -> tuple[float, int]:
        names = (kind, kind.partition("/")[0] + "/*", "*/*")  # the most specific range holds
        return next((ranges[name] for name in names if name in ranges), (0.0, 0))

    best = max((JSON, NPY, PNG), key=rank)
    if not rank(best)[0] > 0:
        raise RequestError(406, f"Samples are {JSON}, {NPY} or {PNG}: accept one of them.")
    return best


def _quality(parameters: Sequence[str]) -> float:
    """The parameter q of a media range; 1 where it is not given, 0 where it is no number."""
    given = next((one[2:] for one in parameters if one.startswith("q=")), "1")
    try:
        return float(given)
    except ValueError:
        return 0.0
