"""Checkpoints: Orbax in a thread of its own, with a SHA-256 of every leaf that is verified at every restore."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jdl.types import Error, State

FORMAT = 1  # raised when checkpoints of the old form can no longer be read


def leaf_sums(tree: Any) -> dict[str, str]:
    """The SHA-256 of each leaf's type, shape and bytes, by its path."""
    return {jax.tree_util.keystr(path): _sum(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def state_digest(state: State) -> str:
    """One SHA-256 over step, params, carry and optimizer state: equal for equal states, to the bit."""
    sums = leaf_sums({"step": state.step, "params": state.params, "carry": state.carry, "opt": state.opt})
    return hashlib.sha256("\n".join(f"{path} {sums[path]}" for path in sorted(sums)).encode()).hexdigest()


def _sum(leaf: Any) -> str:
    array = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


class Checkpoints:
    """The checkpoints of a run: the latest `keep`, and the best by the metric that `best`, "max NAME", names.

    Only one process may write; those that are `read_only` may look on.
    """

    def __init__(self, folder: Path, best: str = "min loss", keep: int = 2, read_only: bool = False) -> None:
        mode, self._metric = best.split()

        def score(metrics: dict[str, float]) -> float:
            return metrics[self._metric]

        policy = ocp.checkpoint_managers
        ranking = policy.BestN(get_metric_fn=score, reverse=mode == "min", n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False,  # the thread below does more than Orbax's: it also hashes
            read_only=read_only,
            cleanup_tmp_directories=not read_only,  # what a kill left of a save
            best_fn=score,
            best_mode=mode,
            preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(keep), ranking]),
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self._thread = ThreadPoolExecutor(1, "jdl-checkpoints")
        self._saving: Future[None] | None = None

    def save(self, step: int, state: State, host: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Begins to save; the state is copied at once, so that its memory may be given away.

        `host` is what the loop must remember besides, as JSON. Raises `Error` where an earlier save failed.
        """
        self.wait()
        if step not in self._manager.all_steps():
            self._saving = self._thread.submit(self._save, step, _copied(state), host, metrics)

    def _save(self, step: int, state: State, host: dict[str, Any], metrics: dict[str, float] | None) -> None:
        record = {"format": FORMAT, "host": host, "sums": leaf_sums(state)}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
        ranked = metrics if metrics and self._metric in metrics else None
        self._manager.save(step, args=items, metrics=ranked)

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

    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step of the best checkpoint, where any was evaluated."""
        return self._manager.best_step()

    def restore(self, like: State, step: int | None = None) -> tuple[State, dict[str, Any]]:
        """The state of `step`, by default the newest, in the form of `like`, and what `save` was given as `host`.

        Raises `Error` where there is none, where it is of another form, or where any leaf's bytes have changed.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise Error(f"There is no checkpoint in {self._manager.directory}.")
        where = self._manager.directory / str(step)
        try:
            items = ocp.args.Composite(state=ocp.args.StandardRestore(like), record=ocp.args.JsonRestore())
            found = self._manager.restore(step, args=items)
        except Exception as error:  # damage surfaces as all kinds, a bare Exception among them
            reason = str(error).partition("\n")[0][:300]
            raise Error(f"The checkpoint {where} cannot be restored: {reason}") from error
        record = found["record"]
        if record.get("format") != FORMAT:
            raise Error(f"{where} is a checkpoint of format {record.get('format')}, and this jdl reads {FORMAT}.")
        sums = leaf_sums(found["state"])
        wrong = [path for path in sums if record["sums"].get(path) != sums[path]]
        if wrong:
            raise Error(f"The checkpoint {where} is damaged: {', '.join(wrong[:3])} changed since it was saved.")
        return found["state"], record["host"]

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._manager.close()


@jax.jit
def _copied(state: State) -> State:
    return jax.tree.map(jnp.copy, state)
