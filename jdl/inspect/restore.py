"""Restoring a trained run from its folder, to evaluate it, to predict or to sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from jdl.config import difference, to_json
from jdl.objectives.predict import Columns, map_rows
from jdl.objectives.pretrained_model import leave_fresh
from jdl.run import Run
from jdl.store.checkpoints import Checkpoints
from jdl.store.orbax_log import quiet_orbax
from jdl.store.record import read_record
from jdl.store.saved_arrays import check_fit
from jdl.train.experiment import rebuild
from jdl.train.placement import apply_config
from jdl.train.thread_pool import fix_thread_pool_size
from jdl.types import Batch, Error, Loader, Objective, Predicts, State, Variables

OTHER_RUN = (
    "It was trained by other code, with other data, or with other versions of the libraries "
    "(run.json has them): give jdl.restore the run as it was trained."
)


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """A run and the train state of one of its checkpoints."""

    run: Run
    state: State

    def __repr__(self) -> str:
        return f"<TrainedRun of {self.run.config} at step {self.step:,}>"

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return int(self.state.step)

    @property
    def objective(self) -> Objective:
        """The learner's objective, with `predict`, `decode`, ... where it has them."""
        return self.run.learner.objective

    @property
    def variables(self) -> Variables:
        """The variables to evaluate and predict with: `objective.predict(variables, batch)`."""
        return self.run.learner.eval_variables(self.state)

    def predict_all(self, data: Loader, columns: Sequence[str] = ()) -> Columns:
        """Predictions as `jdl.objectives.predict_all` has them, by all devices of this machine.

        Compiled once, however often it is called.
        """
        return map_rows(self._predict, {}, data, columns, replicas=self._replicas)

    @cached_property
    def document_codes(self) -> np.ndarray:
        """The embeddings (N, D) of the y of the evaluation data, among which queries find some.

        Computed once, however many files of queries there are.
        """
        data = self.run.test or self.run.valid
        assert data is not None
        return self.predict_all(data)["y_code"]

    @cached_property
    def _predict(self) -> Callable[[Variables, Batch], Batch]:
        """One object for all calls: JAX compiles a function once, and a new bound method anew."""
        assert isinstance(self.objective, Predicts)
        return self.objective.predict

    @cached_property
    def _replicas(self) -> list[Variables]:
        devices = jax.local_devices()
        return (
            [jax.device_put(self.variables, d) for d in devices]
            if devices[1:]
            else [self.variables]
        )


def restore(folder: Path | str, run: Run | None = None, best: bool = False) -> TrainedRun:
    """Restores a trained run from its folder, at its newest checkpoint or at its best one.

    The run is rebuilt from the script and the config in its folder. If it was trained without a
    script, by `jdl.fit` in a notebook, pass the same run as `run`. Raises `Error` where the folder
    has no such checkpoint, and where the config of `run` is not the recorded one.
    """
    fix_thread_pool_size()
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise Error(
            f"{folder} is not the folder of a run, which has a run.json: it is named "
            "runs/NAME/DIGEST/seedK, and jdl.restore takes no other name. `jdl runs` lists all; "
            "jdl.fit gives it as result.folder."
        )
    run = rebuild(folder) if run is None else apply_config(_checked(folder, run))
    with _checkpoint(folder, run.best, best) as (checkpoints, step):
        with leave_fresh():  # a checkpoint has all: the pretrained weights may be gone
            like = jax.eval_shape(run.learner.init, jax.random.key(run.config.seed), run.train[0])
        check_fit(folder / "checkpoints" / str(step), like, OTHER_RUN)
        state, _ = checkpoints.restore(like, step)
    return TrainedRun(run, state)


def checkpoint_path(folder: Path, best: bool = False) -> Path:
    """The newest checkpoint of a run, or its best one; `Error` where there is none."""
    with _checkpoint(folder, read_record(folder)["best"], best) as (_, step):
        return folder / "checkpoints" / str(step)


@contextmanager
def _checkpoint(folder: Path, by: str, best: bool) -> Iterator[tuple[Checkpoints, int]]:
    """A run's checkpoints, and the step of the newest or of the best one."""
    with quiet_orbax():
        checkpoints = Checkpoints(folder / "checkpoints", by, read_only=True)
        try:
            step = checkpoints.best() if best else checkpoints.latest()
            if step is None:
                raise Error(
                    f"{folder} has no {'evaluated ' if best else ''}checkpoint yet: train it first."
                )
            yield checkpoints, step
        finally:
            checkpoints.close()


def _checked(folder: Path, run: Run) -> Run:
    """The run, if its config is the recorded one; else raises `Error`."""
    recorded, given = read_record(folder)["config"], to_json(run.config)
    if recorded != given:
        changes = difference(recorded, given)
        raise Error(
            f"{folder} holds a run of another config ({changes}): give jdl.restore the run that "
            "was trained in this folder."
        )
    return run
