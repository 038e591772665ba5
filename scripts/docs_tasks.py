"""Makes the pictures of the table of tasks from the figures of trained runs.

python scripts/docs_tasks.py RUN_FOLDER ...
"""

import json
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from jdl.types import Error

ASSETS = Path(__file__).parents[1] / "docs" / "assets" / "tasks"
WIDTH, HEIGHT = 480, 320  # pixels, at most
LARGEST = 60_000  # bytes
FIGURES = {  # the figure of each run that shows what it does
    "digits_boxes": "detections",
    "digits_clusters": "embedding",
    "digits_lines": "readings",
    "electricity_quantiles": "forecasts",
    "fashion_segments": "segmentation",
    "fashion_vae": "reconstructions",
    "garment_anomaly": "anomalies",
    "garment_captioner": "captions",
    "garment_captions": "retrieval",
    "garment_keypoints": "keypoints",
    "moons_flow": "density",
    "pendulum_sac": "return",
    "promoters_cnn": "motifs",
    "spoken_numbers": "readings",
    "spoken_numbers_tts": "speech",
    "t_maze_ppo": "return",
}
SHEETS = (
    "captions",
    "detections",
    "keypoints",
    "readings",
    "reconstructions",
    "retrieval",
    "speech",
)  # of many rows: the first ones are enough


def main(folders: list[Path]) -> None:
    """Writes docs/assets/tasks/NAME.png for each run."""
    ASSETS.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        name = json.loads((folder / "run.json").read_text())["config"]["name"]
        if name not in FIGURES:
            raise Error(f"{folder} is a run of {name}; pictures are of {', '.join(FIGURES)}.")
        with Image.open(folder / "figures" / f"{FIGURES[name]}.png") as image:
            (ASSETS / f"{name}.png").write_bytes(small(image, FIGURES[name] in SHEETS))


def small(image: Image.Image, top: bool) -> bytes:
    """An image, or its top, as a PNG of at most `LARGEST` bytes, with as many colors as fit."""
    image = image.convert("RGB")
    if top:
        image = image.crop((0, 0, image.width, min(image.height, image.width * HEIGHT // WIDTH)))
    image.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    for colors in (256, 128, 64, 32, 16):
        file = BytesIO()
        image.quantize(colors, Image.Quantize.MAXCOVERAGE).save(file, "PNG", optimize=True)
        if file.tell() <= LARGEST:
            break
    return file.getvalue()


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
