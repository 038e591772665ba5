"""Draws the picture of the documentation's first page: the loss and the confusion matrix of a run.

python scripts/docs_picture.py RUN_FOLDER
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

PICTURE = Path(__file__).parents[1] / "docs" / "assets" / "digits_cnn.png"


def main(folder: Path) -> None:
    """Reads metrics.jsonl and figures/test_confusion.png, and writes `PICTURE`."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figure, (curves, confusion) = plt.subplots(
        1, 2, figsize=(10, 4.4), width_ratios=(1.25, 1), layout="constrained"
    )
    for split, style in (("train", {"color": "#9ab"}), ("test", {"color": "#00796b", "lw": 2})):
        points = [(line["step"], line["loss"]) for line in lines if line["split"] == split]
        curves.plot(*zip(*points, strict=True), label=split, **style)
    curves.set(yscale="log", xlabel="step", ylabel="loss")
    curves.legend(frameon=False)
    curves.spines[["top", "right"]].set_visible(False)
    confusion.imshow(plt.imread(folder / "figures" / "test_confusion.png"))
    confusion.axis("off")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=130)
    Image.open(PICTURE).convert("RGB").quantize(64).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
