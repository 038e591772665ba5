"""The documentation is true: its snippets run; its names, files, tests and flags exist."""

import contextlib
import importlib
import importlib.util
import inspect
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl

ROOT = Path(__file__).parents[1]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
FENCE = re.compile(r"^(?P<mark><!-- not run.*-->\n)?```(?P<head>.*)\n(?P<code>(?s:.*?))^```$", re.M)
ROOMS = ("layers", "objectives", "learners", "optim", "metrics", "sampling", "data.augment")
HELPERS = {  # for other rooms, and for layers, objectives and learners of one's own
    "all_gather_batch", "batch_axis_size", "device_key", "psum_batch", "row_keys", "row_numbers",
    "sample_rows", "plain_implementations", "gather_params", "gathering_params",
    "make_key",
    "map_rows", "map_variables", "override",
    "Wrapper", "checked_metrics", "jit_learner", "member", "trace_once", "with_data",
    "SeveralSteps", "PerMember", "merge", "scalars",
    "Beams", "decode_stream", "decode_until_end",
    "on_x", "check_order", "check_signature", "window_mask", "Normalize", "UnitRange",
}  # fmt: skip


def snippets(page):
    """The Python of a page that is ours: (code, whether the page says that it is not run)."""
    for match in FENCE.finditer(PAGES[page]):
        title = re.search(r'title="(.*?)"', match["head"])
        ours = title is None or "jdl" in title[1] or title[1].endswith(".py")
        if match["head"].startswith("python") and ours and "--8<--" not in match["code"]:
            yield match["code"], bool(match["mark"])


def resolve(name, canonical=False):
    """The object of a dotted name, as a script has it after imports; or by the module it is in.

    A function may have the name of its module: `jdl.layers.attention` is the function in a script.
    """
    name = re.sub(r"^nn\.", "flax.linen.", re.sub(r"^jnp\.", "jax.numpy.", name))
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    for n, part in enumerate(parts[1:], 2):
        if canonical or not hasattr(found, part):
            with contextlib.suppress(ModuleNotFoundError):
                found = importlib.import_module(".".join(parts[:n]))
                continue
        if not (hasattr(found, part) or canonical):
            return resolve(name, canonical=True)
        found = getattr(found, part)
    return found


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(snippets(page))])
def test_the_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for what `jdl.fit` writes
    images = np.random.default_rng(0).random((64, 8, 8, 1), np.float32)
    names = {
        **{"jdl": jdl, "jax": jax, "jnp": jnp, "np": np, "optax": optax, "nn": nn, "seed": 0},
        **{"images": images, "labels": np.arange(64) % 10, "c": jdl.Config(name=page, steps=2)},
        **{"replace": replace, "__name__": page},
    }
    experiment, _ = next(snippets("start"))  # `run` and `Config` in all pages
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(experiment, names)
        for code, marked in snippets(page):
            program = compile(code, f"docs/{page}.md", "exec")
            if not marked:
                exec(program, names)


@pytest.mark.parametrize("page", PAGES)
def test_the_names_exist(page):
    shown = "\n".join(
        [
            *re.findall(r"`([^`\n]+)`", PAGES[page]),
            *(m["code"] for m in FENCE.finditer(PAGES[page])),
        ]
    )
    for name in sorted(set(re.findall(r"(?<![\w./])jdl(?:\.[A-Za-z_]\w*)+", shown))):
        resolve(name)
    for path in sorted(
        set(re.findall(r"(?<![\w/.])(?:jdl|tests|scripts|experiments)/[\w./-]*\w", shown))
    ):
        assert (ROOT / path).exists(), path


