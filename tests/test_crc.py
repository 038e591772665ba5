"""The CRC-32 of an array is put together of what its shards add.

Seen to fail: the distance of a shard to the array's end, taken from its first run.
"""

import zlib
from itertools import product

import numpy as np
import pytest

from jdl.store.crc import crc_of_bytes, crc_of_shard, crc_of_zeros

SHAPES = ((8,), (1, 4), (6, 4), (5, 7, 6), (4, 6, 8, 2))


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        (shape, parts)
        for shape in SHAPES
        for parts in product(*([n for n in (1, 2, 3, 5) if size % n == 0] for size in shape))
    ],
)
def test_shards_add_up_to_the_whole_however_it_is_cut(shape, parts):
    array = np.random.default_rng(0).integers(0, 2**32, shape, np.uint32)
    total = crc_of_zeros(array.nbytes)
    for place in product(*map(range, parts)):
        index = tuple(
            slice(None) if n == 1 else slice(i * size // n, (i + 1) * size // n)
            for i, n, size in zip(place, parts, shape, strict=True)
        )
        total ^= crc_of_shard(array[index], index, shape)
    assert total == crc_of_bytes(array) == zlib.crc32(array.tobytes())
