"""Experiment trackers: what they are sent, also after a resume; and that none can harm a run.

Seen to fail: an error that ended the tracker's thread, a warning at every line, a CSV file that
began anew after a resume, a line that came twice, metrics of training as those of HParams, names
that were not checked, and the host in what W&B is sent.
"""

import csv
import json
import socket
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import optax
import pytest
from harness import digest, lines

import jdl
from jdl.models.mlp import MLP
from jdl.train import trackers, tracking
from jdl.train.preemption import PausedError

OPTIONS = {"eval_every": 3, "save_every": 3, "log_every": 1, "quiet": True}


def train(root, **options):
    """Trains a perceptron for six steps."""
    rows, test = jdl.data.digits()
    learner = jdl.descent(jdl.objectives.classify(MLP(10, hidden=())), optax.sgd(0.1))
    config = jdl.Config(name="tracked", steps=6)
    run = jdl.Run(config, learner, rows.shuffled(24, 0), test=test.batches(200))
    return jdl.fit(run, jdl.Options(root=root, **OPTIONS, **options))


def stop_at_4(root, **options):
    """The same, which stops on the way."""
    with pytest.raises(PausedError):
        train(root, until=4, **options)


class Broken:
    """A tracker that fails at every call."""

    def __init__(self, tracked):
        if tracked is not None:
            raise RuntimeError("no network")

    def write(self, step, split, numbers):
        raise RuntimeError("no network")

    def close(self, finished):
        raise RuntimeError("no network")


