"""The ORL faces (Samaria and Harter, 1994): 40 people, 10 photos each."""

from __future__ import annotations

import re

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.fetch import dataset_folder

HEIGHT, WIDTH, PEOPLE, PHOTOS = 112, 92, 40, 10
HEADER = re.compile(rb"P5(\r?\n)92 112\r?\n255\r?\n")


def orl_faces() -> Dataset:
    """The ORL faces: x (400, 56, 46, 1) of bytes, half as high and wide as published, y the person.

    A person has 10 photos, from different times. `faces.split(0.75, 0.25, group="y")` keeps people
    apart, so that the test has people who were never seen. Fetch them once with `jdl data fetch
    orl_faces`.
    """
    content = (dataset_folder("orl_faces") / "faces.pgm").read_bytes()
    headers = list(HEADER.finditer(content))
    ends = [header.start() for header in headers[1:]] + [len(content)]
    photos = np.stack(
        [
            _pixels(content[header.end() : end], header[1])
            for header, end in zip(headers, ends, strict=True)
        ]
    )
    halves = photos.reshape(len(photos), HEIGHT // 2, 2, WIDTH // 2, 2).mean((2, 4))
    people = np.repeat(np.arange(PEOPLE, dtype=np.int32), PHOTOS)
    return arrays(x=np.round(halves).astype(np.uint8)[..., None], y=people)


def _pixels(content: bytes, line_end: bytes) -> np.ndarray:
    """The pixels (112, 92) of one photo.

    150 of the files were once copied as text, which put a carriage return before each byte 10; it
    is taken out again. In two of them that also takes a pixel of the value 13, so their last pixel
    is repeated.
    """
    if line_end == b"\r\n":
        content = content.replace(b"\r\n", b"\n")
    pixels = np.frombuffer(content, np.uint8)
    return np.resize(np.append(pixels, pixels[-1:]), HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
