"""The figures and samples of runs, compressed so that all of them fit in a page."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from jdl.report.document import Picture, Section
from jdl.report.groups import Group

BUDGET = 2_400_000  # bytes of all pictures of a page, before base64
SIDES = (1200, 800, 500)  # pixels of the longer side: the first with which all fit
QUALITY = 82
EXPLAINED = "figures/explain"  # where `jdl explain` draws
MOST = 60  # pictures of a page


def pictures(groups: Sequence[Group]) -> Section:
    """The section of the figures: those of the first seed of each config, and its last samples.

    Of each picture that its hooks return, the last too. Those of a study come first. Those that
    `jdl explain` drew have its words.
    """
    roots = dict.fromkeys(group.first.folder.resolve().parent.parent.parent for group in groups)
    studies = [root for root in roots if (root / "study.json").is_file()]
    paths = [(study.name, path) for study in studies for path in study.glob("figures/*.png")]
    paths += [(group.name, path) for group in groups for path in _paths(group.first.folder)]
    sentences = []
    if not paths:
        sentences.append("The runs have drawn no figures.")
    elif any(len(group.runs) > 1 for group in groups):
        sentences.append("The figures of the first seed of each config.")
    for side in SIDES:
        found, broken = [], []
        for name, path in paths[:MOST]:
            picture = compress(path, name, side, explained(path))
            found += [picture] if picture else []
            broken += [] if picture else [path]
        if sum(len(one.content) for one in found) <= BUDGET:
            break
    while sum(len(one.content) for one in found) > BUDGET:
        found.pop()
    left = len(paths) - len(found) - len(broken)
    sentences += [f"{path.name} of {path.parent} is no picture." for path in broken]
    if left:
        sentences.append(f"{left:,} more figures are in the runs' folders: the page is full.")
    return Section("Figures", sentences, pictures=found)


def _paths(folder: Path) -> list[Path]:
    of_steps = [folder / "samples", *sorted(folder.glob("pictures/*"))]  # the latter of hooks
    newest = [path for one in of_steps for path in _newest(one)]
    drawn = [path for of in ("figures", EXPLAINED) for path in sorted(folder.glob(f"{of}/*.png"))]
    return drawn + newest


def _newest(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("*.png") if path.stem.isdigit()]
    return sorted(paths, key=lambda path: int(path.stem))[-1:]


def explained(path: Path) -> str:
    """What the index of `jdl explain` says of a figure: its title, and what it shows."""
    index = path.with_name("index.md")
    if path.parent.name != "explain" or not index.is_file():
        return ""
    for part in index.read_text("utf-8", "replace").split("\n## ")[1:]:
        title, *text = part.strip().split("\n\n")
        if len(text) == 2 and text[1].endswith(f"]({path.name})"):
            return f"{title}: {text[0]}"
    return ""


def compress(path: Path, config: str, side: int, words: str = "") -> Picture | None:
    """A picture as WebP, of `side` pixels at most; None where the file is no picture.

    Without `words` its caption is the file's name.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    if max(image.size) > side:
        image.thumbnail((side, side))
    forms = []
    for options in ({"quality": QUALITY, "method": 4}, {"lossless": True, "method": 4}):
        buffer = BytesIO()
        image.save(buffer, "WEBP", **options)
        forms.append(buffer.getvalue())
    name = path.stem.replace("_", " ")
    caption = f"{path.parent.name} at step {int(path.stem):,}" if path.stem.isdigit() else name
    alt = f"Figure of {config}: {caption}"
    content = min(forms, key=len)
    caption = f"{config}. {words}" if words else f"{caption}, {config}"
    return Picture(content, "image/webp", *image.size, caption, alt)
