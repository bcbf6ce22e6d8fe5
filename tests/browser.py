"""A headless Chromium, as Debian's packages chromium and chromium-driver install it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def open_browser(width: int = 1200, height: int = 900) -> Iterator[webdriver.Chrome]:
    """A browser that keeps what its pages say and which addresses they ask; it reaches this machine alone."""
    options = webdriver.ChromeOptions()
    assert CHROMIUM is not None
    assert DRIVER is not None
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        f"--window-size={width},{height}",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),  # which Chromium wants of root
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def set_screen(browser: webdriver.Chrome, width: int, height: int, dark: bool = False, density: float = 1) -> None:
    """Changes the size of the page, in CSS pixels, and the colour scheme."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": density, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def read_requests(browser: webdriver.Chrome) -> list[str]:
    """The addresses that were asked since the last call."""
    entries: list[dict[str, str]] = browser.get_log("performance")  # type: ignore[no-untyped-call]  # of selenium
    logged: list[dict[str, Any]] = [json.loads(entry["message"])["message"] for entry in entries]
    return [m["params"]["request"]["url"] for m in logged if m["method"] == "Network.requestWillBeSent"]
