"""The page's views of models of text, in a real browser against the real service."""

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
from fastapi import FastAPI

pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from models.checkpoint_files import digest_config
from models.sequences.calibration import PassageCalibration, SizeThresholds
from models.sequences.checkpoint import save_passage_calibration
from service.app import create_app
from service.settings import Settings
from tests.browser import open_browser, set_screen
from tests.conftest import serve
from tests.engine import hold
from tests.page import Page
from tests.sequences import LSTM, save_writer
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("chromium", "chromedriver")

CELLS = "[...document.querySelectorAll('#write-passage .cell')]"
GATES = {"input": (204, 0, 0), "forget": (0, 153, 0), "output": (0, 102, 204), "candidate": (255, 204, 0)}


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """A service with three HyperLSTMs and an LSTM, whose parameters are random."""
    directory = tmp_path_factory.mktemp("writing")
    save_writer(directory / "plays")
    sizes = (SizeThresholds(3, "surprisal", (0.0,)),)
    calibration = PassageCalibration(digest_config(directory / "plays"), 100, 50, (0.05,), sizes)
    save_passage_calibration(directory / "plays", calibration)
    save_writer(directory / "still", modes=1, size=LSTM)
    return create_app(Settings(checkpoints=directory, default_model="plays"))


@pytest.fixture(scope="module")
def address(app: FastAPI) -> Iterator[str]:
    with serve(app) as address:
        yield address


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Iterator[Page]:
    """The page, which says nothing on the console."""
    set_screen(browser, 1200, 900)
    page = Page(browser, address)
    page.open("write")
    yield page
    browser.get("about:blank")
    assert page.errors() == []


def write(page: Page, prompt: str = "", length: int = 50) -> None:
    """Writes a text after a prompt, and waits for its end."""
    page.find("#prompt").clear()
    page.find("#prompt").send_keys(prompt)
    page.set_slider("#length", length)
    page.find("#write-start").click()
    finish(page)


def finish(page: Page) -> None:
    wait_until(lambda: re.match(r"\d+ characters?, [\d.]+ bits each, seed \d+\.", page.text("#write-note")))
    assert page.text("#write-start") == "Write"


def read(page: Page, cells: str = CELLS) -> str:
    """The text of cells."""
    text: str = page.run(f"{cells}.map((cell) => cell.symbol.text).join('')")
    return text


def run_python(page: Page, view: str) -> str:
    """What the call of a view prints."""
    with redirect_stdout(io.StringIO()) as printed:
        exec(page.run(f"document.getElementById('{view}-python').textContent"), {})
    return printed.getvalue()


