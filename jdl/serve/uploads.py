"""Bodies that are files: NumPy arrays, images, sounds and texts, as columns of a program.

No file is unpickled, and none is decoded before its header was found to fit the model.
"""

from __future__ import annotations

import io
import math
import mimetypes
import wave
from collections.abc import Callable
from email.message import Message
from email.parser import HeaderParser
from typing import Any, cast

import numpy as np

from jdl.data.image_files import MODES, open_image
from jdl.export.table import names_of
from jdl.serve.inputs import ROW_LENGTH, Take, check_columns, from_texts, is_shape, main_input
from jdl.serve.limits import Limits, RequestError
from jdl.serve.models import Columns, ServedModel, ServedProgram

IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG"}
SOUNDS = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")
ARRAYS = ("application/x-npy", "application/octet-stream")
FORM = "multipart/form-data"
WIDTHS = {1: "u1", 2: "<i2", 4: "<i4"}  # of WAV's samples, by bytes


def columns_of_file(
    kind: str, body: bytes, model: ServedModel, program: ServedProgram, limits: Limits, take: Take
) -> Columns:
    """The columns of a body of a media type; `RequestError` 415 for one that is not known."""
    name = main_input(program)
    if kind in ARRAYS and (table := model.manifest.get("table")):
        names = ", ".join(names_of(table))
        raise RequestError(
            422, f'An array has no names, and {model.name} reads {names}: send {{"rows": [...]}}.'
        )
    if kind in ARRAYS:
        return check_columns({name: read_npy(body)}, program, limits, take)
    if kind in IMAGES:
        return check_columns({name: read_image(body, kind, program)[None]}, program, limits, take)
    if kind in SOUNDS:
        return check_columns(_of_sound(read_wav(body, program), program), program, limits, take)
    if kind == "text/plain":
        return from_texts([_text(body)], model, program, limits, take)
    known = ", ".join(["application/json", ARRAYS[0], *IMAGES, SOUNDS[0], "text/plain", FORM])
    raise RequestError(415, f"The Content-Type must be one of {known}; it is {kind[:100]!r}.")


def file_of_form(content_type: str, body: bytes) -> tuple[str, bytes]:
    """The media type and the bytes of the one file in a form (multipart/form-data, RFC 7578).

    `curl -F` and the form of a page send such; fields without a file name are left out. A file of
    no known type has that of its name. Raises `RequestError` where the body is no form, or has not
    one file.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = _parameter(header, "content-type", "boundary") or ""
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"))
    whole = bool(boundary and parts) and parts.pop().startswith(b"--")
    split = [part.partition(b"\r\n\r\n") for part in parts]
    if not whole or not all(end for _, end, _ in split):
        raise RequestError(400, f"The body is no whole {FORM}, with the boundary of its header.")
    files = []
    for head, _, content in split:
        fields = HeaderParser().parsestr(head.decode("latin-1").lstrip("\r\n"))
        name = _parameter(fields, "content-disposition", "filename")
        if name is None:
            continue
        kind = media_type(fields.get("content-type", ARRAYS[1]))
        if kind == ARRAYS[1]:  # what curl says of a file that it does not know, as of .wav
            kind = mimetypes.guess_type(name)[0] or kind
        files.append((kind, content))
    if len(files) != 1:
        raise RequestError(422, f"A form must have one file, and this one has {len(files)}.")
    return files[0]


def media_type(content_type: str) -> str:
    """The type of a Content-Type alone, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def _parameter(fields: Message, header: str, name: str) -> str | None:
    """A parameter of a header field; None where it has none."""
    try:
        value = fields.get_param(name, header=header)
    except Exception as error:  # Python's parser raises several on parameters that are malformed
        raise RequestError(400, f"The parameters of {header} in a form are malformed.") from error
    return value[-1] if isinstance(value, tuple) else value  # of (charset, language, value)


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"The text is no UTF-8: {error}.") from None


