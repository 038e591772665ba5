"""Checkpoints (Orbax): saved in a thread, and verified by their manifest before a restore."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jdl.errors import first_line
from jdl.parallel import processes
from jdl.parallel.multihost import from_local, local_copy, process_sharding, to_host
from jdl.store import manifest
from jdl.store.folder import DISK_FULL, DiskError
from jdl.store.record import FORMAT
from jdl.types import Error, State

MARGIN = 2**20  # bytes, for the metadata of a checkpoint and for the logs
PARTS = ("step", "params", "model_state", "opt_state", "extra")  # fields of State in its digest


def leaf_digests(tree: Any) -> dict[str, str]:
    """The SHA-256 of each leaf's type, shape and bytes, by its path.

    A collective: with several processes, all must call it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _digest(leaf) for path, leaf in leaves}


def state_digest(state: State) -> str:
    """The digest of a train state: one SHA-256 of all its leaves except the random key."""
    digests = leaf_digests({part: getattr(state, part) for part in PARTS})
    text = "\n".join(f"{path} {digests[path]}" for path in sorted(digests))
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(leaf: Any) -> str:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = to_host(jax.random.key_data(leaf) if is_key else leaf)
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def is_better(mode: str, value: float, best: float | None) -> bool:
    """Whether a metric is above ("max") or below ("min") its best value so far; NaN never is."""
    if math.isnan(value):
        return False
    return best is None or (value > best if mode == "max" else value < best)


class _Manager(ocp.CheckpointManager):
    """Orbax's CheckpointManager, without its call of JAX's `reached_preemption_sync_point`.

    JAX chooses the step at which all processes stop by the step of each one's last call, so only
    the loop may call it: Orbax does in our thread, with a step that the loop has passed.
    """

    def reached_preemption(self, step: int) -> bool:
        """Answers no, without asking JAX."""
        return False


