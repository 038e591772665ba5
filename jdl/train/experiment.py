"""Experiments: scripts with a function `run` and a `Config`; loading, training and rebuilding."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from jdl.config import Config, Options, from_json
from jdl.parallel import processes
from jdl.run import Run
from jdl.store.code import FOLDER, recorded_code
from jdl.store.record import read_record
from jdl.train.broken_pipe import show
from jdl.train.command_line import parse
from jdl.train.compile_cache import quiet_libraries, use_compilation_cache
from jdl.train.distributed import exit_if_several, join
from jdl.train.epochs import resolve_epochs
from jdl.train.fit import fit
from jdl.train.malloc import keep_memory
from jdl.train.placement import apply_config
from jdl.train.recorded_modules import recorded_modules
from jdl.train.result import Result, result_line
from jdl.train.summary import summarize
from jdl.train.thread_pool import fix_thread_pool_size
from jdl.types import Error

C = TypeVar("C", bound=Config)
RunFunction = Callable[[Any], Run]


def load(script: Path) -> tuple[ModuleType, RunFunction, type[Config]]:
    """Imports an experiment's script: its module, its function `run` and its `Config`."""
    if not script.is_file():
        raise Error(
            f"There is no experiment {script}: name a Python file that defines "
            "run(config) -> jdl.Run."
        )
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None:
        raise Error(f"{script} is not a Python file.")
    if (folder := str(script.resolve().parent)) not in sys.path:
        sys.path.insert(
            0, folder
        )  # a script may import modules of its folder, as in `python SCRIPT`
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module  # dataclasses look their module up by name
    with _report_import_errors(script):
        spec.loader.exec_module(module)
    return module, *_parts(module, script)


@contextmanager
def _report_import_errors(script: Path) -> Iterator[None]:
    try:
        yield
    except (SyntaxError, ImportError, NameError, AttributeError) as error:
        raise Error(f"{script} cannot be imported: {type(error).__name__}: {error}.") from error


def _parts(module: ModuleType, script: Path) -> tuple[RunFunction, type[Config]]:
    run, config = getattr(module, "run", None), getattr(module, "Config", Config)
    if not callable(run):
        raise Error(
            f"{script} defines no function run(config) that returns a jdl.Run: add one, as in "
            "experiments/."
        )
    if not (isinstance(config, type) and issubclass(config, Config)):
        raise Error(f"Config in {script} must inherit from jdl.Config.")
    return run, config


def train(script: Path, argv: list[str], prog: str) -> Result:
    """Trains the experiment in a script with command-line arguments, and prints its summary."""
    fix_thread_pool_size()
    module, run, config = load(script)
    return _train(run, config, argv, script, prog, module.__doc__ or "")


def main(run: RunFunction, config: type[Config], argv: list[str] | None = None) -> None:
    """The main function of a script: `jdl.main(run, Config)` under `if __name__ == "__main__"`."""
    fix_thread_pool_size()
    module = sys.modules[run.__module__]
    script = Path(module.__file__ or "experiment.py")
    arguments = sys.argv[1:] if argv is None else argv
    with exit_on_error():
        _train(run, config, arguments, script, script.name, module.__doc__ or "")


def _train(
    run: RunFunction,
    config: type[Config],
    argv: list[str],
    script: Path,
    prog: str,
    description: str,
) -> Result:
    c, options = parse(config, argv, prog, description, Options)
    keep_memory()
    quiet_libraries()
    join(options)
    use_compilation_cache()
    prepared = prepare(run, c, argv, script)
    result = fit(prepared, options, script)
    if processes.is_first():
        text = summarize(result, prepared.labels)
        show(result_line(result) if options.quiet else text)
    return result


def prepare(run: RunFunction, c: Config, argv: list[str], script: Path) -> Run:
    """The run of a config that a command line gave."""
    run = partial(_call, run, script)
    return run(complete(run, c, argv, script))


def _call(run: RunFunction, script: Path, c: Config) -> Run:
    """What `run(c)` of a script returns; `Error` where it is no run."""
    found = run(c)
    if not isinstance(found, Run):
        told = "None" if found is None else f"a {type(found).__name__}"
        raise Error(f"run(c) of {script} returned {told}, not a jdl.Run: did you forget `return`?")
    return found


def complete(run: RunFunction, c: C, argv: list[str], script: Path) -> C:
    """The config that a command line gave, with a name, and its epochs as steps."""
    return resolve_epochs(run, c if c.name else replace(c, name=script.stem), argv)


def rebuild(folder: Path) -> Run:
    """Rebuilds a run from the code and config in its folder, with its precision applied."""
    return apply_config(recorded(folder)[0])


def recorded(folder: Path) -> tuple[Run, Path]:
    """Rebuilds a run from the code and config in its folder: (run, copy of the script).

    The original script may have moved or changed since. Raises `Error` where the run was trained
    without a script.
    """
    record = read_record(folder)
    script = record.get("script")
    if not record["code"] or not isinstance(script, str):
        raise Error(
            f"{folder} was trained by jdl.fit, without a script from which it could be rebuilt: "
            "restore it from Python with the same run, jdl.restore(folder, run). A notebook's code "
            "is kept if it defines a function run(c), and calls jdl.fit(run(c)) in a cell."
        )
    texts, original = recorded_code(folder, record["code"]), Path(script)
    copy = folder / FOLDER / original.name
    if original.name not in texts:
        raise Error(f"{folder}/run.json records no code of its script {original.name}.")
    with recorded_modules(texts, original.parent):
        with _report_import_errors(copy):
            module = importlib.import_module(original.stem)
        run, config = _parts(module, copy)
        try:
            return run(from_json(config, record["config"])), copy
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise Error(
                f"{copy} fails for the config that {folder}/run.json records: {reason}."
            ) from error


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Exits at an `Error` with its message and code, and at Ctrl-C without a traceback."""
    try:
        yield
    except Error as error:
        print(f"jdl: {error}", file=sys.stderr)
        exit_if_several(error.code)
        raise SystemExit(error.code) from None
    except KeyboardInterrupt:
        print(
            "jdl: interrupted; the same command resumes from the newest checkpoint",
            file=sys.stderr,
        )
        exit_if_several(130)
        raise SystemExit(130) from None
    except Exception:
        if (
            processes.several()
        ):  # the others may wait for this process, or this one has lost another
            traceback.print_exc()
            print(
                "jdl: this process ends, and the others with it; saved checkpoints are intact",
                file=sys.stderr,
            )
            exit_if_several(1)
        raise
