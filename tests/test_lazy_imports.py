"""`import jdl` is light: its public names are imported when they are first used.

Seen to fail: an import of tyro at the top of jdl/config.py, a name in only one of the two lists in
jdl/__init__.py.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jdl

HEAVY = ("orbax", "grain", "tensorflow_datasets", "matplotlib", "tyro", "rich")


def test_imports_nothing_heavy():
    modules = "jdl, jdl.types, jdl.config, jdl.errors, jdl.keys"
    code = f"import sys, {modules}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_import_jdl_imports_no_jax():
    code = "import sys, jdl; assert not {'jax', 'numpy', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_see_the_names_that_users_get():
    """The imports under TYPE_CHECKING name the same modules as the tables below them."""
    tree = ast.parse(Path(jdl.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in block.body for alias in node.names}
    assert imports == {**dict.fromkeys(jdl.MODULES, "jdl"), **jdl.NAMES}


def test_every_name_is_importable():
    for name in (*jdl.MODULES, *jdl.NAMES):
        assert getattr(jdl, name) is not None
        assert name in dir(jdl)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = jdl.nothing
