"""The pen of the page, in a real browser, with drawings that the tests make."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("selenium")

from selenium import webdriver

from models.sequences.drawing import render_smooth
from service.app import create_app
from service.settings import Settings
from tests.browser import open_browser, set_screen
from tests.conftest import serve
from tests.page import Page
from tests.sequences import save_writer
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("chromium", "chromedriver")

SHEET = 25
"""Side of a sheet, in units of the points."""

CROSS = [[0, 0, 0], [10, 0, 0], [10, 0, 1], [-10, -10, 0], [0, 20, 1]]
"""A line to the right, and one down through its middle."""

SETUP = """
    const done = arguments[0];
    import("/static/player.js").then(({ createPlayer }) => {
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


def build(page: Page, sheets: int = 1) -> None:
    """Puts a player without points on the page."""
    options = f"{{ scale: 10, side: {SHEET}, sheets: {sheets}, changes: {str(sheets == 1).lower()} }}"
    page.browser.execute_async_script(SETUP.replace("OPTIONS", options))


def set_up(page: Page, drawing: list[list[int]] = CROSS, sheets: int = 1, given: int = 0) -> None:
    """Puts a player on the page, with a drawing on each sheet that is complete."""
    build(page, sheets)
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


def evaluate(page: Page, module: str, expression: str) -> Any:
    """The value of an expression that uses a module of the page."""
    script = f"import('/static/{module}.js').then((module) => done({expression}))"
    return page.browser.execute_async_script(f"const done = arguments[0]; {script}")


def read_numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", path)]


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
    assert min(x for x, _ in points) == pytest.approx(0.09, abs=0.02)
    assert max(y for _, y in points) == pytest.approx(0.91, abs=0.02)
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
    build(page)
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
    full = 3.6, 4.6  # which nine tenths of the changes do not exceed
    expected = [[i / full[0] for i in range(4)] + [1], [1] * 5, [0] * 5, [1] + [i / full[1] for i in (4, 3, 2, 1)]]
    assert opacities == [pytest.approx(row, abs=0.01) for row in expected]
    assert rows[4][:3] == [204, 0, 0]
    assert rows[15][:3] == [255, 204, 0]


def test_what_a_person_drew_takes_no_time(page: Page) -> None:
    script = """(() => {
        const points = [];
        module.addPoint(points, [5, 5, 0], 10, { given: true });
        module.addPoint(points, [5, 0, 0], 10, { given: true });
        module.addPoint(points, [10, 0, 1], 10);
        return module.drawUntil(points, points.at(-1).end / 2);
    })()"""
    found = evaluate(page, "pen", script)
    assert [line["given"] for line in found["lines"]] == [True, False]
    given, drawn = [(line["start"]["x"], line["pieces"][-1][-1]["x"]) for line in found["lines"]]
    assert given == (5, 10)
    assert drawn == (10, found["tip"]["x"])
    assert 12 < found["tip"]["x"] < 18


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
    assert read_numbers(paths[0].attrib["d"]) == [
        100,
        500,
        100,
        500,
        366.7,
        500,
        500,
        500,
        633.3,
        500,
        900,
        500,
        900,
        500,
    ]


def test_lines_are_smooth_but_at_corners(page: Page) -> None:
    path = """(() => {
        const points = [];
        for (const point of POINTS) module.addPoint(points, point, 10);
        return module.writePath(module.drawUntil(points, Infinity).lines[0], { x: 0, y: 0, side: 1000 });
    })()"""
    corner = evaluate(page, "pen", path.replace("POINTS", "[[0, 0, 0], [10, 0, 0], [0, 10, 1]]"))
    assert corner == "M0 0L10 0L10 10"
    drawing = [[0, 0, 0], [300, 50, 0], [400, 300, 0], [300, 0, 0], [-900, 650, 1]]
    found, expected = (
        evaluate(page, "pen", path.replace("POINTS", json.dumps(drawing))),
        render_smooth(torch.tensor(drawing)),
    )
    assert read_numbers(found) == pytest.approx(read_numbers(expected.split('d="')[1]), abs=0.06)  # the service's own
    assert evaluate(page, "pen", path.replace("POINTS", "[[7, 8, 1]]")) == "M7 8l0.1 0"


@pytest.mark.parametrize(
    ("points", "wish", "expected"),
    [
        ([(0, 0), (20, 20)], None, (-40, -40, 100)),  # in the middle
        ([(0, 0), (20, 20)], (-30, -10), (-30, -10, 100)),  # where it is wished for
        ([(0, 0), (90, 20)], (-30, -10), (-5, -10, 100)),  # moved, to leave a margin
        ([(-100, 0), (80, 20)], (-30, -10), (-110, -60, 200)),  # grown
    ],
)
def test_frames_move_and_grow_if_they_must(
    page: Page, points: list[tuple[int, int]], wish: tuple[int, int] | None, expected: tuple[int, ...]
) -> None:
    positions = [{"x": x, "y": y} for x, y in points]
    corner = wish and {"x": wish[0], "y": wish[1]}
    found = evaluate(page, "pen", f"module.frame({json.dumps(positions)}, 100, {json.dumps(corner)})")
    assert [found["x"], found["y"], found["side"]] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("stroke", "kept"),
    [
        ([(0, 0)], [(0, 0)]),
        ([(0, 0), (1, 0.5), (0.5, 0.5)], [(0, 0)]),  # a trembling dot
        ([(0, 0), (5, 0.9), (10, 0)], [(0, 0), (10, 0)]),
        ([(0, 0), (5, 1.1), (10, 0)], [(0, 0), (5, 1.1), (10, 0)]),
        ([(0, 0), (5, 0.1), (10, 0), (9.8, 5), (10, 10)], [(0, 0), (10, 0), (10, 10)]),
        ([(0, 0), (20, 0), (10, 0)], [(0, 0), (20, 0), (10, 0)]),  # and back
        ([(0, 0), (10, 0), (10, 10), (0, 10), (0, 0)], [(0, 0), (10, 0), (10, 10), (0, 10), (0, 0)]),
    ],
)
def test_strokes_become_few_points(
    page: Page, stroke: list[tuple[float, float]], kept: list[tuple[float, float]]
) -> None:
    positions = json.dumps([{"x": x, "y": y} for x, y in stroke])
    found = evaluate(page, "strokes", f"module.simplify({positions}, 1)")
    assert [(at["x"], at["y"]) for at in found] == kept


def test_a_circle_is_kept_within_the_tolerance(page: Page) -> None:
    circle = "Array.from({ length: 200 }, (_, i) => ({ x: 50 * Math.cos(i / 32), y: 50 * Math.sin(i / 32) }))"
    found = evaluate(page, "strokes", f"module.simplify({circle}, 2)")
    assert 8 <= len(found) <= 17  # chords of a circle's arcs of 16 to 32 degrees
    assert {round(math.hypot(at["x"], at["y"])) for at in found} == {50}


def test_points_are_offsets_whose_rounding_does_not_add_up(page: Page) -> None:
    strokes = "[[{ x: 5, y: 5 }, { x: 7.06, y: 5 }], [{ x: 7.06, y: 1 }]]"
    assert evaluate(page, "strokes", f"module.toPoints({strokes}, 0.1)") == [[0, 0, 0], [2.1, 0, 1], [0, -4, 1]]
    line = "[Array.from({ length: 1001 }, (_, i) => ({ x: i / 3, y: 0 }))]"
    offsets = evaluate(page, "strokes", f"module.toPoints({line}, 0.1)")
    assert sum(dx for dx, _, _ in offsets) == pytest.approx(1000 / 3, abs=0.05)
    assert {dx for dx, _, _ in offsets[1:]} == {0.3, 0.4}
