"""The pen of the page, in a real browser, with drawings that the tests make."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium")

from selenium import webdriver

from service.app import create_app
from service.settings import Settings
from tests.browser import open_browser, set_screen
from tests.conftest import serve
from tests.page import Page
from tests.sequences import save_writer
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("chromium", "chromedriver")

CROSS = [[0, 0, 0], [10, 0, 0], [10, 0, 1], [-10, -10, 0], [0, 20, 1]]
"""A line to the right, and one down through its middle."""

SETUP = """
    const done = arguments[0];
    import("/static/draw.js").then(({ createPlayer }) => {
        document.body.replaceChildren(document.createElement("main"));
        window.player = createPlayer(document.querySelector("main"), OPTIONS);
        done();
    });
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("drawing")
    save_writer(directory / "writer")
    with serve(create_app(Settings(checkpoints=directory))) as address:
        yield address


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Iterator[Page]:
    set_screen(browser, 360, 740)
    page = Page(browser, address)
    page.open("write")
    yield page
    assert page.errors() == []


def set_up(page: Page, drawing: list[list[int]] = CROSS, sheets: int = 1, given: int = 0) -> None:
    """Puts a player on the page, with a drawing on each sheet that is complete."""
    page.browser.execute_async_script(SETUP.replace("OPTIONS", f"{{ scale: 10, sheets: {sheets} }}"))
    for sheet in range(sheets):
        for index, point in enumerate(drawing):
            changes = [index, 1, 0, 5 - index]
            options = {"given": index < given, "changes": changes}
            page.browser.execute_script("player.append(...arguments)", sheet, point, options)
    page.run("player.complete()")


def seek(page: Page, share: float) -> None:
    """Moves the slider of time to a share of the whole."""
    slider = "document.querySelector('input[type=range]')"
    page.run(f"({slider}.max = player.duration(), {slider}.value = {share} * player.duration())")
    page.run(f"{slider}.dispatchEvent(new Event('input'))")


def inked(page: Page, sheet: int = 0) -> list[list[float]]:
    """Where a sheet is dark, [[x, y], ...] as shares of its side."""
    script = f"""
        const canvas = document.querySelectorAll(".sheet")[{sheet}];
        const {{ data }} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const found = [];
        for (let i = 0; i < canvas.width * canvas.height; i++)
            if (data[4 * i + 3] > 128 && data[4 * i] < 80)
                found.push([(i % canvas.width) / canvas.width, Math.floor(i / canvas.width) / canvas.height]);
        return found;
    """
    found: list[list[float]] = page.browser.execute_script(script)
    return found


def test_the_pen_draws_in_order_and_is_lifted(page: Page) -> None:
    set_up(page)
    seek(page, 0.4)
    points = inked(page)
    assert points
    assert {round(y, 1) for _, y in points} == {0.5}  # the first line alone
    seek(page, 1)
    points = inked(page)
    assert min(x for x, _ in points) == pytest.approx(0.07, abs=0.02)
    assert max(y for _, y in points) == pytest.approx(0.93, abs=0.02)
    corners = [point for point in points if abs(point[0] - 0.5) > 0.05 and abs(point[1] - 0.5) > 0.05]
    assert not corners  # the pen was lifted between the lines


def test_it_plays_pauses_and_ends(page: Page) -> None:
    set_up(page, CROSS * 8)
    assert 1000 < page.run("player.duration()") < 6000  # milliseconds, as a person takes
    page.run("player.play()")
    play, position = page.find("button"), "Number(document.querySelector('input[type=range]').value)"
    wait_until(lambda: page.run(position) > 100)
    assert play.text == "Pause"
    play.click()
    at = page.run(position)
    assert play.text == "Play"
    assert page.browser.execute_async_script(f"setTimeout(() => arguments[0]({position}), 100)") == at
    play.click()
    wait_until(lambda: page.run(position) > at)
    wait_until(lambda: play.text == "Play")
    assert page.run(position) == pytest.approx(page.run("player.duration()"))


def test_the_pen_waits_for_more(page: Page) -> None:
    set_up(page)
    page.browser.execute_async_script(SETUP.replace("OPTIONS", "{ scale: 10 }"))
    page.run("player.play()")
    page.browser.execute_script("player.append(0, [10, 0, 0])")
    position = "Number(document.querySelector('input[type=range]').value)"
    wait_until(lambda: page.run(position) == page.run("player.duration()"))
    assert page.find("button").text == "Pause"
    page.browser.execute_script("player.append(0, [10, 0, 1]); player.complete()")
    wait_until(lambda: page.find("button").text == "Play")
    assert page.run(position) == page.run("player.duration()") > 0


def test_squares_say_how_the_weights_change(page: Page) -> None:
    set_up(page)
    seek(page, 1)
    strip = "document.querySelector('.strip').getContext('2d').getImageData"
    rows = [page.run(f"[...{strip}(1 + 12 * {i}, 5 + 12 * {gate}, 1, 1).data]") for gate in range(4) for i in range(5)]
    opacities = [[pixel[3] / 255 for pixel in rows[5 * gate : 5 * gate + 5]] for gate in range(4)]
    expected = [[0, 0.25, 0.5, 0.75, 1], [1] * 5, [0] * 5, [1, 0.8, 0.6, 0.4, 0.2]]
    assert opacities == [pytest.approx(row, abs=0.01) for row in expected]
    assert rows[4][:3] == [204, 0, 0]
    assert rows[15][:3] == [255, 204, 0]


def test_what_a_person_drew_takes_no_time(page: Page) -> None:
    set_up(page, given=3)
    seek(page, 0)
    strokes: list[Any] = page.browser.execute_async_script("""
        const done = arguments[0];
        import("/static/pen.js").then(({ addPoint, drawUntil }) => {
            const points = [];
            addPoint(points, [5, 5, 0], 10, { given: true });
            addPoint(points, [5, 0, 0], 10, { given: true });
            addPoint(points, [10, 0, 1], 10);
            done(drawUntil(points, points.at(-1).end / 2).strokes);
        });
    """)
    assert [stroke["given"] for stroke in strokes] == [True, False]
    assert [[point["x"] for point in stroke["points"]] for stroke in strokes] == [[5, 10], [10, 15]]


def test_twelve_futures_fit_a_phone(page: Page) -> None:
    set_up(page, sheets=12)
    seek(page, 1)
    assert all(len(inked(page, sheet)) > 50 for sheet in range(12))
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.run("document.querySelectorAll('.strip').length") == 0


@pytest.mark.parametrize("sheets", [1, 12])
def test_a_file_has_each_stroke(page: Page, sheets: int, tmp_path: Path) -> None:
    set_up(page, sheets=sheets)
    root = ElementTree.fromstring(page.run("player.toSvg()"))
    assert root.attrib["viewBox"] == {1: "0 0 1000 1000", 12: "0 0 4000 3000"}[sheets]
    paths = root.findall(".//{http://www.w3.org/2000/svg}path")
    assert len(paths) == 2 * sheets
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", paths[0].attrib["d"])]
    assert numbers == [80, 500, 500, 500, 710, 500, 920.1, 500]
