"""The progress display: its speed and the time left are those after compilation.

Seen to fail: with the time before the first text counted.
"""

from jdl.train import progress


def test_the_first_text_has_no_speed_and_the_next_none_of_compilation(monkeypatch):
    times = iter([60.0, 62.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    pace = progress._Pace(100, 8)
    assert pace.text(10, None) == ""
    assert pace.text(20, None).split() == ["40", "examples/s", "0:16", "left"]