class Checkpoints:
    """The checkpoints of a run: the latest `keep`, and the best by `best`, such as "max accuracy".

    Only the processes that train the run may write, all together; others open it `read_only`. An
    array that lies on a device of one process only is assumed to be equal in all processes.
    `on_saved` is called with each state after it is written to disk.
    """

    def __init__(
        self,
        folder: Path,
        best: str = "min loss",
        keep: int = 2,
        read_only: bool = False,
        on_saved: Callable[[State], None] = lambda state: None,
    ) -> None:
        self._mode, self._metric = best.split()
        self._choose: Callable[..., Any] = max if self._mode == "max" else min
        self._keep = keep
        try:
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
            options = self._options(read_only)
            self._manager = _Manager(folder.absolute(), options=options)
            self._best = self._choose(self._scores().values(), default=None)
        except Exception as error:  # Orbax reads all metrics; damage raises any exception
            raise Error(
                f"The checkpoints in {folder} cannot be read: {first_line(error)}. If one is "
                "damaged, train the run again: it resumes from the newest intact one."
            ) from error
        self._thread = ThreadPoolExecutor(1, "jdl-checkpoints")
        self._saving: Future[None] | None = None
        self._on_saved = on_saved

    def _options(self, read_only: bool) -> ocp.CheckpointManagerOptions:
        def score(metrics: dict[str, float]) -> float:
            return metrics[self._metric]

        return ocp.CheckpointManagerOptions(
            create=False,  # with `active_processes` Orbax leaves it to us
            enable_async_checkpointing=False,  # our own thread also writes the manifest
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                # Named processes wait for each other by the coordination service. All, by default,
                # do it by a collective of devices, which in a thread may interleave with a step's.
                active_processes=set(range(jax.process_count())) if processes.several() else None,
            ),
            read_only=read_only,
            cleanup_tmp_directories=not read_only,  # left by a kill during a save
            best_fn=score,
            best_mode=self._mode,
            # Orbax would delete old checkpoints before the new one has its manifest.
            preservation_policy=ocp.checkpoint_managers.LatestN(None),
        )

    def save(
        self, step: int, state: State, host: dict[str, Any], metrics: dict[str, float] | None = None
    ) -> None:
        """Saves a state asynchronously; it is copied first, so that its memory may be donated.

        `host` is further state outside of `State`, as JSON. Raises `Error` where the save before
        failed, and where the disk is full. With several processes, all must call it.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        value = (metrics or {}).get(self._metric, math.nan)
        ranked = None if math.isnan(value) else metrics
        if self.is_best(metrics or {}):
            self._best = value
        copy = jax.tree.map(from_local, _copy(state)) if processes.several() else _copy(state)
        self._saving = self._thread.submit(self._save, step, copy, host, ranked)

    def _save(
        self, step: int, state: State, host: dict[str, Any], metrics: dict[str, float] | None
    ) -> None:
        record = {"format": FORMAT, "host": host}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
        )
        self._manager.save(step, args=items, metrics=metrics)
        if processes.is_first():
            manifest.write_manifest(self._path(step))
        self._on_saved(state)
        processes.wait_for_all(f"saved/{step}")  # none may end before the manifest is there
        self._delete_old()

    def _delete_old(self) -> None:
        """Deletes all but the latest `keep` and the best; a kill before leaves one too many.

        By Orbax's own `best_step`, which needs no disk: processes must agree on what to delete.
        """
        older = self._manager.all_steps()[: -self._keep]
        for step in older:
            if step != self._manager.best_step():
                self._manager.delete(step)

    def check(self) -> None:
        """Raises the error of the last save if it has failed; does not wait for its end."""
        if self._saving and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is on disk."""
        saving, self._saving = self._saving, None
        if saving:
            try:
                saving.result()
            except (OSError, ValueError) as error:
                raise self._failure(error) from error
            except jax.errors.JaxRuntimeError as error:  # of Orbax's barriers, and of ours
                raise Error(
                    "The processes could not save a checkpoint together under "
                    f"{self._manager.directory}: {first_line(error)}. Earlier ones are intact: "
                    "run the same command again to resume."
                ) from error

    def _failure(self, error: OSError | ValueError) -> Error:
        """The error for a save that failed: a `DiskError`, unless it was not the disk's fault."""
        code = error.errno if isinstance(error, OSError) else _os_error_code(error)
        is_disk = isinstance(error, OSError) or code is not None
        room = "free some disk space, and " if code in DISK_FULL else ""
        return (DiskError if is_disk else Error)(
            f"A checkpoint could not be written under {self._manager.directory}: "
            f"{type(error).__name__}: {error}. Earlier ones are intact: {room}run the same command "
            "again to resume."
        )

    def _check_room(self, size: int) -> None:
        """Raises `DiskError` where a state of `size` bytes may not fit on the disk."""
        folder, needed = self._manager.directory, size + MARGIN
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise DiskError(
                f"A checkpoint may need {needed / 2**20:,.1f} MiB, and {free / 2**20:,.1f} MiB are "
                f"free under {folder}. Earlier ones are intact: free some disk space, and run the "
                "same command again to resume."
            )

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint; None where there is none."""
        return max(self._complete_steps(), default=None)

    def best(self) -> int | None:
        """The step of the best complete checkpoint; None where none was evaluated."""
        scores = self._scores()
        latest_first = sorted(scores, reverse=True)
        return self._choose(latest_first, key=scores.__getitem__, default=None)

    def _scores(self) -> dict[int, float]:
        """The metric to choose the best by, of each complete checkpoint that was evaluated."""
        metrics = {step: self._manager.metrics(step) for step in self._complete_steps()}
        return {step: found[self._metric] for step, found in metrics.items() if found}

    def _complete_steps(self) -> list[int]:
        steps = self._manager.all_steps()
        return [step for step in steps if manifest.is_complete(self._path(step))]

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether a state with these metrics is better than all that were saved."""
        value = metrics.get(self._metric)
        return value is not None and is_better(self._mode, value, self._best)

    def restore(self, like: State, step: int | None = None) -> tuple[State, dict[str, Any]]:
        """Restores the state of `step`, by default the newest, and its `host`: (state, host).

        `like` has the shapes, types and shardings of the state; leaves without a sharding are put
        on the first device, wherever they were saved. Raises `Error` where there is no checkpoint,
        where its manifest shows damage, and where its format or its tree of arrays does not match.
        """
        self.wait()
        step = self.latest() if step is None else step
        if step is None:
            raise Error(f"There is no checkpoint in {self._manager.directory}.")
        path = self._path(step)
        if wrong := manifest.damage(path):
            raise Error(
                f"The checkpoint {path} is damaged: {wrong}. Train the run again: it resumes from "
                "the newest intact one."
            )
        record = self._restore(step, record=ocp.args.JsonRestore())["record"]
        if record.get("format") != FORMAT:
            raise Error(
                f"{path} is a checkpoint of format {record.get('format')}, and this jdl reads "
                f"format {FORMAT}: restore it with the jdl that saved it, or train with --fresh."
            )
        target = ocp.args.StandardRestore(jax.tree.map(_with_sharding, like))
        state = self._restore(step, state=target)["state"]
        return jax.tree.map(_to_device, state, like), record["host"]

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # a mismatch raises any exception, also a bare Exception
            path = self._path(step)
            raise Error(
                f"The checkpoint {path} cannot be restored: {first_line(error)}."
            ) from error

    def _path(self, step: int) -> Path:
        return Path(self._manager.directory) / str(step)

    def close(self) -> None:
        """Waits for the last save, and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._manager.close()


def _with_sharding(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or process_sharding()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _to_device(leaf: Any, like: jax.ShapeDtypeStruct) -> Any:
    return leaf if like.sharding else local_copy(leaf)


def _os_error_code(error: ValueError) -> int | None:
    """The operating system's error number in an error of TensorStore, by which Orbax writes."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


@jax.jit
def _copy(state: State) -> State:
    return jax.tree.map(jnp.copy, state)
