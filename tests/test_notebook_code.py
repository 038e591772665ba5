"""Runs that a notebook or a plain script trained by `jdl.fit` are rebuilt from their kept code.

Cells are run as IPython runs them: their text is in `In`, and their code in `linecache`. Seen to
fail: with the first binding of a name in place of the last, and with cells under `%%time` unread.
"""

import linecache
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

import jdl
from jdl.inspect.evaluate import evaluate
from jdl.inspect.predict import predict
from jdl.metrics import scalars
from jdl.train.notebook_code import CodeNotFoundError, notebook_code

CELLS = """
from __future__ import annotations
# %% cell
%pwd
import numpy as np
import jax, jdl, optax
from dataclasses import dataclass
# %% cell
WIDTH = 99
rows = np.random.default_rng(0).random((40, 3), np.float32); labels = rows.argmax(1)
# %% cell
def this is no Python
# %% cell
@dataclass(frozen=True)
class Config(jdl.Config):
    width: int = 5
    steps: int = 4
# %% cell
%%time
def halves():
    data = jdl.data.arrays(x=rows, y=labels)
    return data.split(0.5, 0.5)
# %% cell
def init(key, x):
    a, b = jax.random.split(key)
    return {"a": jax.random.normal(a, (3, WIDTH)), "b": jax.random.normal(b, (WIDTH, 3))}


def apply(params, x):
    return SCALE["out"] * jax.nn.relu(x @ params["a"]) @ params["b"]
# %% cell
SCALE = {}
SCALE["out"] = 0.5
labels += 0
# %% cell
def run(c: Config) -> jdl.Run:
    train, test = halves()
    learner = jdl.descent(jdl.objectives.classify(jdl.Model(init, apply)), optax.sgd(0.1))
    return jdl.Run(c, learner, train.shuffled(8, c.seed), test=test.batches(8))
# %% cell
WIDTH = 7
unused = [print("computed") for _ in range(2)]
# %% cell
for name in ("notebook",):
    r = run(Config(name=name))
    result = jdl.fit(r, options)
"""


class Notebook:
    """Runs cells in a module `__main__`, as IPython does."""

    def __init__(self, monkeypatch, **names):
        self.main = ModuleType("__main__")
        self.main.__dict__.update(names, In=[""], magic=lambda line: None)
        self.main.run_cell_magic = lambda name, line, cell: exec(cell, self.main.__dict__)
        self.main.get_ipython = lambda: self.main
        monkeypatch.setitem(sys.modules, "__main__", self.main)

    def transform(self, cell):
        if cell.startswith("%%time\n"):
            return f"get_ipython().run_cell_magic('time', '', {cell[7:]!r})"
        lines = (line if line[:1] != "%" else f"magic({line!r})" for line in cell.splitlines())
        return "\n".join(lines)

    def run(self, cells):
        for cell in cells.split("# %% cell\n"):
            text = self.transform(cell)
            self.main.In.append(text)
            file = f"<cell {len(self.main.In)}>"
            linecache.cache[file] = (len(text), None, text.splitlines(True), file)
            try:
                code = compile(text, file, "exec", dont_inherit=True)
            except SyntaxError:
                continue
            exec(code, self.main.__dict__)
        return self.main.__dict__


@pytest.fixture
def notebook(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = jdl.Options(root=tmp_path / "runs", quiet=True)
    return Notebook(monkeypatch, options=options)


@pytest.mark.slow
def test_a_notebooks_run_is_a_run_like_any_other(notebook, tmp_path, monkeypatch):
    """It is evaluated in another process, and rebuilt in this one."""
    result = notebook.run(CELLS)["result"]
    expected = scalars(result.metrics["test"])
    command = [sys.executable, "-m", "jdl", "evaluate", "notebook", "--root", tmp_path / "runs"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    found = {line.split()[1]: float(line.split()[2]) for line in done.stdout.splitlines()[1:]}
    assert found == pytest.approx(expected, abs=2e-6)
    monkeypatch.undo()
    trained = jdl.restore(result.folder)
    assert evaluate(trained)["test"] == expected
    assert trained.state.params["a"].shape == (3, 7)
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3), np.float32))
    assert len(predict(trained, [tmp_path / "x.npz"])) == 2
    kept = (result.folder / "code" / "notebook.py").read_text()
    for words in ("WIDTH = 99", "unused", "jdl.fit", "magic", "result"):
        assert words not in kept
    compile(kept, "notebook.py", "exec")


