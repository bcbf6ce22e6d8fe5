"""The page's view of models that draw, in a real browser against the real service."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.common.actions import interaction
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.support.ui import Select

from service.app import create_app
from service.settings import Settings
from tests.browser import open_browser, set_screen
from tests.conftest import serve
from tests.engine import hold
from tests.page import Page
from tests.sequences import LSTM, STROKES, save_writer
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("chromium", "chromedriver")

CORNER = (-60, -60), (60, -60), (60, 60)
"""A stroke to the right and down, in CSS pixels from the pad's middle."""

DONE = r"(\d+) points?, −?[\d.]+ nats each, seed \d+\.( It has reached the most points\.)?"


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """A service with three HyperLSTMs and an LSTM that draw, whose parameters are random."""
    directory = tmp_path_factory.mktemp("drawing")
    save_writer(directory / "signs", spec=STROKES)
    save_writer(directory / "still", modes=1, size=LSTM, spec=STROKES)
    return create_app(Settings(checkpoints=directory, default_model="signs"))


@pytest.fixture(scope="module")
def address(app: FastAPI) -> Iterator[str]:
    with serve(app) as address:
        yield address


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Iterator[Page]:
    """The page, which says nothing on the console."""
    set_screen(browser, 1200, 900)
    page = Page(browser, address)
    page.open("draw")
    yield page
    browser.get("about:blank")
    assert page.errors() == []


def begin(page: Page, *stroke: tuple[int, int]) -> None:
    page.draw(*stroke, pad="#draw-pad", duration=10)


def finish(page: Page, pattern: str = DONE) -> int:
    """Lets the model draw, and waits for its last point. Returns the number of points."""
    page.find("#draw-start").click()
    wait_until(lambda: re.fullmatch(pattern, page.text("#draw-note")))
    return int(re.findall(r"(\d+) points?,", page.text("#draw-note"))[0])


def run_python(page: Page) -> dict[str, Any]:
    """The answer to the call that the view shows."""
    names = dict[str, Any]()
    exec(page.run("document.getElementById('draw-python').textContent"), names)
    answer: dict[str, Any] = names["answer"]
    return answer


def read_question(page: Page) -> dict[str, Any]:
    """The body of the call that the view shows."""
    found = re.search(r"'(\{.*\})'", page.run("document.getElementById('draw-curl').textContent"))
    assert found
    question: dict[str, Any] = json.loads(found[1])
    return question


def save(page: Page) -> list[str]:
    """Saves the drawings, and returns the paths of the file."""
    page.run("""(() => {
        const create = URL.createObjectURL.bind(URL);
        window.saved = "";
        URL.createObjectURL = (blob) => (blob.text().then((text) => (window.saved = text)), create(blob));
    })()""")
    page.find("#draw-player .large-actions :last-child").click()
    wait_until(lambda: page.run("saved"))
    root = ElementTree.fromstring(page.run("saved"))
    return [path.attrib["d"] for path in root.iter("{http://www.w3.org/2000/svg}path")]


def test_what_one_begins_is_finished(page: Page) -> None:
    assert page.find("#draw").is_displayed()
    assert not page.find("#image").is_displayed()
    assert page.text("#draw-start") == "Draw"
    begin(page, *CORNER)
    assert page.text("#draw-note") == "You drew 1 stroke, 3 points. Let the model finish it."
    assert page.text("#draw-start") == "Finish it"
    assert page.ink("#draw-pad") > 100
    count = finish(page)
    question = read_question(page)
    offset = 120 * 1.15 * STROKES.extent / page.find("#draw-pad").size["width"]
    expected = [[0, 0, 0], [offset, 0, 0], [0, offset, 1]]
    assert question["prompt"] == [pytest.approx(point, abs=0.06) for point in expected]
    assert (question["temperature"], question["drawings"], question["changes"]) == (0.4, 1, True)
    assert page.ink("#draw-box .sheets .sheet") > 100  # what one began has its own colour
    assert re.fullmatch(f"Drawn: {DONE}", page.run("document.getElementById('summary').textContent"))
    wait_until(lambda: page.text("#draw-player button") == "Play")
    assert page.ink(".strip") > 10
    [drawing] = run_python(page)["drawings"]
    assert len(drawing["points"]) == count
    begun = [float(number) for number in re.findall(r"-?[\d.]+", save(page)[0])]
    (left, top), (right, middle), (corner, bottom) = zip(begun[::2], begun[1::2], strict=True)  # of straight lines
    assert (middle, corner) == (top, right)
    assert right - left == pytest.approx(bottom - top, abs=0.2)
    assert right > left
    page.find("#draw-undo").click()
    assert page.text("#draw-note") == "You drew 1 stroke, 3 points. Let the model finish it."
    finish(page)
    begin(page, (0, 0), (50, 0))
    assert not page.browser.find_elements("css selector", "#draw-box .sheets")  # one goes on from one's own
    assert page.text("#draw-note") == "You drew 2 strokes, 5 points. Let the model finish it."
    page.find("#draw-undo").click()
    assert page.text("#draw-note").startswith("You drew 1 stroke, 3 points.")
    page.find("#draw-clear").click()
    assert page.text("#draw-start") == "Draw"
    assert page.ink("#draw-pad") == 0


