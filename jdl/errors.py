"""The error of the project, and what a hook raises to end a training."""

from typing import Any

HAS_GRADS = "define grads and apply_gradients, or step, and then set has_grads = False"


class Error(Exception):
    """Bad input: what is wrong and what to do. The command line exits with `code`."""

    code = 2


class Stop(Exception):  # noqa: N818 - it is no error
    """Raised by a hook, it ends the training after this step, as early stopping does."""


def first_line(error: Exception) -> str:
    """An exception's type and the first line of its message, for the text of an `Error`."""
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line[:300]}".rstrip(".: ")


def missing(part: Any, method: str, cure: str = "a subclass must define it") -> Error:
    """The error for a method that a subclass was to define."""
    return Error(f"{type(part).__name__} has no {method}: {cure}.")
