"""The README's pictures: `python -m tests.screenshots [OUT]` draws them from the checkpoints in checkpoints/."""

import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from service.app import create_app
from service.settings import Settings
from tests import ROOT
from tests.browser import open_browser, set_screen
from tests.conftest import serve

VIEWS = {
    "answer": ("ambiguous", 1000),
    "vary": ("seven", 900),
    "attack": ("three", 900),
    "weights": ("ambiguous", 1300),
}
"""The example that each view shows, and its height in CSS pixels."""

SETTLED = "document.querySelector('#model option') && document.getElementById('card').ariaBusy === 'false'"

MOVES = {
    "vary": "document.getElementById('sweep').click()",
    "weights": "document.querySelectorAll('.network')[5].click(); document.activeElement.blur()",
}
"""What is done in a view before its picture is taken."""


def take(browser: webdriver.Chrome, address: str, view: str, example: str, path: Path) -> None:
    """A picture of a view, with an example image."""
    wait = WebDriverWait(browser, 60)

    def settle() -> None:
        ready = "document.getElementById('card').getAttribute('aria-busy') === 'false'"
        wait.until(
            lambda _: browser.execute_script(f"return {ready} && document.querySelector('#model option') !== null")
        )

    browser.get("about:blank")
    browser.get(f"{address}/#/{view}")
    settle()
    browser.execute_script("document.getElementById('seed').value = 7")
    browser.execute_script(f"document.querySelector('.examples img[src*={example}]').parentElement.click()")
    wait.until(lambda _: browser.execute_script("return document.getElementById('sent-image').hasAttribute('src')"))
    settle()
    if view in MOVES:
        browser.execute_script(MOVES[view])
        settle()
    browser.execute_async_script("setTimeout(arguments[0], 500)")  # transitions of the page
    path.parent.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(path))


def main(out: Path) -> None:
    """Takes all pictures, each light and dark."""
    app = create_app(Settings(checkpoints=ROOT / "checkpoints", default_model="mnist-hyperdraw"))
    with serve(app) as address, open_browser() as browser:
        for dark in (False, True):
            scheme = "dark" if dark else "light"
            for view, (example, height) in VIEWS.items():
                set_screen(browser, 1200, height, dark)
                take(browser, address, view, example, out / f"{view}-{scheme}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
