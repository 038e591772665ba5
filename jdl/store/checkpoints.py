"""Checkpoints: Orbax in a thread of its own, with a manifest of every file that is verified before a restore."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jdl.parallel.multihost import from_local, local_copy, process_sharding, to_host
from jdl.store import manifest
from jdl.types import Error, State

ROOM = 2**20  # bytes for what a checkpoint has beside its arrays, and for the logs
FORMAT = 2  # raised when checkpoints of the old form can no longer be read


def leaf_digests(tree: Any) -> dict[str, str]:
    """The SHA-256 of each leaf's type, shape and bytes, by its path; of several processes, all must ask."""
    return {
        jax.tree_util.keystr(path): _sum(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def state_digest(state: State) -> str:
    """One SHA-256 over step, params, carry and optimizer state: equal for equal states, to the bit."""
    sums = leaf_digests(
        {
            "step": state.step,
            "params": state.params,
            "model_state": state.model_state,
            "opt_state": state.opt_state,
        }
    )
    return hashlib.sha256(
        "\n".join(f"{path} {sums[path]}" for path in sorted(sums)).encode()
    ).hexdigest()


def _sum(leaf: Any) -> str:
    array = to_host(
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    )
    return hashlib.sha256(
        f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()


class Checkpoints:
    """The checkpoints of a run: the latest `keep`, and the best by the metric that `best`, "max NAME", names.

    Only the processes of one run may write, all together; those that are `read_only` may look on. Arrays that a process
    has on its own device alone are taken to be the same in all. `saved` is told of each state that is on the disk.
    """

    def __init__(
        self,
        folder: Path,
        best: str = "min loss",
        keep: int = 2,
        read_only: bool = False,
        saved: Callable[[State], None] = lambda state: None,
    ) -> None:
        mode, self._metric = best.split()

        def score(metrics: dict[str, float]) -> float:
            return metrics[self._metric]

        policy = ocp.checkpoint_managers
        ranking = policy.BestN(
            get_metric_fn=score, reverse=mode == "min", n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False,  # the thread below does more than Orbax's: it also hashes
            read_only=read_only,
            cleanup_tmp_directories=not read_only,  # what a kill left of a save
            best_fn=score,
            best_mode=mode,
            preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(keep), ranking]),
        )
        try:
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        except (
            Exception
        ) as error:  # it reads the metrics of all of them; damage surfaces as all kinds
            reason = str(error).partition("\n")[0][:300]
            raise Error(
                f"The checkpoints in {folder} cannot be read: {reason}. If one is damaged, training goes on without it."
            ) from error
        self._thread = ThreadPoolExecutor(1, "jdl-checkpoints")
        self._saving: Future[None] | None = None
        self._saved = saved

    def save(
        self, step: int, state: State, host: dict[str, Any], metrics: dict[str, float] | None = None
    ) -> None:
        """Begins to save; the state is copied at once, so that its memory may be given away.

        `host` is what the loop must remember besides, as JSON. Raises `Error` where an earlier save failed, and where
        the disk has no room for another.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        if (
            jax.process_count() > 1
        ):  # what processes exchange must not come between the exchanges of a step
            self._save(step, jax.tree.map(from_local, state), host, metrics)
        else:
            self._saving = self._thread.submit(self._save, step, _copied(state), host, metrics)

    def _save(
        self, step: int, state: State, host: dict[str, Any], metrics: dict[str, float] | None
    ) -> None:
        record = {"format": FORMAT, "host": host}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
        )
        ranked = metrics if metrics and self._metric in metrics else None
        self._manager.save(step, args=items, metrics=ranked)
        if jax.process_index() == 0:
            manifest.seal(self._folder(step))
        self._saved(state)

    def wait(self) -> None:
        """Returns when all that was saved is on the disk."""
        saving, self._saving = self._saving, None
        if saving:
            try:
                saving.result()
            except (OSError, ValueError) as error:
                raise Error(
                    f"A checkpoint could not be written under {self._manager.directory}: {error}. The earlier ones are "
                    "whole; make room, or choose another --root."
                ) from error

    def _check_room(self, size: int) -> None:
        """Raises `Error` where a state of so many bytes may not fit: Orbax itself would fail midway, and noisily."""
        folder, needed = self._manager.directory, size + ROOM
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise Error(
                f"A checkpoint may need {needed / 2**20:,.1f} MiB, and {free / 2**20:,.1f} MiB are free under "
                f"{folder}. The earlier ones are whole: make room, and the same command goes on."
            )

    def latest(self) -> int | None:
        """The step of the newest checkpoint that was written to its end."""
        return max(
            filter(lambda step: manifest.sealed(self._folder(step)), self._manager.all_steps()),
            default=None,
        )

    def best(self) -> int | None:
        """The step of the best checkpoint, where any was evaluated."""
        return self._manager.best_step()

    def restore(self, like: State, step: int | None = None) -> tuple[State, dict[str, Any]]:
        """The state of `step`, by default the newest, in the form of `like`, and what `save` was given as `host`.

        Leaves without a sharding come onto the first device, wherever they were saved. Raises `Error` where there is
        none, where any file is not as it was written, before it is read, or where the form is another.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise Error(f"There is no checkpoint in {self._manager.directory}.")
        where = self._folder(step)
        if wrong := manifest.damage(where):
            raise Error(
                f"The checkpoint {where} is damaged: {wrong}. Training goes on from the newest that is whole."
            )
        try:
            wanted = ocp.args.StandardRestore(jax.tree.map(_placed, like))
            items = ocp.args.Composite(state=wanted, record=ocp.args.JsonRestore())
            found = self._manager.restore(step, args=items)
        except (
            Exception
        ) as error:  # another form surfaces as all kinds, a bare Exception among them
            reason = str(error).partition("\n")[0][:300]
            raise Error(f"The checkpoint {where} cannot be restored: {reason}") from error
        record = found["record"]
        if record.get("format") != FORMAT:
            raise Error(
                f"{where} is a checkpoint of format {record.get('format')}, and this jdl reads {FORMAT}."
            )
        state = jax.tree.map(
            lambda leaf, asked: leaf if asked.sharding else local_copy(leaf), found["state"], like
        )
        return state, record["host"]

    def _folder(self, step: int) -> Path:
        return Path(self._manager.directory) / str(step)

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._manager.close()


def _placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=leaf.sharding or process_sharding()
    )


@jax.jit
def _copied(state: State) -> State:
    return jax.tree.map(jnp.copy, state)