RUN = """
import jax, jdl, optax
def init(key): return jax.random.normal(key, (1, 2))
def apply(params, x): return x @ params
def make(c):
    data = jdl.data.arrays(x=[[0.0], [1.0]], y=[0, 1]).batches(2)
    learner = jdl.descent(jdl.objectives.classify(jdl.Model(init, apply)), optax.sgd(0.1))
    return jdl.Run(c, learner, data)
c = jdl.Config(name="small", steps=1)
"""


@pytest.fixture
def kept(monkeypatch):
    """What `jdl.fit` would keep of each run, in place of training."""
    found = []
    monkeypatch.setattr(jdl, "fit", lambda run, options=None: found.append(notebook_code(run)))
    return found


def test_the_function_that_made_the_run_is_found_by_the_call(notebook, kept):
    """Another function `run` is not taken for it; neither is a Config of another name."""
    cells = "def run(c): 1 / 0\n# %% cell\nfrom dataclasses import replace\nr = make(c)\n"
    notebook.run(f"{RUN}{cells}# %% cell\njdl.fit(replace(r, hooks=[]), options=options)")
    (path, text), names = kept[0], {}
    assert path.name == "notebook.py"
    exec(text, names)
    assert len(names["run"](names["Config"](name="again", steps=1)).train) == 1


def test_calls_of_methods_that_change_what_is_needed_are_kept(notebook, kept):
    """Calls of functions, and methods of what is not needed, are not. Seen to fail."""
    cells = (
        "import sys, numpy as np\nsizes, others = [1], []\nsizes.append(2); others.append(1)\n"
        "sys.path.append('here')\nnp.set_printoptions()\n"
        "def run(c):\n    assert 'here' in sys.path and np.size(sizes) == 2\n    return make(c)\n"
    )
    notebook.run(f"{RUN}{cells}# %% cell\njdl.fit(run(c), options=options)")
    text = kept[0][1].decode()
    assert all(words in text for words in ("sizes.append(2)", "sys.path.append"))
    assert not any(words in text for words in ("others.append", "printoptions", "jdl.fit"))


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("def run(c, more): return make(c)\njdl.fit(run(c, more=1), options)", "config alone"),
        (
            "from jdl import Run\njdl.fit(Run(c, *[make(c).learner, make(c).train]), options)",
            "define run",
        ),
        (
            "class Of:\n    def __new__(cls, c): return make(c)\njdl.fit(Of(c), options)",
            "define run",
        ),
        ("jdl.fit((lambda c: make(c))(c), options)", "define run"),
        ("if c:\n    r = make(c)\nelse:\n    r = run(c)\njdl.fit(r, options)", "define run"),
        (
            "result = jdl.fit(make(c), options)\ndef run(c):\n    return result or make(c)\n"
            "jdl.fit(run(jdl.Config(name='second', steps=1)), options)",
            "result is the result of a training",
        ),
        (
            "for width in (1, 2): pass\ndef run(c):\n    return width and make(c)\n"
            "jdl.fit(run(c), options)",
            "width is bound by no definition",
        ),
    ],
)
def test_code_that_is_not_found_is_said_with_its_reason(notebook, kept, cell, reason):
    with pytest.raises(CodeNotFoundError, match=reason):
        notebook.run(f"{RUN}# %% cell\n{cell}")


@pytest.mark.slow
def test_a_script_that_calls_fit_itself_is_rebuilt_without_training_again(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(
        f"{RUN}from helper import OPTIONS\nresult = jdl.fit(make(c), OPTIONS)\nprint('trained')\n"
    )
    (tmp_path / "helper.py").write_text("import jdl\nOPTIONS = jdl.Options(quiet=True)\n")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    folder = next(tmp_path.glob("runs/small/*/seed0"))
    assert (folder / "code" / "plain.py").is_file()
    assert jdl.restore(folder).step == 1
