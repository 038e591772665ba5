"""The trackers of `--track`: CSV, TensorBoard's hyperparameters, Weights & Biases, MLflow."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec

from jdl.store import log
from jdl.train.tracking import Background, Tracked, Tracker, hyperparameters
from jdl.types import Error

PROJECT = "jdl"  # of W&B; MLflow's experiment has the name of the run's
CSV_HEAD = ["step", "split", "metric", "value"]
UNNAMED = re.compile(r"[^\w\-. /]")  # what MLflow allows in no name
LONGEST = 6_000  # characters of a parameter of MLflow
PRIVATE = {
    "disable_git": True,
    "save_code": False,
    "disable_job_creation": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "host": "",
    "program": "",
}  # settings of W&B
LIBRARIES = ("wandb", "mlflow")  # trackers that need the library of their name


class CSVTracker:
    """`metrics.csv` in the run's folder: step, split, metric, value, a line for each number."""

    def __init__(self, tracked: Tracked) -> None:
        before = [line for line in log.read(tracked.folder) if line["step"] <= tracked.start]
        self._written = set[tuple[int, str]]()  # a line may be in the log already, and come too
        self._file = (tracked.folder / "metrics.csv").open("w", newline="", buffering=1)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(CSV_HEAD)
        for line in before:
            numbers = {k: v for k, v in line.items() if isinstance(v, float)}
            self.write(line["step"], line["split"], numbers)

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        """Writes a line for each number, unless there are lines of this step and split already."""
        if (step, split) in self._written:
            return
        self._written.add((step, split))
        self._writer.writerows([step, split, name, value] for name, value in numbers.items())

    def close(self, finished: bool) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardTracker:
    """TensorBoard's HParams: the config beside the newest metrics of each evaluated split.

    The curves are in TensorBoard without it.
    """

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._numbers: dict[str, float] = {}

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        """Keeps the newest metrics of an evaluation."""
        if log.is_evaluated(split):
            self._numbers |= {f"{split}/{name}": value for name, value in numbers.items()}

    def close(self, finished: bool) -> None:
        """Writes the hyperparameters, and the names of the metrics, to the run's events."""
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        with SummaryWriter(str(self._tracked.folder), filename_suffix=".hparams") as events:
            for part in hparams(hyperparameters(self._tracked), self._numbers):
                events.file_writer.add_summary(part)


class WandBTracker:
    """Weights & Biases: a run of the project that WANDB_PROJECT names, "jdl" without it.

    A run that resumes goes on there: its id is kept in the run's folder. It is sent the config and
    the metrics, and not what W&B sends by default: the host, its hardware and use, the command, the
    git repository. WANDB_MODE=offline writes to the run's folder, for `wandb sync`.
    """

    def __init__(self, tracked: Tracked) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=tracked.id,
            name=tracked.name,
            group=tracked.record["digest"],
            config=hyperparameters(tracked),
            dir=str(tracked.folder),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True, **PRIVATE),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        """Logs the metrics as split/name, over the field `step`."""
        self._run.log({"step": step, **{f"{split}/{name}": v for name, v in numbers.items()}})

    def close(self, finished: bool) -> None:
        """Waits until all is sent; a run that is not finished is shown as preempted."""
        if not finished:
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if finished else 1)


class MLflowTracker:
    """MLflow: a run of the experiment with the run's name, at MLFLOW_TRACKING_URI.

    A run that resumes goes on there: it is found by its tag `jdl.id`.
    """

    def __init__(self, tracked: Tracked) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        name = tracked.record["config"]["name"]
        place = self._experiment(name)
        found = self._client.search_runs([place], f"tags.`jdl.id` = '{tracked.id}'")
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {"jdl.run": tracked.name, "jdl.id": tracked.id, "jdl.folder": str(tracked.folder)}
        created = self._client.create_run(place, tags=tags, run_name=tracked.name)
        self._run = created.info.run_id
        for field, value in hyperparameters(tracked).items():
            self._client.log_param(self._run, UNNAMED.sub("_", field), str(value)[:LONGEST])

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which other runs may create at the same time."""
        from mlflow.exceptions import MlflowException

        if (found := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        """Logs the metrics as split/name; in the names `_` is for what MLflow does not allow."""
        from mlflow.entities import Metric

        metrics = [
            Metric(UNNAMED.sub("_", f"{split}/{name}"), value, 0, step)
            for name, value in numbers.items()
        ]
        self._client.log_batch(self._run, metrics)

    def close(self, finished: bool) -> None:
        """Marks the run as finished; or as killed, where it is not."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


TRACKERS: dict[str, Callable[[Tracked], Tracker]] = {
    "csv": CSVTracker,
    "tensorboard": TensorBoardTracker,
    "wandb": WandBTracker,
    "mlflow": MLflowTracker,
}


def check_trackers(names: Sequence[str]) -> None:
    """Raises `Error` where a tracker is unknown, or its library is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise Error(f"There is no tracker {name!r}: --track is of {', '.join(TRACKERS)}.")
        if name in LIBRARIES and find_spec(name) is None:
            raise Error(f"--track {name} needs its library: pip install {name}.")


def open_trackers(names: Sequence[str], tracked: Tracked) -> list[Background]:
    """The trackers of these names, each in a thread of its own."""
    return [Background(name, partial(TRACKERS[name], tracked)) for name in dict.fromkeys(names)]
