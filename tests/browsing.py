"""How tests look at pages: Chromium without a window, of a size and a colour scheme."""

import contextlib
import shutil

import pytest

DRIVER = shutil.which("chromedriver")


@contextlib.contextmanager
def chromium(width, height, scheme):
    """A browser, or the test is skipped: it needs Selenium and Debian's package chromium-driver."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    if DRIVER is None:
        pytest.skip("there is no chromedriver (Debian's package chromium-driver)")
    options = webdriver.ChromeOptions()
    microphone = "use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"  # it beeps
    for word in ("headless=new", "no-sandbox", "no-proxy-server", *microphone):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    resize(driver, width, height, scheme)
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver, width, height, scheme):
    """Makes the window of this size, a phone's below 600 pixels, and of this colour scheme."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def errors(driver):
    """What the console complains of."""
    return [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]


def overflow(driver):
    """By how many pixels the page is wider than the window."""
    return driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
