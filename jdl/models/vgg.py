"""VGG: deep networks of 3 x 3 convolutions, in five blocks with max pooling."""

from typing import Any

from jdl.errors import Error
from jdl.models.cnn import CNN

BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(depth: int, outputs: int, width: int = 64, **options: Any) -> CNN:
    """The published VGG of 11, 13, 16 or 19 layers (Simonyan and Zisserman, 2015).

    It takes images from 32 x 32 pixels up. `width` is the number of channels of the first block;
    options are those of `CNN`, such as `batch_norm=True`, or `dense=(512,)` for small images.
    VGG-16 for 224 x 224 x 3 and 1000 classes has 138,357,544 parameters. Raises `Error` for any
    other depth.
    """
    if depth not in BLOCKS:
        raise Error(
            f"VGG was published with {', '.join(map(str, BLOCKS))} layers, "
            f"and {depth} is none of these."
        )
    blocks = tuple(
        (width * min(2**n, 8), convolutions) for n, convolutions in enumerate(BLOCKS[depth])
    )
    return CNN(outputs, blocks, **{"dense": (4096, 4096), "dense_dropout": 0.5, **options})
