"""An experiment as one value, `Run`, and the hooks of its training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jdl.errors import Error, missing
from jdl.types import Learner, Loader, Metrics, State, Tokenizer, Variables

Hook = tuple[int, Callable[[int, State, Metrics], Any]]
"""A hook (callback) of the training loop: (every, function).

After every so many steps `function(step, state, metrics)` is called, to log, draw or collect. It
reads, and changes nothing: a run is the same to the bit with and without it. The metrics are those
of that step (`metrics["loss"].value()`). Arrays of the state are deleted by the next step: what is
kept is copied, by `numpy.asarray`, or `jdl.parallel.to_host` where processes share an array. The
hook is called after the evaluation and before the checkpoint of its step; a run that was killed
calls it again for the steps since its newest checkpoint. A dict that it returns is logged: numbers
(and metrics) as the split "hooks", and pictures, arrays (H, W), (H, W, 3) or (H, W, 4) of bytes, as
`pictures/<name>/<step>.png` in the run's folder; both in TensorBoard too. `raise jdl.Stop` ends the
training after that step, for good, as early stopping does; any other exception stops the run. Of
several processes, all call it, and either all or none stop.
"""


@dataclass(frozen=True)
class Run:
    """An experiment, ready to be trained: its config, learner and data, and how it is evaluated.

    `valid` is evaluated during training, or `test` if there is no `valid`; `test` is evaluated at
    the end. `best` chooses the best checkpoint: "max" or "min" and the name of a metric, such as
    "max accuracy". `score` computes more numbers from the final variables, at the end and however
    long it takes: BLEU of the whole test set, say.
    """

    config: Any
    learner: Learner
    train: Loader
    valid: Loader | None = None
    test: Loader | None = None
    best: str = "min loss"
    labels: tuple[str, ...] = ()  # class names, for figures and predictions
    tokenizer: Tokenizer | None = None  # of a language model: for samples, and to predict from text
    score: Callable[[Variables], dict[str, float]] | None = None
    hooks: Sequence[Hook] = ()  # callbacks; see `Hook`

    def __post_init__(self) -> None:
        if self.learner is not None:  # None where the run is only inspected
            _check_learner(self.learner)
        for name, data in {"train": self.train, "valid": self.valid, "test": self.test}.items():
            if isinstance(data, Loader) or (data is None and name != "train"):
                continue
            make = "shuffled(batch_size, seed)" if name == "train" else "batches(batch_size)"
            dataset = "the dataset" if hasattr(data, "batches") else "jdl.data.arrays(x=..., y=...)"
            raise Error(
                f"Run({name}=...) takes a loader of batches, not a {type(data).__name__}: call "
                f".{make} of {dataset}. To make batches in another way, subclass jdl.Loader."
            )


def _check_learner(learner: Any) -> None:
    """Raises `Error` for what is no learner."""
    if not isinstance(learner, Learner):
        raise Error(
            "Run(learner=...) takes a learner, such as jdl.descent(objective, optimizer), not a "
            f"{type(learner).__name__}."
        )
    if not hasattr(learner, "objective"):
        raise missing(learner, "objective", "set the one that it is evaluated by")
