"""A report of runs: its numbers, what it says is missing, and that nothing of a run is markup.

Seen to fail: text, cells and JSON that were not escaped, a stretch that kept its largest value
alone, means over runs that are not finished, devices that ignored the mesh, pictures beyond the
budget, and Markdown with its marks.
"""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from harness import train, write_run

import jdl.report
from jdl import statistics
from jdl.report import pictures
from jdl.report.costs import devices_of, run_cost
from jdl.report.curves import curves_json, min_max
from jdl.report.groups import read_groups
from jdl.report.rebuilt import rebuild_run
from jdl.report.tables import latex_text, markdown_text

SCORES = {0.0: [0.91, 0.90, 0.92, 0.89, 0.93, 0.91], 0.2: [0.93, 0.92, 0.95, 0.91, 0.96, 0.94]}


EVIL = "</script><script>alert('x')</script><b onclick=\"x()\">&amp;{_%$"


class Parsed(HTMLParser):
    """The tags of a page, its text, and the text of its scripts and styles."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.inside, self.words = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        last, attributes = self.tags[-1] if self.tags else ("", {})
        if last in ("script", "style"):
            self.inside.setdefault(attributes.get("id", last), data)
        self.words.append(data)


@pytest.fixture
def runs(tmp_path):
    """Six seeds of each of two configs, which were evaluated on a test split."""
    for dropout, scores in SCORES.items():
        for seed, score in enumerate(scores):
            write_run(tmp_path, "net", seed, score, digest=f"d{dropout}", dropout=dropout)
    return tmp_path


def written(root, *names, to="report.html", **options):
    path = jdl.report.report(names, root / to, root, options.pop("rebuild", False), **options)
    return path.read_text()


def log(folder, *lines):
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def line(step, split="train", **numbers):
    return {"step": step, "split": split, **numbers}


def test_results_have_intervals_over_seeds_and_a_verdict(runs):
    page = Parsed(written(runs))
    words = " ".join(page.words)
    low, high = statistics.bootstrap_interval(np.array(SCORES[0.2]))
    mean = np.mean(SCORES[0.2])
    assert f"{mean:#.4g} ({low:#.4g} to {high:#.4g})" in page.words
    assert "net, dropout=0.2 reaches a test accuracy of" in words
    assert "net, dropout=0.2 is better than net, dropout=0.0 by 0.02500 (95%" in words
    assert "12 runs of 2 configs." in page.words


def test_few_seeds_have_a_range_and_one_has_none(runs):
    assert "0.9350 (0.9200 to 0.9500, all)" in _three(runs)
    one = written(runs, "net/d0.0/seed0")
    assert "Each config has one run" in one
    assert "0.9100<" in one


def _three(runs):
    for seed in range(3, 6):
        (runs / "net/d0.2" / f"seed{seed}/summary.json").unlink()
        (runs / "net/d0.2" / f"seed{seed}/metrics.jsonl").unlink()
    (runs / "net/d0.2/seed0/metrics.jsonl").write_text(
        json.dumps(line(5, "test", accuracy=0.935)) + "\n"
    )
    return written(runs, "net/d0.2")


def test_nothing_of_a_run_is_markup(tmp_path):
    name = "<b>net"  # in the title, the sentences, the tables and the legend
    folder = write_run(tmp_path, name, 0, 0.9, note=EVIL, record={"command": ["jdl", EVIL]})
    log(folder, line(1, loss=1.0), line(5, "test", **{EVIL: 0.5, "accuracy": 0.9}))
    text = written(tmp_path)
    page = Parsed(text)
    tags = [tag for tag, _ in page.tags]
    assert (tags.count("script"), tags.count("b")) == (2, 0)
    assert EVIL in page.words  # as text
    assert json.loads(page.inside["curve-data"])["more"][-1] == EVIL
    assert not any(name.startswith("on") or name == "style" for _, a in page.tags for name in a)


def test_the_page_has_all_it_needs_and_its_policy_allows_no_more(runs):
    page = Parsed(written(runs))
    links = [a[name] for _, a in page.tags for name in ("src", "href") if name in a]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv"))
    for part in ("script", "style"):
        sha = base64.b64encode(hashlib.sha256(page.inside[part].encode()).digest()).decode()
        assert f"{part}-src 'sha256-{sha}'" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "http" not in re.sub("http-equiv", "", page.inside["script"] + page.inside["style"])


def test_equal_runs_give_equal_pages(runs):
    assert written(runs) == written(runs, to="again.html")


def test_what_is_missing_is_said(tmp_path):
    stopped = write_run(tmp_path, "stopped", 0, 0.9, finished=False)
    log(stopped, line(1, loss=2.0), line(2, "valid", accuracy=0.5))
    failed = write_run(tmp_path, "failed", 0, 0.9, finished=False)
    log(failed, line(1, loss=2.0), line(3, loss=None))
    write_run(tmp_path, "nothing", 0, 0.9, finished=False)
    words = " ".join(Parsed(written(tmp_path)).words)
    assert (
        "Not finished, but failed (its last numbers are not finite): failed/d1/seed0 (step 3)"
        in (words)
    )
    assert "but stopped: nothing/d1/seed0 (step 0), stopped/d1/seed0 (step 2)." in words
    assert "The runs have no test split: these are numbers of the validation split." in words
    assert "3 of 3 runs have no recorded time" in words
    assert "The runs have drawn no figures." in words
    assert "0 of 1" in words
    assert "0.5000" not in words  # of a run that is not finished
    only = " ".join(Parsed(written(tmp_path, "nothing")).words)
    assert "There is no result: no run was evaluated" in only
    assert "Nothing has been logged yet." in only
    write_run(tmp_path, "evaluated", 0, 0.9)
    only = " ".join(Parsed(written(tmp_path, "evaluated")).words)
    assert "No training metrics were logged" in only
    assert "No training metrics" not in words


def test_runs_that_cannot_be_read_are_said_and_cost_no_other(runs):
    (runs / "net/d0.0/seed0/run.json").write_text("{")
    (runs / "net/d0.2/seed1/summary.json").write_text("{")
    for names, left_out in [((), 2), (("net",), 2), (("net/d0.2",), 1), (("net/*/seed5",), 0)]:
        assert written(runs, *names).count("A run is left out: ") == left_out, names
    with pytest.raises(jdl.Error, match=r"no run 'net/d0.0/seed0'[^$]*seed0/run.json cannot be"):
        written(runs, "net/d0.0/seed0")


def test_runs_of_other_code_are_said(tmp_path):
    for seed, code in enumerate(("a", "a", "b")):
        write_run(tmp_path, "net", seed, 0.9, record={"code": {"net.py": code}})
    assert (
        "Not all runs of net had the same code: 1 run (seeds 2) had other code than net/d1/seed0"
        in written(tmp_path)
    )
    assert "the same code" not in written(tmp_path, "net/d1/seed0", "net/d1/seed1")


def test_the_mean_curve_is_of_finished_runs(tmp_path):
    for seed in range(3):
        log(write_run(tmp_path, "net", seed, 0.9), line(1, loss=seed), line(5, loss=seed))
    (tmp_path / "net/d1/seed2/summary.json").unlink()
    log(tmp_path / "net/d1/seed2", line(1, loss=9), line(2, loss=9))
    (mean,) = [c for c in curves_json(read_groups([], tmp_path)[0])["curves"] if c["mean"]]
    assert (mean["run"], mean["y"]) == ("mean of 2 seeds", [0.5, 0.5])


@pytest.mark.parametrize("place", ["", "net", "net/d0.2"])
def test_folders_of_runs_are_reported(runs, tmp_path_factory, place):
    to = tmp_path_factory.mktemp("to") / "r.html"
    jdl.report.report([str(runs / place)], to, "nowhere", rebuild=False)
    assert f"{6 if '.' in place else 12} runs of" in to.read_text()


def test_runs_of_other_data_are_not_compared(tmp_path):
    write_run(tmp_path, "a", 0, 0.9)
    write_run(tmp_path, "b", 0, 0.8, record={"data": {"test": "other"}})
    assert "No comparison: no two configs have the same evaluation data" in written(tmp_path)


def test_configs_of_other_data_are_not_ranked(tmp_path):
    write_run(tmp_path, "net", 0, 0.9, digest="a", frac=1)
    write_run(tmp_path, "net", 0, 0.8, digest="b", frac=2, record={"data": {"test": "other"}})
    assert "the best of 2 configs" not in written(tmp_path)


def test_runs_moved_aside_or_without_a_finite_loss_are_in_no_mean(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, "net", seed, 0.9)
    aside = write_run(tmp_path, "net", 2, 0.1)
    aside.rename(aside.with_name("seed2.1"))
    log(write_run(tmp_path, "net", 3, 0.1), line(5, "test", loss=None, accuracy=0.1))
    text = written(tmp_path)
    assert "the mean of 2 seeds" in text
    assert "Not finished, but failed (its last numbers are not finite): net/d1/seed3" in text


def test_only_a_report_is_replaced(runs):
    for to in ("r.html", "r.md", "r.tex"):
        assert written(runs, to=to) == written(runs, to=to)
    (runs / "paper.tex").write_text("my paper")
    with pytest.raises(jdl.Error, match="is there already, and is no report"):
        written(runs, to="paper.tex")
    assert (runs / "paper.tex").read_text() == "my paper"


def test_downsampling_keeps_every_peak_and_gap():
    rng = np.random.default_rng(0)
    steps, values = np.arange(1, 100_001) * 5, rng.normal(size=100_000)
    values[[33_333, 77_777]], values[50_000] = [99, -99], np.nan
    x, y = min_max(steps, values, 500)
    assert len(x) <= 502
    assert (np.nanmax(y), np.nanmin(y), np.isnan(y).sum()) == (99, -99, 1)
    assert [x[0], x[-1]] == [5, 500_000]
    np.testing.assert_array_equal(y, values[x // 5 - 1])
    short = min_max(steps[:500], values[:500], 500)
    assert len(short[0]) == 500


def test_a_page_of_many_curves_has_few_points(tmp_path):
    for seed in range(4):
        folder = write_run(tmp_path, "net", seed, 0.9)
        log(folder, *(line(n + 1, loss=1 / (n + 1)) for n in range(3_000)))
    found = curves_json(read_groups([], tmp_path)[0])
    assert [(c["run"], c["mean"]) for c in found["curves"]][-1] == ("mean of 4 seeds", True)
    assert all(len(c["x"]) <= 1_002 for c in found["curves"])
    assert found["metrics"] == ["loss"]


def test_pictures_are_compressed_until_all_fit(tmp_path, monkeypatch):
    from PIL import Image

    folder = write_run(tmp_path, "net", 0, 0.9)
    (folder / "figures").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    (folder / "figures/explain").mkdir()
    for name in ("one", "explain/two"):
        Image.fromarray(noise).save(folder / "figures" / f"{name}.png")
    index = "# net\n\nRows.\n\n## A title\n\nIts words.\n\n![A title](two.png)\n"
    (folder / "figures/explain/index.md").write_text(index)
    (folder / "figures/broken.png").write_text("no picture")
    monkeypatch.setattr(pictures, "SIDES", (400, 100))
    monkeypatch.setattr(pictures, "BUDGET", 20_000)
    page = Parsed(written(tmp_path))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [(i["width"], i["height"]) for i in images] == [("100", "75")] * 2
    assert images[0]["alt"] == "Figure of net: one"
    assert "net. A title: Its words." in page.words
    assert any("broken.png" in text and "is no picture" in text for text in page.words)
    one = pictures.compress(folder / "figures/one.png", "net", 100)
    monkeypatch.setattr(pictures, "BUDGET", len(one.content) * 3 // 2)
    assert "1 more figures are in the runs' folders: the page is full." in (
        Parsed(written(tmp_path)).words
    )


def test_the_last_picture_of_a_hook_is_shown(tmp_path):
    """Seen to fail: with the last by name, step 20."""
    from PIL import Image

    folder = write_run(tmp_path, "net", 0, 0.9) / "pictures/kernel"
    folder.mkdir(parents=True)
    for step in (20, 100):
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / f"{step}.png")
    images = [attributes for tag, attributes in Parsed(written(tmp_path)).tags if tag == "img"]
    assert [i["alt"] for i in images] == ["Figure of net: kernel at step 100"]


def test_the_cost_is_that_of_the_devices(tmp_path):
    place = {"devices": {"kind": "NVIDIA H100 80GB HBM3", "count": 8}, "host": {"processes": 1}}
    record = {"environment": place, "options": {"mesh": "data=2,model=2"}}
    folder = write_run(tmp_path, "net", 0, 0.9, record=record)
    (folder / "summary.json").write_text('{"seconds": 1800.0, "data_seconds": 18.0}')
    ((group,), _) = read_groups([], tmp_path)
    cost = run_cost(group.first, 10**9)
    assert (cost.devices, cost.device_hours, cost.operations) == (4, 2.0, 5e9)
    assert cost.kilowatt_hours == pytest.approx(0.5 * 4 * 0.7)
    assert run_cost(group.first, None, watts=100).kilowatt_hours == pytest.approx(0.2)
    page = written(tmp_path)
    assert "30 min of training in 1 run, 2 device hours, about 1.4 kWh." in page
    assert "The energy is an estimate, not a measurement" in page
    assert ">1.00%<" in page
    times = {"step": 2, "steps": 3, "seconds": 600.0, "data_seconds": 6.0}  # a step twice
    (folder / "times.jsonl").write_text(json.dumps(times) + "\n")
    cost = run_cost(group.first, 10**9)
    assert (cost.seconds, cost.operations, cost.rate) == (600, 5e9, 3e9 / 600)
    assert "Of 1 run the time of some steps is not recorded" in written(tmp_path)
    for options, count in (({}, 1), ({"devices": 2}, 2), ({"parallel": "pmap"}, 8)):
        assert devices_of({"environment": place, "options": options}) == count
    others = {"NVIDIA RTX A1000": None, "NVIDIA L40S": 350, "NVIDIA L4": 72, "Tesla T4": 70}
    for kind, watts in others.items():
        record = group.first.record | {"environment": {"devices": {"kind": kind}}, "options": {}}
        first = replace(group.first, entry=replace(group.first.entry, record=record))
        assert run_cost(first, None).watts == watts, kind
    with pytest.raises(jdl.Error, match="--watts is the power of one device"):
        written(tmp_path, watts=-1.0)


@pytest.mark.slow
def test_a_run_that_is_built_again_has_its_data_and_operations(tmp_path):
    folder = train(tmp_path, steps=2, name="sink").folder
    words = [word for word in Parsed(written(tmp_path, rebuild=True)).words if word.strip()]
    first = words.index("206")
    assert words[first - 1 : first + 3] == ["train", "206", "24", "x float32 8×8×1, y int32 number"]
    assert any(word.endswith("FLOP") for word in words)
    code = folder / "code/kitchen_sink.py"
    code.write_text(f"raise SystemExit(3)\n{code.read_text()}")
    record = json.loads((folder / "run.json").read_text())
    record["code"]["kitchen_sink.py"] = hashlib.sha256(code.read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(record))
    assert "cannot be built again here: SystemExit: 3" in written(tmp_path, rebuild=True)
    code.unlink()
    ((group,), _) = read_groups([str(folder)], tmp_path)
    found = rebuild_run(group.first)
    assert (found.cards, found.operations) == ({}, None)
    assert found.problems[0].startswith("sink cannot be built again here:")
    assert found.problems[0] in " ".join(Parsed(written(tmp_path, rebuild=True)).words)


def test_markdown_and_latex_are_escaped(runs):
    assert markdown_text("a|b_c <i>\nx") == r"a\|b\_c \<i\> x"
    assert markdown_text("- &lt; 1. 2") == r"\- \&lt; 1. 2"
    assert markdown_text("1. x") == r"1\. x"
    assert latex_text(r"a_b & 5% \x {y}") == r"a\_b \& 5\% \textbackslash{}x \{y\}"
    rows = [row for row in written(runs, to="r.md").splitlines() if row.startswith("|")]
    assert any(row.startswith("| net, dropout=0.2 | 6 | 0.9350 \\(0.9") for row in rows)
    assert all(len(re.findall(r"(?<!\\)\|", row)) > 2 for row in rows)
    table = written(runs, to="r.tex")
    assert table.count(r"\begin{tabular}") == table.count(r"\end{tabular}") == 3
    assert r"net, dropout=0.2 & 6 & 0.9350 (0." in table


@pytest.mark.parametrize(
    ("names", "to", "message"),
    [
        ((), "report.pdf", "A report is .html, .md, .tex, not 'report.pdf'"),
        ((), "none/report.html", "There is no folder"),
        (("nobody",), "report.html", "There is no run 'nobody'"),
    ],
)
def test_wrong_input_is_refused(runs, names, to, message):
    with pytest.raises(jdl.Error, match=message):
        written(runs, *names, to=to)
    with pytest.raises(jdl.Error, match="There are no runs"):
        jdl.report.report((), runs / "r.html", runs / "nowhere")
    with pytest.raises(jdl.Error, match="--watts is the power"):
        written(runs, watts=-5.0)