class Slow:
    """A tracker that never answers."""

    def __init__(self, tracked):
        self.answered = threading.Event()

    def write(self, step, split, numbers):
        self.answered.wait()

    def close(self, finished):
        self.answered.wait()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without trackers: the digest of its state, and its log."""
    result = train(tmp_path_factory.mktemp("plain"))
    return digest(result), lines(result)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(
    ("tracker", "reason"),
    [
        (Broken, "RuntimeError: no network. The run goes on"),
        (lambda tracked: Broken(None), "RuntimeError: no network. The run goes on"),
        (Slow, "it has not ended within 0 s. The run goes on"),
    ],
    ids=["at the start", "at every line", "never answers"],
)
def test_a_tracker_that_fails_changes_nothing_and_warns_once(
    tmp_path, monkeypatch, plain, tracker, reason
):
    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", tracker)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = train(tmp_path, track=("tensorboard", "csv"))
    assert (digest(result), lines(result)) == plain
    found = [str(w.message) for w in caught if "tracker" in str(w.message)]
    assert len(found) == 1
    assert found[0].startswith(f"The tracker tensorboard gets nothing more: {reason}")
    assert len(rows(result.folder)) > 1  # the other one is sent all


class Told:
    """A tracker that keeps what it is told at the end."""

    def __init__(self, tracked):
        self.id = tracked.id

    def write(self, step, split, numbers):
        pass

    def close(self, finished):
        self.ends.append((self.id, finished))


@pytest.mark.slow
def test_trackers_hear_whether_a_training_is_finished_and_which_it_is(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", Told)
    monkeypatch.setattr(Told, "ends", [], raising=False)
    stop_at_4(tmp_path, track=("tensorboard",))
    train(tmp_path, track=("tensorboard",))
    train(tmp_path, track=("tensorboard",), fresh=True)
    (paused, resumed, fresh) = Told.ends
    assert (paused[1], resumed[1], fresh[1]) == (False, True, True)
    assert paused[0] == resumed[0] != fresh[0]


def test_csv_has_a_line_once_that_is_in_the_log_and_comes_too(tmp_path):
    """As the last evaluation of a run that is at its end already, which the log has by then."""
    line = {"step": 6, "split": "test", "loss": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    tracker = trackers.CSVTracker(tracking.Tracked(tmp_path, {}, 6))
    tracker.write(6, "test", {"loss": 0.5})
    tracker.close(True)
    assert rows(tmp_path) == [trackers.CSV_HEAD, ["6", "test", "loss", "0.5"]]


def test_csv_has_the_numbers_of_the_log_also_after_a_resume(tmp_path, plain):
    stop_at_4(tmp_path, track=("csv",))
    (folder,) = (path.parent for path in tmp_path.glob("*/*/*/run.json"))
    with (folder / "metrics.jsonl").open("a") as file:  # a killed process, after its checkpoint
        file.write(json.dumps({"step": 5, "split": "train", "loss": 99.0}) + "\n")
    result = train(tmp_path, track=("csv",))
    assert digest(result) == plain[0]
    log = [json.loads(line) for line in lines(result)]
    expected = [
        [str(line["step"]), line["split"], name, str(value)]
        for line in log
        for name, value in line.items()
        if name not in ("step", "split")
    ]
    assert rows(folder) == [trackers.CSV_HEAD, *expected]


def test_tensorboard_gets_the_hyperparameters(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    from tensorboard.plugins.hparams import plugin_data_pb2

    result = train(tmp_path, track=("tensorboard",))
    (path,) = result.folder.glob("events*.hparams")
    found = {}
    for event in loader.EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            content = value.metadata.plugin_data.content
            found[value.tag] = plugin_data_pb2.HParamsPluginData.FromString(content)
    start = found["_hparams_/session_start_info"].session_start_info
    assert start.hparams["steps"].number_value == 6
    names = {one.name.tag for one in found["_hparams_/experiment"].experiment.metric_infos}
    assert "test/accuracy" in names


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(jdl.Error, match="no tracker 'paper'"):
        train(tmp_path, track=("paper",))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_library_that_is_missing_is_named_before_anything_is_trained(tmp_path, monkeypatch, name):
    monkeypatch.setattr(trackers, "find_spec", lambda module: None)
    with pytest.raises(jdl.Error, match=f"pip install {name}"):
        train(tmp_path, track=(name,))
    assert not any(tmp_path.iterdir())


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = train(tmp_path, track=("wandb",))
    (path,) = result.folder.glob("wandb/offline-run-*/*.wandb")
    sent = path.read_bytes()
    assert b"test/accuracy" in sent
    for private in (f'{socket.gethostname()}"', str(Path.cwd())):
        assert private.encode() not in sent, private
    assert not list(result.folder.glob("wandb/*/files/*"))


def test_mlflow_in_a_local_folder(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more than its client
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    stop_at_4(tmp_path / "runs", track=("mlflow",))
    client = MlflowClient()
    (paused,) = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    assert paused.info.status == "KILLED"
    result = train(tmp_path / "runs", track=("mlflow",))
    experiment = client.get_experiment_by_name("tracked")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.data.params["steps"], run.info.status) == ("6", "FINISHED")
    last = [line for line in map(json.loads, lines(result)) if line["split"] == "test"][-1]
    history = client.get_metric_history(run.info.run_id, "test/accuracy")
    assert (history[-1].step, history[-1].value) == (6, last["accuracy"])
    train(tmp_path / "runs", track=("mlflow",), fresh=True)
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_an_experiment_of_mlflow_that_another_run_creates_is_taken():
    exceptions = pytest.importorskip("mlflow.exceptions")
    found = [None, SimpleNamespace(experiment_id="7")]

    def create_experiment(name):
        raise exceptions.MlflowException("RESOURCE_ALREADY_EXISTS")

    tracker = object.__new__(trackers.MLflowTracker)
    tracker._client = SimpleNamespace(
        get_experiment_by_name=lambda name: found.pop(0), create_experiment=create_experiment
    )
    assert tracker._experiment("net") == "7"


def test_names_that_mlflow_does_not_allow_are_changed():
    sent = []
    tracker = object.__new__(trackers.MLflowTracker)
    tracker._client = SimpleNamespace(log_batch=lambda run, metrics: sent.extend(metrics))
    tracker._run = "r"
    pytest.importorskip("mlflow")
    tracker.write(1, "test", {"top@5": 0.5})
    assert [(m.key, m.value, m.step) for m in sent] == [("test/top_5", 0.5, 1)]