def test_a_kept_seed_draws_the_same(page: Page) -> None:
    finish(page)
    before = save(page)
    assert page.text("#draw-start") == "Draw"
    page.find("#draw-keep").click()
    finish(page)
    assert read_question(page)["seed"] == int(page.attribute("#seed", "value"))
    assert save(page) == before


def test_twelve_futures_on_a_phone(page: Page) -> None:
    set_screen(page.browser, 360, 740)
    page.open("draw")
    for selector in ("#draw-start", "#draw-undo", "#draw-clear", "#draw .switch label"):
        assert page.find(selector).size["height"] >= 44, selector
    assert page.run("document.documentElement.scrollWidth") <= 360
    pad = page.find("#draw-pad")
    page.run("document.getElementById('draw-pad').scrollIntoView({ block: 'center' })")
    pointer = PointerInput(interaction.POINTER_TOUCH, "finger")  # type: ignore[no-untyped-call]  # of selenium
    finger = ActionBuilder(page.browser, mouse=pointer, duration=10)
    stroke: Any = finger.pointer_action
    stroke.move_to(pad, *CORNER[0]).pointer_down().move_to(pad, *CORNER[1]).move_to(pad, *CORNER[2]).pointer_up()
    finger.perform()
    assert page.text("#draw-note") == "You drew 1 stroke, 3 points. Let the model finish it."
    page.find("[name=drawings][value='12']").click()
    count = finish(
        page, r"12 drawings, \d+ points, −?[\d.]+ nats each, seed \d+\.( \d+ drawings? reached the most points\.)?"
    )
    sheets = "[...document.querySelectorAll('#draw-player .sheet')]"
    assert page.run(f"{sheets}.length") == 12
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.run(f"Math.max(...{sheets}.map((sheet) => sheet.getBoundingClientRect().right))") <= 360
    assert not page.browser.find_elements("css selector", ".strip")
    assert page.ink("#draw-player .sheet:last-child") > 5
    drawings = run_python(page)["drawings"]
    assert len(drawings) == 12
    assert sum(len(drawing["points"]) for drawing in drawings) == count
    assert len(save(page)) >= 12


def test_stop_ends_the_work(page: Page, app: FastAPI) -> None:
    waiting = app.state.engine.streams.admission
    with hold(app.state.engine):
        page.find("#draw-start").click()
        wait_until(lambda: waiting.amount > 0)
        assert page.text("#draw-start") == "Stop"
        page.find("#draw-start").click()
        wait_until(lambda: waiting.amount == 0)
        wait_until(lambda: page.text("#draw-note").startswith("Stopped. "))
        page.find("#draw-start").click()
        wait_until(lambda: waiting.amount > 0)
        begin(page, *CORNER)  # and so does a stroke
        wait_until(lambda: waiting.amount == 0)
        assert page.text("#draw-note").startswith("You drew 1 stroke, 3 points.")
        assert not page.find("#alert-body").is_displayed()
    finish(page)


def test_a_full_queue_is_said_and_tried_again(page: Page, app: FastAPI) -> None:
    begin(page, *CORNER)
    admission = app.state.engine.streams.admission
    others = admission.reserve("another client", 10 * admission.limit)
    page.find("#draw-start").click()
    wait_until(lambda: page.find("#alert-body").is_displayed())
    assert page.text("#alert-message") == "The request queue is full."
    assert page.text("#draw-start") == "Finish it"
    assert page.ink("#draw-pad") > 100
    others.release()
    page.find("#retry").click()
    wait_until(lambda: re.fullmatch(DONE, page.text("#draw-note")))
    assert not page.find("#alert-body").is_displayed()
    assert len(page.errors()) == 1  # the browser's own, of status 429


def test_a_long_beginning_is_too_long(page: Page) -> None:
    begin(page, *((8 * i - 120, 40 * (-1) ** i) for i in range(STROKES.max_points)))
    assert page.text("#draw-note") == (
        "You drew 1 stroke, 30 points. The model goes on from at most 29 points. Undo a stroke."
    )
    assert not page.find("#draw-start").is_enabled()
    page.find("#draw-undo").click()
    assert page.find("#draw-start").is_enabled()


def test_weights_that_do_not_change_have_no_strip(page: Page) -> None:
    begin(page, *CORNER)
    Select(page.find("#model")).select_by_value("still")
    page.settle()
    assert page.text("#draw-start") == "Draw"  # what one began has the other model's size
    finish(page)
    assert not page.browser.find_elements("css selector", ".strip")
    assert page.find("#draw-box .sheet").is_displayed()
    assert page.find("#seed").is_displayed()
