"""A live report: its page hears of every new line and run, without a browser.

Seen to fail: half a line that was read, and a file written anew that was not.
"""

import json
import shutil

import pytest
from harness import write_run
from test_report import Parsed, line, log


def follow(tmp_path):
    """A live report, and what its page, which was just opened, gets at each event."""
    live = pytest.importorskip("jdl.report.live")
    followed = live.Live((), tmp_path, False, None)

    def opened():
        version = json.loads(Parsed(followed.page()).inside["curve-data"])["live"]
        page = live.Follower(version)
        return lambda: json.loads(followed.event(page).removeprefix("data: "))

    return followed, opened


def drawn(event):
    return [(c["x"], c["y"], c["reset"]) for c in event["series"]]


def test_a_live_page_gets_what_is_new(tmp_path):
    folder = write_run(tmp_path, "net", 0, 0.9)
    log(folder, line(1, loss=3.0), line(2, loss=None))
    followed, opened = follow(tmp_path)
    news = opened()
    assert "connect-src 'self'" in followed.page()
    first = news()
    assert drawn(first) == [([1, 2], [3.0, None], True)]
    assert first["runs"] == [["net, seed 0", "finished", "2 of 5", "–"]]
    assert drawn(news()) == []
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line(3, loss=2.0)) + "\n" + '{"step": 4, "spl')
    assert drawn(news()) == [([3], [2.0], False)]  # the last line is not whole yet
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f"x\n{json.dumps(line(4, loss=1.0))}\n")
    broken = news()
    assert drawn(broken) == [([4], [1.0], False)]
    assert broken["runs"][0][1] == "finished, 1 line of its log damaged"
    both = [line(1, "valid", accuracy=0.5), line(1, "test", accuracy=0.9)]
    log(folder, line(1, loss=3.0), *both)  # as a run does that resumes
    again = news()
    assert drawn(again) == [([1], [y], True) for y in (3.0, 0.5, 0.9)]
    assert again["runs"][0][3] == "valid accuracy 0.5000"


def test_every_live_page_hears_of_runs_that_come_go_and_break(tmp_path):
    write_run(tmp_path, "net", 0, 0.9)
    followed, opened = follow(tmp_path)
    pages = [opened(), opened()]
    new = write_run(tmp_path, "net", 1, 0.8)
    for _ in range(2):  # also the second, after the first has loaded again
        assert pages.pop()() == {"reload": True}
        page = opened()
        assert len(page()["runs"]) == 2
    (new / "run.json").write_text("{")
    assert page() == {"reload": True}
    page = opened()
    assert len(page()["runs"]) == 1
    assert "A run is left out" in followed.page()
    shutil.rmtree(tmp_path / "net")
    assert page() == {"reload": True}
    page = opened()
    assert "There are no runs" in followed.page()
    assert page()["runs"] == []
