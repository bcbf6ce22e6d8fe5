"""The page for people, in a real browser against the real service."""

import base64
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI

pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.alert import Alert
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from service.app import create_app
from service.settings import Settings
from tests.browser import CHROMIUM, DRIVER, open_browser, read_requests, set_screen
from tests.conftest import serve
from tests.test_access import write_keys
from tests.test_engine import hold
from tests.test_studio import save_curve

pytestmark = pytest.mark.skipif(None in (CHROMIUM, DRIVER), reason="there is no chromium with its driver")

WAIT = 15


class Page:
    """The page in a browser, as people use it."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self.address = address

    def open(self, view: str = "answer") -> None:
        self.browser.get("about:blank")
        self.browser.get(f"{self.address}/#/{view}")
        self.settle()

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def run(self, script: str) -> Any:
        return self.browser.execute_script(f"return {script}")

    def await_true(self, condition: Callable[[], object]) -> None:
        start = time.monotonic()
        while not condition():
            assert time.monotonic() < start + WAIT, self.text("body")
            time.sleep(0.02)

    def settle(self) -> None:
        """Until models are known and nothing is asked."""
        self.await_true(lambda: self.run("document.querySelectorAll('#model option').length"))
        self.await_true(lambda: self.find("#card").get_attribute("aria-busy") == "false")

    def choose_example(self, name: str) -> None:
        """And waits for the answer."""
        self.find(f".examples img[src*={name}]").find_element(By.XPATH, "..").click()
        self.await_true(lambda: self.run("document.getElementById('pad-image').hasAttribute('src')"))
        self.settle()

    def set_slider(self, selector: str, value: float) -> None:
        """As a drag would."""
        slider = f"document.querySelector({selector!r})"
        self.run(f"({slider}.value = {value}, {slider}.dispatchEvent(new Event('input', {{bubbles: true}})))")
        self.run(f"{slider}.dispatchEvent(new Event('change', {{bubbles: true}}))")
        time.sleep(0.1)
        self.settle()

    def ink(self, selector: str) -> int:
        """Pixels of a canvas that were drawn in a colour, none of which is grey."""
        canvas = f"document.querySelector({selector!r})"
        pixels = f"{canvas}.getContext('2d').getImageData(0, 0, {canvas}.width, {canvas}.height).data"
        count: int = self.run(
            f"((d) => {{ let n = 0; for (let i = 0; i < d.length; i += 4)"
            f" n += d[i + 3] > 0 && Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]) > 40;"
            f" return n }})({pixels})"
        )
        return count

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with open_browser() as browser:
        set_screen(browser, 1200, 900)
        yield browser


@pytest.fixture(scope="module")
def studio(checkpoints: Path) -> Iterator[tuple[FastAPI, str]]:
    save_curve(checkpoints / "curve")
    app = create_app(Settings(checkpoints=checkpoints, default_model="digits"))
    with serve(app) as address:
        yield app, address
