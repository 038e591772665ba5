"""Writes tests/golden/torchvision.npz: an image, and what torchvision's functions make of it.

It needs torchvision, which the tests do not:

    python scripts/golden_torchvision.py
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.transforms.v2 import functional as F

HEIGHT, WIDTH = 14, 11


def colors() -> torch.Tensor:
    """A random image (3, H, W), with gray, black, white and pure colors among its pixels."""
    image = torch.rand(3, HEIGHT, WIDTH)
    image[:, 0, :3] = torch.tensor([0.0, 1.0, 0.5])
    image[:, 1, :3] = torch.eye(3)
    image[:, 2, :3] = 1 - torch.eye(3)
    return image


torch.manual_seed(0)
x = colors()
made = {
    "brightness": F.adjust_brightness(x, 1.4),
    "contrast": F.adjust_contrast(x, 1.7),
    "saturation": F.adjust_saturation(x, 0.3),
    "hue": F.adjust_hue(x, -0.2),
    "gray": F.rgb_to_grayscale(x, 3),
    "blur": F.gaussian_blur(x, [5, 5], [0.8, 0.8]),
    "larger": F.resized_crop(x, 3, 2, 6, 8, [HEIGHT, WIDTH], antialias=True),
    "smaller": F.resized_crop(x, 1, 0, 12, 10, [5, 4], antialias=True),
    "rotate": F.affine(x, 20.0, [0, 0], 1.0, [0.0, 0.0], F.InterpolationMode.BILINEAR),
    "zoom": F.affine(x, 0.0, [0, 0], 1.3, [0.0, 0.0], F.InterpolationMode.BILINEAR),
    "shear": F.affine(x, 0.0, [0, 0], 1.0, [15.0, 0.0], F.InterpolationMode.BILINEAR),
}
arrays = {name: image.numpy().transpose(1, 2, 0) for name, image in {"x": x, **made}.items()}
arrays["version"] = np.asarray(torchvision.__version__)
path = Path(__file__).parents[1] / "tests" / "golden" / "torchvision.npz"
np.savez_compressed(path, **arrays)
print(f"{path.name}: {path.stat().st_size:,} bytes, torchvision {torchvision.__version__}")
