"""The guides' pictures of the page: `python -m tests.screenshots [OUT]` takes them, with the shipped checkpoints.

They show the answers that the guides print: the same image, model and seed.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from service.app import create_app
from service.settings import Settings
from tests import ROOT
from tests.browser import open_browser, set_screen
from tests.conftest import serve

EXAMPLE, SEED = "ambiguous", 7

PORT = 8000
"""Port of the service in the guides; calls that the page shows name it."""

HEIGHTS = {"answer": 1000, "weights": 1300}
"""Height of each view in CSS pixels."""

MOVES = {"weights": "document.querySelectorAll('.network')[5].click(); document.activeElement.blur()"}
"""What is done in a view before its picture is taken."""

COLOURS = 256
"""A picture of this page needs no more, and takes a third of the bytes."""


def take(browser: webdriver.Chrome, address: str, view: str, path: Path) -> None:
    """Takes a picture of a view that shows the example image, answered by the networks of the seed."""
    wait = WebDriverWait(browser, 60)

    def wait_for(condition: str) -> None:
        wait.until(lambda _: browser.execute_script(f"return {condition}"))

    def settle() -> None:
        wait_for("document.getElementById('card').getAttribute('aria-busy') === 'false'")
        wait_for("document.querySelector('#model option') !== null")
        wait_for("document.querySelector('.examples').getAttribute('aria-busy') === 'false'")

    browser.get("about:blank")
    browser.get(f"{address}/#/{view}")
    settle()
    # The page takes a setting when its field changes, which a script has to say.
    field = "document.getElementById('seed')"
    browser.execute_script(f"{field}.value = {SEED}; {field}.dispatchEvent(new Event('change'))")
    browser.execute_script(f"document.querySelector('.examples img[data-file^={EXAMPLE}]').parentElement.click()")
    wait_for("document.getElementById('sent-image').hasAttribute('src')")
    settle()
    wait_for(f"/seed={SEED}\\b/.test(document.getElementById('{view}-curl').textContent)")
    if view in MOVES:
        browser.execute_script(MOVES[view])
        settle()
    browser.execute_async_script("setTimeout(arguments[0], 500)")  # transitions of the page
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main(out: Path) -> None:
    """Takes all pictures, each light and dark."""
    app = create_app(Settings(checkpoints=ROOT / "checkpoints", default_model="mnist-hyperdraw"))
    with serve(app, PORT) as address, open_browser() as browser:
        for dark in (False, True):
            scheme = "dark" if dark else "light"
            for view, height in HEIGHTS.items():
                set_screen(browser, 1200, height, dark)
                take(browser, address, view, out / f"{view}-{scheme}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
