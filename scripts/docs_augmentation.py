"""Draws the picture of docs/augmentation.md: what each augmentation makes of a photograph.

python scripts/docs_augmentation.py
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

from jdl import data

PICTURE = Path(__file__).parents[1] / "docs" / "assets" / "augmentation.png"
SIDE, COLUMNS, LABEL = 64, 5, 13  # pixels, images a row, pixels of the name above each
CHANGES = {
    "color_jitter": data.color_jitter(0.4, 0.4, 0.4, 0.1),
    "cutmix": data.cutmix(classes=2),
    "cutout": data.cutout(28, fill=0.5),
    "gaussian_blur": data.gaussian_blur(7, (0.5, 2.0)),
    "gaussian_noise": data.gaussian_noise(0.1),
    "mixup": data.mixup(1.0, classes=2),
    "rand_augment": data.rand_augment(),
    "random_affine": data.random_affine(15, 5, 0.2, 10),
    "random_crop": data.random_crop(10),
    "random_erase": data.random_erase(28, fill=0.5),
    "random_flip": data.random_flip(),
    "random_grayscale": data.random_grayscale(0.5),
    "random_resized_crop": data.random_resized_crop(),
}


def main() -> None:
    """Writes `PICTURE`: a row for each augmentation, with a few draws of it."""
    photographs = [
        Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")
    ]
    pair = [p.crop((107, 0, 534, 427)).resize((SIDE, SIDE)) for p in photographs]
    rows = np.stack([np.asarray(pair[n % 2]) for n in range(2 * COLUMNS)])
    sheet = Image.new("RGB", (COLUMNS * SIDE, len(CHANGES) * (SIDE + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    table = data.arrays(x=rows, y=np.arange(len(rows)) % 2)
    for n, (name, change) in enumerate(CHANGES.items()):
        loader = replace(table.batches(len(rows)), transforms=(change,))  # in order, not shuffled
        top = n * (SIDE + LABEL)
        draw.text((2, top + 1), name, fill="black")
        for k, image in enumerate(np.asarray(loader[0]["x"])[::2]):
            pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
            sheet.paste(Image.fromarray(pixels), (k * SIDE, top + LABEL))
    sheet.quantize(40, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
