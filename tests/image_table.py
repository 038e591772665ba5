"""Small random images for the tests of data, and transforms that augment them."""

import numpy as np

from jdl.data import normalize, random_affine, random_crop, random_erase, random_flip

ROWS = 23
IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, 6, 5, 2), dtype=np.uint8)
AUGMENT = (
    random_crop(1),
    random_flip(),
    random_erase(2),
    random_affine(10, 0.5, 0.1),
    normalize([0.5, 0.4], [0.2, 0.3]),
)
