"""The page of a report in a real browser, Chromium; and the live page, which follows runs.

Seen to fail: lines that were not drawn, a drag that did not zoom, a table wider than the page, a
page that stayed where new runs came, a policy that forbade its events, and one tick of an axis.
"""

import json
import shutil

import pytest
from browsing import chromium, errors, overflow, resize
from harness import write_run
from serving import listening, until

import jdl.report

SIZES = [(360, "light"), (768, "dark"), (1280, "light"), (360, "dark")]
DARKEST = """
const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d");
const {data} = pen.getImageData(60, 10, canvas.width - 80, canvas.height - 40);
let found = 0;
for (let n = 0; n < data.length; n += 4) {
  const color = data.slice(n, n + 3);
  if (data[n + 3] > 100 && Math.max(...color) - Math.min(...color) > 60) found++;
}
return found;
"""  # how many pixels of the first plot are of a curve: those of the grid are gray


TICKS = {  # of an axis from .. to .., logarithmic or not
    (0.91, 1.0, False): "0.92 0.94 0.96 0.98 1.00",
    (50, 1000, False): "200 400 600 800 1,000",
    (0, 2.5e6, False): "0 0.5M 1.0M 1.5M 2.0M 2.5M",
    (1e6, 1e6 + 5, False): "1,000,000 1,000,001 1,000,002 1,000,003 1,000,004 1,000,005",
    (0.11, 0.19, True): "0.12 0.14 0.16 0.18",
    (1e-6, 3, True): "1e-6 1e-4 0.01 1",
    (0.05, 7, True): "0.05 0.1 0.2 0.5 1 2 5",
}


def log(folder, first, last):
    """Appends lines of these steps, of a loss that falls and then rises."""
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(first, last + 1):
            for split, loss in (("train", 5 / step), ("test", 3 / step + step / 100)):
                file.write(json.dumps({"step": step, "split": split, "loss": loss}) + "\n")


@pytest.fixture
def runs(tmp_path):
    for seed in range(2):
        folder = write_run(tmp_path, "net", seed, 0.9, note="<script>alert(1)</script>" * 9)
        log(folder, 6, 100)
    return tmp_path


def readouts(browser):
    return [part.text for part in browser.find_elements("class name", "readout") if part.text]


@pytest.mark.slow
def test_the_page_in_a_browser(runs):
    path = jdl.report.report((), runs / "report.html", runs, rebuild=False)
    with chromium(*SIZES[0][:1], 800, SIZES[0][1]) as browser:
        from selenium.webdriver import ActionChains, Keys

        browser.get(f"file://{path}")
        for width, scheme in SIZES:
            resize(browser, width, 800, scheme)
            until(lambda: browser.execute_script(DARKEST) > 50)
            assert overflow(browser) <= 0
        resize(browser, 1280, 800, "light")
        canvas = browser.find_element("tag name", "canvas")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        actions = ActionChains(browser, duration=50)
        actions.move_to_element_with_offset(canvas, 100, 10).perform()
        until(lambda: "step" in readouts(browser)[0])
        assert "seed" in readouts(browser)[0]
        assert readouts(browser)[1].startswith("test: step")
        start = "return range()"
        assert browser.execute_script(start) == [5, 100]
        actions.move_to_element_with_offset(canvas, -60, 0).click_and_hold()
        actions.move_to_element_with_offset(canvas, 60, 0).release().perform()
        until(lambda: browser.execute_script(start)[0] > 5)
        canvas.send_keys("0")
        until(lambda: browser.execute_script(start) == [5, 100])
        canvas.send_keys("+", Keys.ARROW_RIGHT)
        until(lambda: browser.execute_script(start)[1] < 100)
        assert browser.execute_script("return view.log") is False
        browser.find_element("id", "log").click()
        until(lambda: browser.execute_script("return panels[0].scale.log"))
        assert errors(browser) == []
        for (low, high, log_scale), labels in TICKS.items():
            found = browser.execute_script("return ticks(...arguments)", low, high, 6, log_scale)
            assert [label for _, label in found] == labels.split()
        browser.execute_script("for (let n = 0; n < 8; n++) data.groups.push(`more ${n}`)")
        first, ninth = "net", "more 7"
        script = "return [colorOf(arguments[0]), dashOf(arguments[0])]"
        one, other = (browser.execute_script(script, name) for name in (first, ninth))
        assert one[0] == other[0]
        assert one[1] != other[1]


@pytest.mark.slow
def test_the_live_page_follows_runs(runs):
    live = pytest.importorskip("jdl.report.live")
    application = live.live_app((), runs, rebuild=False)
    with (
        listening(application, timeout_graceful_shutdown=1) as (host, port),
        chromium(1280, 800, "light") as browser,
    ):
        browser.get(f"http://{host}:{port}")
        last = "return Math.max(0, ...[...curves.values()].map(c => c.x.at(-1) ?? 0))"
        until(lambda: browser.execute_script(last) == 100)
        log(runs / "net/d1/seed1", 101, 150)
        until(lambda: browser.execute_script(last) == 150)
        assert browser.execute_script(DARKEST) > 50
        write_run(runs, "other", 0, 0.5)
        until(lambda: "other" in browser.title)
        shutil.rmtree(runs / "other")
        until(lambda: "other" not in browser.title)
        assert overflow(browser) <= 0
        assert errors(browser) == []
