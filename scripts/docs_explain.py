"""Draws the pictures of docs/explain.md, of a run of digits_cnn.

python scripts/docs_explain.py RUN_FOLDER
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from jdl.explain import Subject, explain
from jdl.inspect.restore import restore

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
ROWS = 129, 4, 5  # an error, and two that are right
FIGURES = "attributions", "embedding"


def main(folder: Path) -> None:
    """Writes docs/assets/explain_FIGURE.png for each figure."""
    with tempfile.TemporaryDirectory() as temporary:
        for found in explain(Subject(restore(folder), ROWS), Path(temporary), FIGURES):
            with Image.open(found.path) as image:
                small = image.convert("RGB").quantize(256)
            small.save(ASSETS / f"explain_{found.figure.name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
