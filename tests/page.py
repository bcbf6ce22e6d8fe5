"""The page in a browser, as people use it."""

from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.waiting import wait_until


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

    def attribute(self, selector: str, name: str) -> str:
        return self.find(selector).get_attribute(name) or ""

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def run(self, script: str) -> Any:
        return self.browser.execute_script(f"return {script}")

    def settle(self) -> None:
        """Until models are known and nothing is asked."""
        wait_until(lambda: self.run("document.querySelectorAll('#model option').length"))
        wait_until(lambda: self.attribute("#card", "aria-busy") == "false")
        wait_until(lambda: self.attribute(".examples", "aria-busy") == "false")

    def choose_example(self, name: str) -> None:
        """And waits for the answer."""
        self.find(f".examples img[data-file^={name}]").find_element(By.XPATH, "..").click()
        wait_until(lambda: f"Shown: {name}" in self.attribute("#pad-canvas", "aria-label"))
        self.settle()

    def draw(self, *points: tuple[int, int], pad: str = "#pad-canvas", duration: int = 250) -> None:
        """A stroke, by points in CSS pixels from the pad's centre, each so many milliseconds after the one before."""
        canvas = self.find(pad)
        actions = (
            ActionChains(self.browser, duration=duration)
            .move_to_element_with_offset(canvas, *points[0])
            .click_and_hold()
        )
        for point in points[1:]:
            actions.move_to_element_with_offset(canvas, *point)
        actions.release().perform()

    def open_file(self, path: Path) -> None:
        self.find("#file").send_keys(str(path))

    def set_slider(self, selector: str, value: float) -> None:
        """As a drag would."""
        slider = f"document.querySelector({selector!r})"
        self.run(f"({slider}.value = {value}, {slider}.dispatchEvent(new Event('input', {{bubbles: true}})))")
        self.run(f"{slider}.dispatchEvent(new Event('change', {{bubbles: true}}))")
        self.browser.execute_async_script("setTimeout(arguments[0], 150)")  # behind what the page does in 60 ms
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
        entries: list[dict[str, str]] = self.browser.get_log("browser")  # type: ignore[no-untyped-call]  # of selenium
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]
