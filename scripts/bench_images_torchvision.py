"""An epoch of torchvision's ImageFolder, for `scripts/bench images`: prints its wall seconds.

A process of its own, because PyTorch's workers are forked, which a process with JAX's threads must
not do: python bench_images_torchvision.py FOLDER SIZE BATCH WORKERS
"""

import os
import sys
import time

import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder


def main() -> None:
    """Decodes, resizes and batches all images once, with workers that were started before."""
    folder, size, batch, workers = sys.argv[1], *map(int, sys.argv[2:5])
    resize = transforms.Compose(
        [transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()]
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(folder, resize), batch, shuffle=True, num_workers=workers
    )
    began = time.perf_counter()
    for images, _ in loader:
        assert images.shape[1:] == (3, size, size)
    wall = time.perf_counter() - began
    del loader
    print(wall, sum(os.times()[:4]))


if __name__ == "__main__":
    main()