def symbols(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.run(f"{CELLS}.map((cell) => cell.symbol)")
    return found


def test_a_line_is_written_over_squares(page: Page) -> None:
    assert page.find("#write").is_displayed()
    assert not page.find("#image").is_displayed()
    assert not page.find("#tab-answer").is_displayed()
    write(page, "ab c", length=100)
    assert len(symbols(page)) == 104
    assert read(page).startswith("ab c")
    given, written = symbols(page)[:4], symbols(page)[4:]
    assert {tuple(symbol) for symbol in given} == {("text",)}
    for number, colour in enumerate(GATES.values()):
        most = max(symbol["changes"][number] for symbol in written)
        for index in (4, 50):
            shown = page.run(f"getComputedStyle({CELLS}[{index}]).backgroundImage")
            square = re.findall(r"rgba?\(([^)]*)\)", shown)[2 * number]  # a gradient from a colour to itself
            red, green, blue, *opacity = map(float, square.split(", "))
            assert (red, green, blue) == colour
            expected = written[index - 4]["changes"][number] / most
            assert (opacity or [1.0]) == [pytest.approx(expected, abs=0.01)]
    assert "gradient" not in page.run(f"getComputedStyle({CELLS}[0]).backgroundImage")
    assert page.run(f"{CELLS}.filter((cell) => cell.symbol.text === '\\n').length > 0")
    assert run_python(page, "write") == read(page)[4:] + "\n"


def test_pointing_and_keys_show_the_numbers(page: Page) -> None:
    write(page, "a")
    cell = page.browser.find_elements(By.CSS_SELECTOR, "#write-passage .cell")[3]
    ActionChains(page.browser).move_to_element(cell).perform()
    symbol = symbols(page)[3]
    numbers = f"{symbol['bits']:.2f} bits · entropy {symbol['entropy']:.2f} · disagreement {symbol['disagreement']:.3f}"
    assert numbers in page.text("#write-readout")
    for name, change in zip(GATES, symbol["changes"], strict=True):
        assert re.search(rf"{name} {change:#.2g}", page.text("#write-readout"))
    passage = page.find("#write-passage")
    passage.send_keys(Keys.ARROW_RIGHT)
    lit = "document.querySelector('#write-passage .lit').index"
    assert page.run(lit) == 4
    passage.send_keys(Keys.END)
    assert page.run(lit) == 50
    passage.send_keys(Keys.HOME, Keys.ARROW_LEFT)
    assert page.run(lit) == 0
    assert "of the prompt" in page.text("#write-readout")
    passage.send_keys(Keys.ARROW_DOWN)
    tops = page.run(f"[{CELLS}[0].offsetTop, document.querySelector('#write-passage .lit').offsetTop]")
    assert tops[0] < tops[1]


@pytest.mark.parametrize("by", ["mouse", "keyboard", "button"])
def test_a_character_is_a_branch(page: Page, by: str) -> None:
    page.find("#seed").send_keys("7", Keys.TAB)
    write(page, "ab")
    before = read(page)
    assert "seed 7." in page.text("#write-note")
    cell = page.browser.find_elements(By.CSS_SELECTOR, "#write-passage .cell")[20]
    ActionChains(page.browser).move_to_element(cell).perform()
    if by == "mouse":
        cell.click()
    elif by == "keyboard":
        page.find("#write-passage").send_keys(Keys.ENTER)
    else:
        page.find("#write-readout button").click()
    wait_until(lambda: "seed 7." not in page.text("#write-note"))
    finish(page)
    after = read(page)
    assert after[:20] == before[:20] == page.run("document.getElementById('prompt').value")
    assert len(after) == 70
    assert after[20:52] != before[20:]
    assert symbols(page)[5].keys() >= {"bits", "changes"}  # what was kept has kept its squares
    assert page.text("#seed-note") == "Seed 7 is no longer kept."
    page.find("#write-on").click()
    wait_until(lambda: len(symbols(page)) == 120)
    finish(page)
    assert read(page).startswith(after)


def test_a_kept_seed_writes_the_same(page: Page) -> None:
    write(page, "ab")
    before = read(page)
    page.find("#write-keep").click()
    write(page, "ab")
    assert read(page) == before
    write(page, "b")
    assert read(page) != before


def test_stop_ends_the_work(page: Page, app: FastAPI) -> None:
    waiting = app.state.engine.streams.admission
    page.set_slider("#length", 2000)
    with hold(app.state.engine):
        page.find("#write-start").click()
        wait_until(lambda: waiting.amount > 0)
        assert page.text("#write-start") == "Stop"
        page.find("#write-start").click()
        wait_until(lambda: waiting.amount == 0)
        wait_until(lambda: page.text("#write-note").startswith("Stopped. "))
        assert page.text("#write-start") == "Write"
        assert not page.find("#alert-body").is_displayed()
    write(page, "ab")
    assert len(symbols(page)) == 52


def test_leaving_the_view_stops(page: Page, app: FastAPI) -> None:
    with hold(app.state.engine):
        page.find("#write-start").click()
        wait_until(lambda: page.text("#write-start") == "Stop")
        page.find("#tab-score").click()
        wait_until(lambda: page.run("document.getElementById('write-start').textContent") == "Write")


def test_a_text_is_coloured(page: Page) -> None:
    page.find("#tab-score").click()
    page.find("#text").send_keys("ab ca\ndé")
    wait_until(lambda: "bits per character" in page.text("#score-detail"))
    page.settle()
    cells = "[...document.querySelectorAll('#score-passage .cell')]"
    assert read(page, cells) == "ab ca\ndé"
    assert "in 8 characters, by 3 networks" in page.text("#score-detail")
    assert "Unknown to the model: é (U+00E9)." in page.text("#score-note")
    assert page.run(f"{cells}.map((cell) => cell.classList.contains('unknown'))") == [False] * 7 + [True]
    bits = page.run(f"{cells}.map((cell) => cell.symbol.bits)")
    assert float(page.text("#score-label")) == pytest.approx(sum(bits) / 8, abs=0.006)
    colours = f"{cells}.map((cell) => getComputedStyle(cell).backgroundColor)"
    opacities = [float(re.search(r"([\d.]+)\)$", colour)[1]) for colour in page.run(colours)]  # type: ignore[index]  # None fails
    assert opacities == pytest.approx([0.6 * min(1, value / min(8, max(bits))) for value in bits], abs=0.01)
    before = page.run(colours)
    page.find("[name=colour][value=disagreement]").click()
    assert page.run(colours) != before
    doubts = page.run(f"{cells}.map((cell) => cell.symbol.disagreement)")
    assert page.text("#score-most") == f"{max(doubts):.3f} bits"
    ActionChains(page.browser).move_to_element(page.find("#score-passage .unknown")).perform()
    assert "unknown to the model" in page.text("#score-readout")
    run_python(page, "score")


def test_foreign_passages_are_marked(page: Page) -> None:
    page.find("#tab-score").click()
    page.find("#text").send_keys("abcd " * 30)
    wait_until(lambda: "150 characters" in page.text("#score-detail"))
    page.settle()
    assert "Foreign: 1 of 1 passage of 100 characters, by a mean surprisal above 0.000 bits" in page.text("#score-note")
    marked = "[...document.querySelectorAll('#score-passage .foreign')].map((cell) => cell.index)"
    assert page.run(marked) == list(range(100))


def test_weights_that_do_not_change_have_no_squares(page: Page) -> None:
    Select(page.find("#model")).select_by_value("still")
    page.settle()
    assert "a single network" in page.text("#card")
    assert not page.find("#size").is_displayed()
    assert page.find("#seed").is_displayed()
    write(page, "a")
    assert not page.browser.find_elements(By.CSS_SELECTOR, "#write-passage .changed")
    assert not page.find("#write-readout .key").is_displayed()
    page.find("#tab-score").click()
    assert not page.find(".switch").is_displayed()


def test_a_full_queue_is_said_and_tried_again(page: Page, app: FastAPI) -> None:
    write(page, "ab")
    before = read(page)
    admission = app.state.engine.streams.admission
    others = admission.reserve("another client", 10 * admission.limit)
    page.find("#write-on").click()
    wait_until(lambda: page.find("#alert-body").is_displayed())
    assert page.text("#alert-message") == "The request queue is full."
    assert page.text("#alert-hint").startswith("Try again in ")
    assert read(page) == before
    assert page.text("#write-start") == "Write"
    others.release()
    page.find("#retry").click()
    wait_until(lambda: len(symbols(page)) == 102)
    finish(page)
    assert read(page).startswith(before)
    assert not page.find("#alert-body").is_displayed()
    assert len(page.errors()) == 1  # the browser's own, of status 429


def test_a_text_that_is_refused_is_not_tried_again(page: Page) -> None:
    page.find("#tab-score").click()
    page.settle()
    page.run(f"document.getElementById('text').value = 'a'.repeat({20_001})")
    page.find("#text").send_keys("b")
    wait_until(lambda: page.find("#alert-body").is_displayed())
    assert "20000" in page.text("#alert-message") + page.text("#alert-hint")
    assert not page.find("#retry").is_displayed()
    assert len(page.errors()) == 1  # the browser's own, of status 422
    page.find("#text").clear()
    page.find("#text").send_keys("abc")
    wait_until(lambda: "3 characters" in page.text("#score-detail"))
    page.settle()
    assert not page.find("#alert-body").is_displayed()


def test_on_a_phone(page: Page) -> None:
    set_screen(page.browser, 360, 740)
    page.open("write")
    write(page, "abc", length=400)
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.run(f"Math.max(...{CELLS}.map((cell) => cell.getBoundingClientRect().right))") <= 360
    square = page.run(f"{CELLS}[10].getBoundingClientRect().width")
    assert square >= 9
    for selector in ("#write-start", "#write-on", "#write-readout button", "#temperature", "#length"):
        assert page.find(selector).size["height"] >= 44, selector
    last = f"{CELLS}.at(-1).getBoundingClientRect().bottom"
    assert page.run(f"{last} <= document.getElementById('write-readout').getBoundingClientRect().top")  # it is followed
    page.find("#tab-score").click()
    page.find("#text").send_keys("abcd " * 30)
    wait_until(lambda: "150 characters" in page.text("#score-detail"))
    assert page.run("document.documentElement.scrollWidth") <= 360


def test_two_thousand_characters_cost_little(page: Page) -> None:
    script = """
        const done = arguments[0];
        import("/static/passage.js").then(async ({ createPassage }) => {
            const root = document.getElementById("write-passage");
            const passage = createPassage(root, document.createElement("div"), { description: "", squares: true });
            const times = [];
            for (let i = 0; i < 200; i++) {
                const start = performance.now();
                for (let k = 0; k < 10; k++) {
                    const text = (i * 10 + k) % 300 ? "a" : "\\n";
                    const measures = { probability: 1, bits: 0, entropy: 0, disagreement: 0 };
                    passage.append({ text, ...measures, changes: [1, 1, 1, 1] });
                }
                root.lastElementChild.scrollIntoView({ block: "nearest" });
                times.push(performance.now() - start);
                await new Promise(requestAnimationFrame);
            }
            done(times.sort((a, b) => a - b)[100]);
        });
    """
    assert page.browser.execute_async_script(script) < 50  # milliseconds; without contention it is about 3
