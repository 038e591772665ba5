"""CRC-32 of an array from what each of its shards adds, so that no process needs all of it.

A CRC is linear over GF(2): that of an array is the exclusive or of that of zeros and of what each
run of its bytes adds, multiplied by a power of x for the bytes behind it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import numpy as np

POLYNOMIAL = 0xEDB88320  # zlib's, with the bit of x^0 highest
ONE = 1 << 31  # the polynomial 1

A = TypeVar("A", int, np.ndarray)


def crc_of_bytes(array: np.ndarray) -> int:
    """The CRC-32 of an array's bytes, in C order."""
    return zlib.crc32(_bytes(array).data)


@cache
def crc_of_zeros(size: int) -> int:
    """The CRC-32 of as many zero bytes."""
    return _times(2**32 - 1, _shift(size)) ^ (2**32 - 1)


def crc_of_shard(shard: np.ndarray, index: Sequence[slice], shape: Sequence[int]) -> int:
    """What the shard at `index` of an array of this shape adds, by exclusive or, to its CRC-32."""
    places = [slice(*each.indices(size)) for each, size in zip(index, shape, strict=True)]
    strides = [shard.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    cut = [axis for axis, size in enumerate(shape) if shard.shape[axis] != size]
    last = max(cut, default=0)  # behind this axis, and along it, a shard's bytes are contiguous
    grid = shard.shape[:last]
    runs = _bytes(shard).reshape(math.prod(grid), -1)
    adds = np.array([zlib.crc32(run.data) for run in runs], np.uint32)
    adds = (adds ^ crc_of_zeros(runs.shape[1])).reshape(grid)
    for axis in reversed(range(last)):
        adds = _fold(adds, strides[axis])
    size = shard.itemsize * math.prod(shape)
    before = [(place.stop - 1) * stride for place, stride in zip(places, strides, strict=True)]
    end = sum(before[: last + 1]) + strides[last] if shape else size
    return _times(int(adds), _shift(size - end))


def _fold(adds: np.ndarray, stride: int) -> np.ndarray:
    """What runs along the last axis, `stride` bytes apart, add together at the last one's place."""
    while adds.shape[-1] > 1:
        if adds.shape[-1] % 2:
            adds = np.concatenate([np.zeros_like(adds[..., :1]), adds], axis=-1)
        adds = _times(adds[..., 0::2], _shift(stride)) ^ adds[..., 1::2]
        stride *= 2
    return adds[..., 0]


def _times(a: A, b: int) -> A:
    """The product of polynomials over GF(2), modulo that of CRC-32."""
    product = a ^ a
    for bit in reversed(range(32)):
        if b >> bit & 1:
            product = product ^ a
        a = (a >> 1) ^ (a & 1) * POLYNOMIAL
    return product


@cache
def _shift(size: int) -> int:
    """The power of x that stands for as many bytes behind."""
    power, square = ONE, ONE >> 8
    while size:
        if size & 1:
            power = _times(power, square)
        size, square = size >> 1, _times(square, square)
    return power


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
