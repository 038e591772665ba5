"""`explain`: every figure that applies to a trained run, with an index that says what each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jdl.explain.attention import draw_attention
from jdl.explain.boundary import draw_boundary
from jdl.explain.embeddings import draw_embeddings, draw_probes
from jdl.explain.groups import draw_groups, group_names
from jdl.explain.inputs import draw_attributions, draw_grad_cam
from jdl.explain.loss_line import draw_loss_line
from jdl.explain.maps import draw_feature_maps, draw_filters
from jdl.explain.mistakes import draw_calibration, draw_confusions, draw_top_losses
from jdl.explain.subject import Subject
from jdl.store.folder import report_disk_errors, write_atomically
from jdl.types import Error

INDEX = "index.md"


@dataclass(frozen=True)
class Figure:
    """One figure: its name, its title, and what draws it and says in words what it shows."""

    name: str
    title: str
    draw: Callable[[Subject, Path], str]


FIGURES = (
    Figure("attributions", "Which parts of the input the predictions rest on", draw_attributions),
    Figure("grad_cam", "Where the convolutions look: Grad-CAM", draw_grad_cam),
    Figure("confusions", "The confusion matrix, with an example in each cell", draw_confusions),
    Figure("top_losses", "The rows with the highest losses", draw_top_losses),
    Figure("calibration", "Whether probabilities mean what they say", draw_calibration),
    Figure("groups", "Metrics by group", draw_groups),
    Figure("boundary", "The decision boundary", draw_boundary),
    Figure("attention", "What attends to what", draw_attention),
    Figure("filters", "The weights of the first layer", draw_filters),
    Figure("feature_maps", "What the layers of a CNN give", draw_feature_maps),
    Figure("embedding", "The rows as the last layer sees them", draw_embeddings),
    Figure("probes", "What each layer knows of the classes: linear probes", draw_probes),
    Figure("loss_line", "The loss on a straight line between parameters", draw_loss_line),
)


@dataclass(frozen=True)
class Finding:
    """A figure that was drawn, with what it shows; or why it does not apply to the run."""

    figure: Figure
    path: Path | None
    text: str


def explain(subject: Subject, folder: Path, only: Sequence[str] = ()) -> list[Finding]:
    """Draws the figures that apply to a run into a folder, with `index.md`, and says which do not.

    `only` are names of figures, by default all. A figure that fails costs no other one: the index
    says why. Raises `Error` for a name that there is not, a column to group by that the data lack,
    and where `folder` is a file.
    """
    known = [figure.name for figure in FIGURES]
    if wrong := [name for name in only if name not in known]:
        raise Error(f"There is no figure {wrong[0]!r}; the figures are {', '.join(known)}.")
    chosen = [figure for figure in FIGURES if figure.name in (only or known)]
    if folder.exists() and not folder.is_dir():
        raise Error(f"{folder} is a file: the figures need a folder.")
    if subject.by:
        group_names(subject)  # raises an error for a column that there is not
    with report_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        findings = [_draw(figure, subject, folder) for figure in chosen]
        write_atomically(folder / INDEX, _index(subject, findings).encode())
    return findings


def _draw(figure: Figure, subject: Subject, folder: Path) -> Finding:
    from matplotlib import rc_context  # slow to import

    path = folder / f"{figure.name}.png"
    path.unlink(missing_ok=True)  # of an earlier call, which may have applied
    try:
        with rc_context({"text.parse_math": False}):  # the $ of a label begins no formula
            return Finding(figure, path, figure.draw(subject, path))
    except Error as error:
        return Finding(figure, None, str(error))
    except OSError:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # of a model of the user's own, that does what nobody foresaw
        path.unlink(missing_ok=True)
        text = str(error).strip().splitlines() or [""]
        return Finding(figure, None, f"It failed: {type(error).__name__}: {text[0]}")


def _index(subject: Subject, findings: Sequence[Finding]) -> str:
    run, step = subject.trained.run, subject.trained.step
    rows = ", ".join(map(str, subject.rows))
    lines = [
        f"# {run.config.name}, step {step:,}",
        "",
        f"Rows {rows} of the {subject.split} data, and all of them together.",
    ]
    for finding in findings:
        if finding.path:
            picture = f"![{finding.figure.title}]({finding.path.name})"
            lines += ["", f"## {finding.figure.title}", "", finding.text, "", picture]
    if without := [finding for finding in findings if not finding.path]:
        lines += ["", "## What does not apply to this run", ""]
        lines += [f"- {f.figure.title} (`{f.figure.name}`): {f.text}" for f in without]
    return "\n".join([*lines, ""])