@cache
def names_of_tests():
    tests = "\n".join(path.name + path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    return sorted(set(re.findall(r"\b(?:def )?(test_\w+)", tests)))


@cache
def source_of(*folders):
    files = [p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in ("", ".py")]
    return "\n".join(p.read_text() for p in files if p.is_file())


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_and_flags_that_it_names_exist(page):
    for expression in re.findall(r"scripts/test [^`\n]*-k (\"[^\"]+\"|\w+)", PAGES[page]):
        for word in re.findall(r"\w+", expression):
            known = any(word in name for name in names_of_tests())
            assert word in ("or", "and", "not") or known, word
    source = source_of("jdl", "scripts", "experiments")
    ours = re.findall(r"(?:scripts/\w+|jdl [a-z]+) [^`\n]*|`--[^`\n]*", PAGES[page])
    for flag in sorted(set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", "\n".join(ours)))):
        assert f"--{flag}" in source or re.search(rf"\b{flag.replace('-', '_')}\b", source), flag


def rows():
    """The rows of the index's tables: (name, where, remark)."""
    lines = [line for line in PAGES["reference"].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if "where" not in row]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_index_names_what_can_be_called(row):
    _, where, remark = row
    shown, target = re.fullmatch(r"`([\w.]+)`|\[`([\w.]+)`\]\[([\w.]*)\]", where).group(1, 2)
    found = resolve(shown or target)
    if link := re.search(r"\]\[([\w.]+)\]", where):
        assert resolve(link[1], canonical=True) is found
    assert callable(found) or isinstance(found, tuple(HOLD))
    for name in re.findall(r"`((?:jax|optax|nn|jnp)\.[\w.]+)", remark):
        assert callable(resolve(name)), name


HOLD = (  # what is no function, and is given as an argument
    type(jdl.objectives.non_saturating),
    type(jdl.objectives.bernoulli),
    type(jdl.objectives.cosine_schedule),
    type(jdl.layers.LSTM),
)


def test_the_index_has_every_name_of_ours():
    page = PAGES["reference"]
    missing = []
    for room in ROOMS:
        module = importlib.import_module(f"jdl.{room}")
        for name, member in vars(module).items():
            own = getattr(member, "__module__", "").startswith(f"jdl.{room}")
            if not name.startswith("_") and callable(member) and own and name not in HELPERS:
                missing += [f"{room}.{name}"] if not re.search(rf"\b{name}\b", page) else []
    for path in (ROOT / "jdl" / "models").glob("[a-z]*.py"):
        for name, member in vars(importlib.import_module(f"jdl.models.{path.stem}")).items():
            if (
                inspect.isclass(member)
                and issubclass(member, nn.Module)
                and not name.startswith("_")
            ):
                own = member.__module__ == f"jdl.models.{path.stem}"
                missing += [f"{path.stem}.{name}"] if own and f".{name}`" not in page else []
    assert not missing


@pytest.mark.slow
def test_every_public_name_has_a_docstring(hooks):
    assert not list(hooks.undocumented(hooks.load_package()))


def test_a_name_without_a_docstring_is_found(hooks, tmp_path):
    package = tmp_path / "made"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\nfrom made.a import f, LIMIT, gone\n')
    (package / "a.py").write_text(
        "LIMIT = 1\n\n\ndef f():\n    pass\n\n\nclass C:\n    '''A class.'''\n\n"
        "    def g(self):\n        '''A method.'''\n\n    def h(self):\n        pass\n\n"
        "    def _i(self):\n        pass\n\n\n"
        "class D(C):\n    '''Another.'''\n\n    def g(self):\n        pass\n"
    )
    found = set(hooks.undocumented(hooks.load_package("made", tmp_path)))
    broken = "made.gone (there is no made.a.gone)"
    assert found == {"made.a", "made.a.f", "made.a.C.h", "made.a.LIMIT", broken}


@pytest.mark.slow
def test_the_pages_made_from_the_code(hooks):
    page = hooks.experiments_page()
    for path in (ROOT / "experiments").glob("*.py"):
        assert f"### {path.stem}\n" in page
    topics = {part.splitlines()[0]: part for part in page.split("\n## ")}
    assert "### spoken_numbers\n" in topics["Sequences, text and speech"]
    assert "### digits_lines\n" in topics["Sequences, text and speech"]
    package = hooks.load_package()
    for room in hooks.rooms(package):
        assert hooks.api_page(package[room], "Title").startswith("# Title")
