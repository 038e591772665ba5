"""Experiments: scripts with a `run` function and a `Config`, loaded, trained and found again."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from jdl.parallel import processes
from jdl.config import Config, from_json, parse
from jdl.store.environment import quiet_libraries, use_compilation_cache
from jdl.train.fit import Result, fit
from jdl.store.folder import read_record
from jdl.train.placement import apply_config
from jdl.train.malloc import keep_memory
from jdl.train.summary import summarise
from jdl.types import Error, Run


def load(script: Path) -> tuple[ModuleType, Callable[[Any], Run], type[Config]]:
    """A script's module, its `run` and its `Config`; importing an experiment does nothing else."""
    if not script.is_file():
        raise Error(
            f"There is no experiment {script}: name a Python file that defines run(config) -> jdl.Run."
        )
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None:
        raise Error(f"{script} is not a Python file.")
    if (beside := str(script.resolve().parent)) not in sys.path:
        sys.path.insert(
            0, beside
        )  # a script may import what lies beside it, as under `python SCRIPT`
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, AttributeError) as error:
        raise Error(f"{script} cannot be imported: {type(error).__name__}: {error}.") from error
    run, config = getattr(module, "run", None), getattr(module, "Config", Config)
    if not callable(run):
        raise Error(
            f"{script} defines no function run(config) that returns a jdl.Run: add one, as in experiments/."
        )
    if not (isinstance(config, type) and issubclass(config, Config)):
        raise Error(f"Config in {script} must inherit from jdl.Config.")
    return module, run, config


def train(script: Path, argv: list[str], prog: str) -> Result:
    """Trains the experiment in a script with these command-line arguments, and prints its summary."""
    module, run, config = load(script)
    return _train(run, config, argv, script, prog, module.__doc__ or "")


def main(run: Callable[[Any], Run], config: type[Config], argv: list[str] | None = None) -> None:
    """Makes a script a program: `jdl.main(run, Config)` under `if __name__ == "__main__"`."""
    module = sys.modules[run.__module__]
    script = Path(module.__file__ or "experiment.py")
    with exit_on_error():
        _train(
            run,
            config,
            sys.argv[1:] if argv is None else argv,
            script,
            script.name,
            module.__doc__ or "",
        )


def _train(
    run: Callable[[Any], Run],
    config: type[Config],
    argv: list[str],
    script: Path,
    prog: str,
    description: str,
) -> Result:
    c, options = parse(config, argv, prog, description)
    keep_memory()
    quiet_libraries()
    processes.start(options)
    use_compilation_cache()
    if not c.name:
        c = replace(c, name=script.stem)
    prepared = run(c)
    result = fit(prepared, options, script)
    if processes.first():
        text = summarise(result, prepared.labels)
        if not options.quiet:
            print(text)
    return result


def rebuild(folder: Path) -> Run:
    """The `Run` of a folder as it is trained, from its recorded script and config."""
    return apply_config(recorded(folder)[0])


def recorded(folder: Path) -> tuple[Run, Path]:
    """The `Run` that the recorded script makes of the recorded config, and the script."""
    record = read_record(folder)
    script = record.get("script")
    if not script or not isinstance(script, str):
        raise Error(f"{folder} was not trained from a script: load its checkpoint from Python.")
    _, run, config = load(Path(script))
    try:
        return run(from_json(config, record["config"])), Path(script)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Error(
            f"{script} makes no run of the config that {folder}/run.json records: {reason}."
        ) from error


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends the program at an `Error` with its message and code, and at Ctrl-C without a traceback."""
    try:
        yield
    except Error as error:
        print(f"jdl: {error}", file=sys.stderr)
        processes.leave(error.code)
        raise SystemExit(error.code) from None
    except KeyboardInterrupt:
        print(
            "jdl: interrupted; what was saved is whole, and the same command goes on from there",
            file=sys.stderr,
        )
        processes.leave(130)
        raise SystemExit(130) from None
    except Exception:
        if processes.several():  # the others may wait for this one, or it has lost one of them
            traceback.print_exc()
            print(
                "jdl: this process ends, and the others with it; what was saved is whole",
                file=sys.stderr,
            )
            processes.leave(1)
        raise