def read_npy(body: bytes) -> np.ndarray:
    """The array of a .npy file; its header is not believed about what the body has not."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        readers: dict[Any, Callable[..., Any]] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = readers[version](file)
    except Exception as error:  # the reader of a damaged header raises any
        raise RequestError(400, f"The body is no .npy file: {str(error)[:200]}.") from None
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise RequestError(422, f"The array must hold numbers, not {str(dtype)[:100]}.")
    data = memoryview(body)[file.tell() :]
    if not is_shape(shape) or len(data) != math.prod(shape) * dtype.itemsize:
        raise RequestError(
            400, f"The .npy file has {len(data):,} bytes, not those of {str(shape)[:100]}."
        )
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_image(body: bytes, kind: str, program: ServedProgram) -> np.ndarray:
    """The pixels (H, W, C) of an image of the model's own size, bytes."""
    name = main_input(program)
    shape = program.inputs[name]["shape"]
    if len(shape) != 4 or shape[-1] not in MODES:
        raise RequestError(422, f"This model takes no images: {name} is of shape {shape}.")
    from PIL import Image

    try:
        with Image.open(io.BytesIO(body), formats=[IMAGES[kind]]) as image:
            size = image.size
    except Exception as error:  # the decoder of a damaged file raises any
        raise RequestError(400, f"The body is no {IMAGES[kind]}: {_said(error)}.") from None
    height, width, channels = shape[1:]
    if sorted(size) != sorted((width, height)):  # EXIF may turn it
        raise _wrong_size(size, width, height)
    try:
        pixels = np.asarray(open_image(cast(Any, io.BytesIO(body)), channels))
    except Exception as error:
        raise RequestError(400, f"The {IMAGES[kind]} is damaged: {_said(error)}.") from None
    if pixels.shape[:2] != (height, width):
        raise _wrong_size(pixels.shape[1::-1], width, height)
    return pixels.reshape(height, width, channels)


def _wrong_size(size: tuple[int, ...], width: int, height: int) -> RequestError:
    return RequestError(
        422,
        f"The image has {size[0]} x {size[1]} pixels, and the model reads {width} x {height}: "
        "bring it to this size, as its training data were.",
    )


def read_wav(body: bytes, program: ServedProgram) -> np.ndarray:
    """The samples (T,) of a WAV file of whole numbers, from -1 to 1; channels are averaged."""
    name = main_input(program)
    about = program.inputs[name]
    if len(about["shape"]) != 2 or not about["dtype"].startswith(("float", "bfloat")):
        raise RequestError(
            422,
            f"This model takes no sounds: {name} is {about['dtype']} of shape {about['shape']}.",
        )
    try:
        with wave.open(io.BytesIO(body)) as sound:
            channels, width = sound.getnchannels(), sound.getsampwidth()
            found = sound.getframerate()
            data = sound.readframes(len(body))
    except Exception as error:  # the reader of a damaged file raises any
        raise RequestError(
            400, f"The body is no WAV file of whole numbers: {_said(error)}."
        ) from None
    if width not in WIDTHS or len(data) % (width * channels) or not data:
        raise RequestError(
            422, "A WAV file must have samples of 8, 16 or 32 bits, and one at least."
        )
    if found != (rate := about.get("sampling_rate", found)):
        raise RequestError(
            422,
            f"The sound has {found:,} samples a second, and the model reads {rate:,}: resample it.",
        )
    samples = np.frombuffer(data, WIDTHS[width]).reshape(-1, channels).astype(np.float32)
    if width == 1:  # these are from 0 to 255
        samples -= 128
    return samples.mean(1) / np.float32(1 << (8 * width - 1))


def _of_sound(samples: np.ndarray, program: ServedProgram) -> Columns:
    """The columns of one waveform, with silence after it where the time is fixed."""
    name = main_input(program)
    time = program.inputs[name]["shape"][1]
    most = time if isinstance(time, int) else program.max_time or len(samples)
    if len(samples) > most:
        raise RequestError(
            422, f"The sound has {len(samples):,} samples, and the model reads at most {most:,}."
        )
    after = time - len(samples) if isinstance(time, int) else 0
    columns = {name: np.pad(samples, (0, after))[None]}
    if ROW_LENGTH in program.inputs:
        columns[ROW_LENGTH] = np.asarray([len(samples)])
    return columns


def _said(error: Exception) -> str:
    return str(error)[:200].rstrip(".") or type(error).__name__
