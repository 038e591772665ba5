"""The hooks of `Run.hooks`, and the log of what they return."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.errors import Stop
from jdl.parallel import processes
from jdl.run import Hook
from jdl.store.folder import write_atomically
from jdl.store.log import HOOKS
from jdl.train.hooks import Patience, is_multiple
from jdl.train.outputs import Outputs
from jdl.types import Error, Metrics, State

PICTURES = "pictures"  # the folder of the run's, with a folder for each name
NAME = re.compile(r"\w[\w.-]*")  # it becomes one of a folder
LOGGED = "a dict of numbers and pictures to log, such as {'largest': 0.5}"
NUMBERS = (jnp.bool_, jnp.integer, jnp.floating)  # bfloat16 too, which NumPy alone does not know
CHANNELS = (3, 4)  # of a picture (H, W, C): RGB, and RGBA


@dataclass(frozen=True)
class UserHooks:
    """The hooks of a run, pairs (every, function); the numbers and pictures they return are logged.

    The numbers of a step are one line of the log, of the split "hooks".
    """

    hooks: tuple[Hook, ...]
    patience: Patience
    outputs: Outputs
    owners: dict[str, int] = field(default_factory=dict)  # by name, the number of its hook
    told: set[int] = field(default_factory=set)  # the numbers of hooks whose returns are not logged

    def due(self, step: int) -> bool:
        """Whether any is due."""
        return any(is_multiple(step, every) for every, _ in self.hooks)

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Calls those that are due, and logs what they return."""
        found: dict[str, Any] = {}
        for n, (every, function) in enumerate(self.hooks, 1):
            if is_multiple(step, every):
                returned = self._returned(n, function, step, state, metrics)
                self._check_names(n, returned)
                found |= returned
        pictures = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
        if processes.is_first():
            for name, picture in pictures.items():
                self._write_picture(step, name, picture)
        if numbers := {name: value for name, value in found.items() if name not in pictures}:
            self.outputs.log.write(step, HOOKS, numbers)

    def _check_names(self, n: int, returned: Mapping[str, Any]) -> None:
        """Raises `Error` where hook n returns what another has returned, at whatever step."""
        for name in returned:
            if (other := self.owners.setdefault(name, n)) != n:
                raise Error(
                    f"Hooks {other} and {n} of Run(hooks=...) both return {name!r}: give each a "
                    "name of its own."
                )

    def _returned(
        self, n: int, function: Callable[..., Any], step: int, state: State, metrics: Metrics
    ) -> dict[str, Any]:
        """What a hook returns; it gets copies of the dicts, so that changing them has no effect."""
        state, metrics = jax.tree.map(lambda leaf: leaf, (state, metrics))
        try:
            returned = function(step, state, metrics)
        except Stop as stop:
            self.patience.stopped = True
            why = f": {stop}" if str(stop) else ""
            self.outputs.display.note(f"Step {step:,}: stopped by a hook{why}")
            return {}
        except StopIteration as error:
            raise Error(
                f"A hook raised StopIteration at step {step:,}. `raise jdl.Stop` ends the training;"
                " `next` of an iterator that has ended raises it too: next(iterator, None) does "
                "not."
            ) from error
        if isinstance(returned, Mapping):
            return {name: logged(name, value) for name, value in returned.items()}
        parts = returned if isinstance(returned, tuple) else (returned,)
        if any(isinstance(part, State | bool) for part in parts):  # it expects an effect
            raise Error(
                f"A hook returned a {type(returned).__name__}, and hooks change nothing: they read "
                f"the state, and may return {LOGGED}. `raise jdl.Stop` ends the training; a "
                "learning rate is changed by an Optax schedule, optax.adam(schedule)."
            )
        if returned is not None and n not in self.told:
            self.told.add(n)
            self.outputs.display.note(
                f"Step {step:,}: hook {n} returned a {type(returned).__name__}, which is not "
                f"logged: it may return {LOGGED}"
            )
        return {}

    def _write_picture(self, step: int, name: str, picture: np.ndarray) -> None:
        from PIL import Image

        file = BytesIO()
        Image.fromarray(picture).save(file, "png")
        path = self.outputs.folder / PICTURES / name / f"{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, file.getvalue())
        self.outputs.log.picture(step, f"{HOOKS}/{name}", picture)


def logged(name: Any, value: Any) -> float | np.ndarray:
    """What a hook returns under a name: a number, or a picture as an array of bytes.

    A metric becomes its value. Raises `Error` for anything else.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in ("step", "split"):
        raise Error(
            f"A hook returned something named {name!r}: take a name of letters, digits, dots, "
            "hyphens and underscores, other than step and split."
        )
    array = np.asarray(value.value() if hasattr(value, "value") else value)
    if array.shape == () and any(jnp.issubdtype(array.dtype, kind) for kind in NUMBERS):
        return float(array)
    if array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2:] in [(c,) for c in CHANNELS]):
        return array
    raise Error(
        f"A hook returned {name!r}, an array {array.shape} of {array.dtype}, and what it returns "
        "is logged: a number, or a picture as bytes (numpy.uint8), of the shape (H, W), (H, W, 3) "
        "or (H, W, 4)."
    )
