"""Makes the picture of docs/study.md of the study there, whose command stands at its top.

python scripts/docs_study.py STUDY_FOLDER
"""

import sys
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parents[1] / "docs" / "assets" / "study.png"


def main(folder: Path) -> None:
    """Reads figures/parallel_coordinates.png, and writes `PICTURE` in fewer colours."""
    with Image.open(folder / "figures" / "parallel_coordinates.png") as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
