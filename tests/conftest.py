"""Every test runs with strict promotion, on four simulated devices, with caches of its own."""

import gc
import os
import sys
import tempfile
from pathlib import Path

from xla_flags import quick_to_compile

# JDL_TEST_PLATFORM=cuda tries the tests of one device on a GPU, compiled as users' programs are.
os.environ.setdefault("JDL_TEST_PLATFORM", "cpu")
# Most of the tests' time goes into compiling. What is trained in a process of its own, by
# `harness.spawn`, is compiled as users' programs are.
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=4 {quick_to_compile()}"
    if os.environ["JDL_TEST_PLATFORM"] == "cpu"
    else os.environ.get("XLA_FLAGS", "")
)
os.environ["PJRT_NPROC"] = "8"  # else the bits of matrix products depend on the number of cores
os.environ.setdefault("JDL_CACHE", str(Path(tempfile.gettempdir()) / "jdl-tests-cache"))

import jax
import pytest
from fake_environments import Walk, install
from fake_espeak import program as program
from language_models import talk as talk

from jdl.train.compile_cache import use_compilation_cache

jax.config.update("jax_platforms", os.environ["JDL_TEST_PLATFORM"])
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)  # a key that is used twice is an error

use_compilation_cache()
gc.set_threshold(50_000, 20, 20)  # Python's own, 700 objects, is a tenth of the tests' time

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> tuple[Path, Path]:
    """Two small exported models: kitchen_sink, of digits, and words, of texts."""
    from serving import export_small

    return export_small(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def walk(monkeypatch):
    """A fake of Gymnasium that has `Walk` alone, before any environment exists."""
    return install(monkeypatch, Walk)


@pytest.fixture
def call(capsys, monkeypatch):
    """Calls `jdl ARGUMENTS`: exit code, standard output and standard error."""

    from jdl import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jdl", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(autouse=True, scope="module")
def free_programs():
    """Frees the compiled programs of a file: a worker that kept all would need 6 GB."""
    yield
    jax.clear_caches()
    gc.collect()
