"""Functions and their summaries as a dataset; copying of source tokens.

Seen to fail: docstrings left in the source; one set of functions for each part; new files with the
docstring's words; keys without the mask; copies that are not summed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.data import corpus
from jdl.data.stdlib_summaries import functions, words
from jdl.models.t5 import Pointer

SOURCE = '''
class A:
    @property
    def maxSize(self):
        """
        Return the size_t.

        More.
        """
        return self.max_size

async def f(x): return x

def g():
    """Nothing else."""
'''


def test_functions_have_their_source_without_docstring_and_its_first_line():
    found = list(functions(SOURCE))
    assert [one.summary for one in found] == ["Return the size_t.", ""]
    assert found[0].source == "def maxSize(self):\n    return self.max_size"
    assert SOURCE.splitlines()[found[0].line - 1].strip().startswith("def maxSize")
    assert words(found[0].source) == "def max Size self return self max size"
    assert words("HTTPServer2.py3 = 'größe'") == "HTTP Server 2 py 3 gr öß e"


def stdlib():
    """Every second function stands in two files."""
    body = 'def f{}(x):\n    """Add {} to x."""\n    return x + {}\n'
    return [body.format(n // 2, n // 2, n // 2) + body.format(n + 100, n, n) for n in range(100)]


def test_parts_share_no_function_and_read_new_files_alike(monkeypatch, tmp_path):
    monkeypatch.setattr(corpus, "stdlib", stdlib)
    parts = jdl.data.stdlib_summaries(vocab_size=300)
    rows = [tuple(x.tolist()) for part in parts for x in part.columns["x"]]
    assert len(rows) == len(set(rows)) == 50 + 100
    (tmp_path / "new.py").write_text("\n" + stdlib()[0])
    names, columns = parts[2].read_file(tmp_path / "new.py")
    assert names == [f"{tmp_path}/new.py:{line}" for line in (2, 5)]
    assert columns["x"].shape[1] == parts[0].columns["x"].shape[1]
    assert tuple(columns["x"][0].tolist()) in rows
    columns, decode = parts[0].columns, parts[0].tokenizer.decode
    assert (columns["y"][np.arange(len(parts[0])), columns["y_length"] - 1] == 0).all()  # the end
    for x, y, length in zip(columns["x"], columns["y"], columns["y_length"], strict=True):
        number = decode(y[: length - 1]).removeprefix("Add ").removesuffix(" to x.")
        assert decode(x).endswith(f"return x {number}")
    long = "def f(x):\n" + "    x = x + y\n" * 40 + "    return x\n"
    (tmp_path / "new.py").write_text(long)
    _, columns = parts[2].read_file(tmp_path / "new.py")
    assert columns["length"] == columns["x"].shape[1]
    assert parts[0].read_file(tmp_path / "new.txt") is None


@pytest.mark.parametrize(("text", "message"), [("def f(:", "as Python"), ("x = 1", "no function")])
def test_files_that_cannot_be_summarized(text, message, monkeypatch, tmp_path):
    monkeypatch.setattr(corpus, "stdlib", stdlib)
    (tmp_path / "new.py").write_text(text)
    with pytest.raises(jdl.Error, match=message):
        jdl.data.stdlib_summaries(vocab_size=300)[0].read_file(tmp_path / "new.py")


@pytest.mark.slow
def test_copying_is_the_formula_of_the_paper():
    keys = jax.random.split(jax.random.key(0), 4)
    logits, x, vectors = (
        jax.random.normal(key, shape)
        for key, shape in zip(keys, ((2, 3, 7), (2, 3, 4), (2, 5, 4)), strict=False)
    )
    source = jnp.asarray([[1, 1, 4, 2, 6], [3, 0, 0, 3, 5]])
    mask = jnp.asarray([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    pointer = Pointer(4)
    inputs = logits, x, vectors, source, mask, False
    params = pointer.init(keys[3], *inputs)["params"]
    out = np.exp(pointer.apply({"params": params}, *inputs))
    np.testing.assert_allclose(out.sum(-1), 1, rtol=1e-5)
    key, query, gate = (np.asarray(params[n]["kernel"]) for n in ("key", "query", "generate"))
    for b, t in np.ndindex(2, 3):
        weights = np.exp((vectors[b] @ key) @ (x[b, t] @ query) / 2) * np.asarray(mask[b])
        p = 1 / (1 + np.exp(-(x[b, t] @ gate)))
        expected = p * np.asarray(jax.nn.softmax(logits[b, t]))
        np.add.at(expected, np.asarray(source[b]), (1 - p) * weights / weights.sum())
        np.testing.assert_allclose(out[b, t], expected, rtol=1e-5)
