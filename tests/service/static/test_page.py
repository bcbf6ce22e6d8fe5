"""The page for people, in a real browser against the real service."""

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from safetensors.torch import save

pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import Select

from models.checkpoint import save_checkpoint
from models.examples import save_examples
from models.predictions.stopping import StoppingRule
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from models.tasks.classification import Classification
from service.app import create_app
from service.settings import Settings
from tests.browser import open_browser, read_requests, set_screen
from tests.checkpoints import make_config, save_curve, save_table
from tests.conftest import SMALL_TARGET, serve
from tests.drift import draw_scores
from tests.engine import hold
from tests.examples import make_example
from tests.keys import write_keys
from tests.page import Page
from tests.pictures import draw_image
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("chromium", "chromedriver")

LONG_NAMES = "automobile", "aeroplane", "hippopotamus", "refrigerator", "salamander"


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with open_browser() as browser:
        set_screen(browser, 1200, 900)
        yield browser


@pytest.fixture(scope="module")
def app(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """A service with the digits, once with examples, a curve, rows, and a single network."""
    directory = tmp_path_factory.mktemp("page")
    (directory / "digits").symlink_to(checkpoints / "digits")
    save_curve(directory / "curve")
    save_table(directory / "people")
    sampler = StaticHypernetworkConfig(4, 4, basic_channels=2).build(SMALL_TARGET).eval()
    config = replace(make_config(sampler), task=Classification(LONG_NAMES))
    save_checkpoint(directory / "one", config, sampler, "float32")
    shutil.copytree(checkpoints / "digits", directory / "strokes")
    words = "a stroke whose caption is longer than a line of a phone"
    save_examples(directory / "strokes", [make_example(caption=words), make_example("photo.jpg", "a photo", "JPEG")])
    return create_app(Settings(checkpoints=directory, default_model="digits"))


@pytest.fixture(scope="module")
def address(app: FastAPI) -> Iterator[str]:
    with serve(app) as address:
        yield address


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Iterator[Page]:
    """The page, which asks no other host, and says nothing on the console."""
    page = Page(browser, address)
    yield page
    assert page.errors() == []
    hosts = {urlsplit(url).netloc for url in read_requests(browser)} - {""}
    assert hosts <= {urlsplit(address).netloc}


def test_the_first_screen_draws_and_answers(page: Page) -> None:
    page.open()
    assert page.attribute("#tab-answer", "aria-selected") == "true"
    assert page.text("#verdict-title") == "Ask the networks"
    page.draw((-20, -60), (-10, 0), (0, 50))
    wait_until(lambda: page.text("#label") in list("0123456789"))
    page.settle()
    assert page.text("#verdict-title") != "Ask the networks"
    assert "Prediction: " in page.run("document.getElementById('summary').textContent")
    for flag in ("out_of_distribution", "suspect_adversarial"):
        assert "of the calibration images score higher" in page.text(f"#{flag} figcaption")
        assert page.attribute(f"#{flag} canvas", "aria-label") == page.text(f"#{flag} figcaption")
        assert page.ink(f"#{flag} canvas") > 50
    assert "The dots are the known quantiles" in page.text("#flags-note")
    page.find("#clear").click()
    assert page.text("#verdict-title") == "Ask the networks"


def test_what_python_and_curl_ask_is_what_the_page_asked(page: Page) -> None:
    page.open()
    page.choose_example("seven")
    seed = page.text("#used-seed")
    assert f"seed={seed}" in page.text("#answer-curl")
    assert "images=@seven.png" in page.text("#answer-curl")
    python = next(b for b in page.browser.find_elements(By.CSS_SELECTOR, "#answer .kinds button") if b.text == "Python")
    python.click()
    assert f'client.predict("seven.png", model="digits", ensemble_size=100, seed={seed}' in page.text("#answer-python")
    compile(page.text("#answer-python"), "page", "exec")


def test_tabs_by_keyboard_and_their_address(page: Page) -> None:
    page.open("attack")
    assert page.attribute("#tab-attack", "aria-selected") == "true"
    assert page.find("#attack").is_displayed()
    page.find("#tab-attack").send_keys(Keys.ARROW_RIGHT)
    assert page.browser.switch_to.active_element.get_attribute("id") == "tab-certify"
    assert page.find("#certify").is_displayed()
    assert not page.find("#attack").is_displayed()
    page.find("#tab-certify").send_keys(Keys.ARROW_RIGHT, Keys.TAB)
    page.find("#tab-weights").send_keys(Keys.ARROW_RIGHT)
    assert page.find("#monitor").is_displayed()
    page.find("#tab-monitor").send_keys(Keys.ARROW_RIGHT)
    assert page.find("#answer").is_displayed()
    assert page.browser.current_url.endswith("#/answer")
    page.settle()


def test_uncertainty_moves(page: Page) -> None:
    page.open("vary")
    page.choose_example("three")
    assert "at 1 positions" in page.attribute("#vary-chart", "aria-label")
    entropies = []
    for angle in (45, 90):
        page.set_slider("#rotation", angle)
        label = page.attribute("#vary-chart", "aria-label")
        entropies.append(float(re.search(r"predictive entropy ([\d.]+)", label)[1]))  # type: ignore[index]  # None fails
    assert "at 3 positions" in label
    assert entropies[0] != entropies[1]
    page.find("#sweep").click()
    wait_until(lambda: "at 25 positions" in page.attribute("#vary-chart", "aria-label"))
    page.settle()
    assert page.ink("#vary-chart") > 200
    page.set_slider("#noise", 40)  # another slider, another curve
    assert "against noise, at 1 positions" in page.attribute("#vary-chart", "aria-label")
    page.set_slider("#blend", 52)
    assert "against blend, at 1 positions" in page.attribute("#vary-chart", "aria-label")
    assert page.text("#sent-name") == "varied.png"
    page.find("#straighten").click()
    page.settle()
    assert page.attribute("#rotation", "value") == "0"


def test_an_attack_and_fresh_networks(page: Page) -> None:
    page.open("attack")
    page.choose_example("two")
    cards = [card.text for card in page.browser.find_elements(By.CSS_SELECTOR, "#verdicts .answer-card")]
    assert len(cards) == 3
    assert "the same networks" in cards[1]
    assert "fresh networks, seed" in cards[2]
    for card in cards:
        assert "out of distribution" in card
        assert "suspect adversarial" in card
    widths = "[...document.querySelectorAll('#original, #adversarial')].map((image) => image.naturalWidth)"
    wait_until(lambda: page.run(widths) == [8, 8])
    assert "at most 51 of 255" in page.attribute("#difference", "aria-label")
    page.set_slider("#epsilon", 0)
    assert "at most 0 of 255" in page.attribute("#difference", "aria-label")
    assert "The answer is still" in page.text("#attack-note")
    assert "proves nothing" in page.text("#attack")
    assert "/attack?epsilon=0&steps=20" in page.text("#attack-curl")


def test_a_certificate_in_words_and_as_a_call(page: Page) -> None:
    page.open("certify")
    page.choose_example("two")
    assert page.text("#certified-label") in [*"0123456789", "undecided"]
    assert page.find("#noisy").is_displayed()
    page.set_slider("#sigma", 0.02)
    assert page.text("#certified-radius").startswith("Certified radius 0.0")
    assert "no change shorter than 0.0" in page.text("#certify-note")
    assert "found in" in page.text("#certified-votes")
    assert "/certify?sigma=0.02&samples=1000&ensemble_size=8&seed=" in page.text("#certify-curl")
    page.set_slider("#sigma", 1)
    python = next(
        b for b in page.browser.find_elements(By.CSS_SELECTOR, "#certify .kinds button") if b.text == "Python"
    )
    python.click()
    assert 'client.certify("two.png", model="digits", ensemble_size=8, sigma=1' in page.text("#certify-python")
    compile(page.text("#certify-python"), "page", "exec")


def test_weights_side_by_side_as_points_and_on_a_walk(page: Page) -> None:
    page.open("weights")
    networks = page.browser.find_elements(By.CSS_SELECTOR, ".network")
    assert len(networks) == 32
    assert page.ink("#scatter") > 100
    networks[3].click()
    assert page.text("#chosen").startswith("Network 3 of seed ")
    assert "member=3" in page.attribute("#chosen-download", "href")
    networks[3].send_keys(Keys.ARROW_RIGHT)
    assert page.text("#chosen").startswith("Network 4 of seed ")
    assert [network.get_attribute("tabindex") for network in networks].count("0") == 1
    networks[5].click()
    page.find("#walk-to").click()
    page.settle()
    assert page.text("#walk-note") == "Draw something, or choose an image."
    page.choose_example("ambiguous")
    assert page.attribute("#to", "value") == "5"
    assert "On the straight line between the weights, the networks say " in page.text("#walk-note")
    for path in ("straight", "latent"):
        assert page.ink(f"#{path}") > 100
        assert page.attribute(f"#{path}", "aria-label") in page.text("#walk-note")
    assert "from=0&to=5" in page.text("#walk-curl")


def test_components_are_those_of_the_weights(page: Page) -> None:
    page.open()
    script = """
        const done = arguments[0];
        import("/static/pca.js").then(({ findComponents }) => {
            const points = [[3, 0], [-3, 0], [0, 1], [0, -1]];
            const vectors = points.map(([x, y]) => [Float32Array.of(x, 5), Float32Array.of(y)]);
            done(findComponents(vectors));
        });
    """
    found = page.browser.execute_async_script(script)
    assert found["explained"] == pytest.approx([0.9, 0.1])
    points = [[abs(c) for c in point] for point in found["points"]]
    assert points == [pytest.approx(p, abs=1e-6) for p in ([3, 0], [3, 0], [0, 1], [0, 1])]


def test_halves_are_read_exactly(page: Page) -> None:
    page.open()
    tensor = torch.tensor([0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, 3e-5, 0.333], dtype=torch.float16)
    content = base64.b64encode(save({"a": tensor})).decode()
    script = f"""
        const done = arguments[0];
        const bytes = Uint8Array.from(atob("{content}"), (c) => c.charCodeAt(0));
        import("/static/safetensors.js").then(({{ readTensors }}) => done([...readTensors(bytes.buffer).a.values]));
    """
    assert page.browser.execute_async_script(script) == tensor.tolist()


def test_a_row_of_a_table(page: Page) -> None:
    page.open()
    Select(page.find("#model")).select_by_value("people")
    wait_until(lambda: "networks of seed" in page.text("#row-detail"))
    page.settle()
    assert not page.find("#image").is_displayed()
    assert page.find("#row").is_displayed()
    labels = [label.text for label in page.find("#row-form").find_elements(By.CSS_SELECTOR, "label")]
    assert labels == ["age", "sex", "since"]
    assert "18 to 90 in training; may be empty" in page.text("#row-form")
    assert page.attribute("#column-2", "value") == "2020-01-01"
    assert page.text("#row-label") in ("Bonn", "Rome", "Ulm")
    before = page.text("#row-outcome")
    age = page.find("#column-0")
    age.clear()
    age.send_keys("90")
    Select(page.find("#column-1")).select_by_value("m")
    wait_until(lambda: page.text("#row-outcome") != before)
    page.settle()
    sent = page.run("document.getElementById('row-curl').textContent")
    assert '{"inputs":[{"age":90,"sex":"m","since":"2020-01-01"}]}' in sent
    compile(page.run("document.getElementById('row-python').textContent"), "page", "exec")
    Select(page.find("#model")).select_by_value("digits")
    page.settle()
    assert page.find("#answer").is_displayed()


def test_a_curve(page: Page) -> None:
    page.open()
    Select(page.find("#model")).select_by_value("curve")
    wait_until(lambda: page.text("#curve-note").startswith("Mean of 100 networks"))
    page.settle()
    assert not page.find("#image").is_displayed()
    assert page.find("#curve").is_displayed()
    assert page.ink("#curve-chart") > 200
    assert page.ink("#variance-chart") > 200
    compile(page.run("document.getElementById('curve-python').textContent"), "page", "exec")
    Select(page.find("#model")).select_by_value("digits")
    page.settle()
    assert page.find("#answer").is_displayed()


def test_strokes_are_added_to_an_image(page: Page) -> None:
    page.open()
    page.choose_example("ambiguous")
    before = page.run("document.getElementById('sent-image').src")
    page.draw((-30, -90), (30, -90))
    wait_until(lambda: page.text("#sent-name") == "ambiguous-drawn.png")
    page.settle()
    assert "Shown: ambiguous.png" in page.attribute("#pad-canvas", "aria-label")
    assert page.run("document.getElementById('sent-image').src") != before
    page.find("#clear").click()
    assert "Shown" not in page.attribute("#pad-canvas", "aria-label")
    assert page.text("#label") == "?"


def test_a_large_photograph_is_shrunk(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (5000, 3000), (200, 30, 30)).save(tmp_path / "photo.jpg")
    page.open()
    page.open_file(tmp_path / "photo.jpg")
    wait_until(lambda: "shrunk from 5000 × 3000 to 2048 × 1229 pixels" in page.text("#sent-name"))
    page.settle()
    assert page.text("#label") in list("0123456789")
    page.find("#tab-vary").click()  # what was opened can be blended in, too
    page.choose_example("seven")
    assert "with photo-shrunk.png" in page.text("#blend-with")


def test_settings_that_are_not_valid_are_said_and_not_used(page: Page) -> None:
    page.open()
    page.choose_example("seven")
    for field, text, note in (
        ("seed", "abc", "Enter a whole number below 2⁶³. Still using fresh networks."),
        ("size", "5000", "Enter a number from 1 to 1000. Still using 100."),
        ("size", "", "Enter a number from 1 to 1000. Still using 100."),
    ):
        page.find(f"#{field}").clear()
        page.find(f"#{field}").send_keys(text, Keys.TAB)
        page.settle()
        assert page.text(f"#{field}-note") == note
        assert page.attribute(f"#{field}", "aria-invalid") == "true"
        assert "mean of 100 networks" in page.text("#ensemble")
    page.find("#size").send_keys("7", Keys.TAB)
    page.settle()
    assert page.text("#size-note") == ""
    wait_until(lambda: "mean of 7 networks" in page.text("#ensemble"))


def test_a_kept_seed_is_not_dropped_unsaid(page: Page) -> None:
    page.open()
    page.choose_example("seven")
    seed = page.text("#used-seed")
    page.find("#keep-seed").click()
    page.find("#draw-again").click()
    wait_until(lambda: page.text("#used-seed") != seed)
    page.settle()
    assert page.text("#seed-note") == f"Seed {seed} is no longer kept."


def test_a_single_network_is_no_distribution(page: Page) -> None:
    page.open()
    Select(page.find("#model")).select_by_value("one")
    page.settle()
    assert "a single network, not a distribution" in page.text("#card")
    assert not page.find("#offers").is_displayed()  # the page's own are digits
    assert "Draw, drop, paste or photograph" in page.text("#pad-hint")
    page.draw((-40, -40), (40, 40))
    wait_until(lambda: page.text("#label") in LONG_NAMES)
    for width in (1200, 360):
        set_screen(page.browser, width, 900)
        label = "document.getElementById('label')"
        assert page.run(f"{label}.offsetHeight < 1.5 * parseFloat(getComputedStyle({label}).fontSize)"), width
        assert page.run(f"{label}.scrollWidth <= {label}.clientWidth"), width
    set_screen(page.browser, 1200, 900)
    assert not page.find("#mutual-information").is_displayed()
    assert not page.find("#used-seed").is_displayed()
    page.find("#tab-weights").click()
    page.settle()
    assert "1 network" in page.text("#weights-note")
    assert not page.find("#walk-note").is_displayed()


def test_no_view_breaks_a_word_of_a_label(page: Page) -> None:
    labels = {
        "answer": "#label, #classes th span",
        "vary": "#varied-label",
        "attack": "#verdicts .big",
        "certify": "#certified-label",
    }
    try:
        for width in (1200, 360):
            set_screen(page.browser, width, 900)
            page.open()
            Select(page.find("#model")).select_by_value("one")
            page.settle()
            page.draw((-40, -40), (40, 40))
            for view, selector in labels.items():
                page.find(f"#tab-{view}").click()
                found = f"[...document.querySelectorAll('{selector}')]"
                wait_until(partial(page.run, f"{found}[0]?.textContent.length > 1"))
                page.settle()
                lines = page.run(f"{found}.map((e) => e.offsetHeight / parseFloat(getComputedStyle(e).fontSize))")
                assert max(lines) < 1.6, (width, view)
                right = "getBoundingClientRect().right"
                assert page.run(f"{found}.every((e) => e.{right} <= e.parentElement.{right} + 1)"), (width, view)
    finally:
        set_screen(page.browser, 1200, 900)


def test_a_models_own_examples_are_tapped_on_a_phone(page: Page, tmp_path: Path) -> None:
    set_screen(page.browser, 360, 700)
    try:
        page.open()
        assert page.text("#verdict-detail").startswith("Choose an example, draw something, or open an image.")
        Select(page.find("#model")).select_by_value("strokes")
        wait_until(lambda: page.browser.find_elements(By.CSS_SELECTOR, ".examples img[data-file='photo.jpg']"))
        page.settle()
        assert page.text("#offers-heading") == "Try one of these"
        assert page.text("#label") == "?"
        buttons = page.browser.find_elements(By.CSS_SELECTOR, ".examples button")
        assert [button.text for button in buttons] == [
            "a stroke whose caption is longer than a line of a phone",
            "a photo",
        ]
        assert [button.accessible_name for button in buttons][1] == "Example: a photo"
        assert page.text(".credits") == "Source: drawn for the tests. Licence: Apache-2.0."
        page.choose_example("stroke")
        assert page.text("#label") in list("0123456789")
        assert page.text("#sent-name") == "stroke.png"
        buttons[1].send_keys(Keys.ENTER)
        wait_until(lambda: page.text("#sent-name") == "photo.jpg")
        page.settle()
        for number in range(7):
            path = tmp_path / f"{'a-photograph-with-a-rather-long-name' * (number % 2)}{number}.png"
            draw_image(size=(40 + number, 40)).save(path)
            page.open_file(path)
            shown = f"document.getElementById('sent-name').textContent === '{path.name}'"
            wait_until(partial(page.run, shown))
            page.settle()
        assert len(page.browser.find_elements(By.CSS_SELECTOR, ".examples button")) == 2 + 6
        assert page.run("document.documentElement.scrollWidth") <= 360
        ends = page.run(
            "[...document.querySelectorAll('.examples li, .sent *')].map((e) => e.getBoundingClientRect().right)"
        )
        assert max(ends) <= 360
        Select(page.find("#model")).select_by_value("one")  # which has none
        wait_until(lambda: page.text("#offers-heading") == "Opened before")
        page.settle()
    finally:
        set_screen(page.browser, 1200, 900)


@pytest.mark.parametrize("view", ["answer", "vary", "attack", "certify", "weights", "monitor"])
def test_nothing_is_wider_than_a_phone(page: Page, view: str) -> None:
    set_screen(page.browser, 360, 700)
    try:
        page.open(view)
        page.choose_example("house")
        assert page.run("document.documentElement.scrollWidth") <= 360
        assert page.find("#model").location["y"] < page.find("#pad-canvas").location["y"] < 700
    finally:
        set_screen(page.browser, 1200, 900)


def test_an_image_that_is_refused_changes_nothing(page: Page, tmp_path: Path) -> None:
    page.open()
    page.choose_example("seven")
    page.open_file(Path(__file__))
    wait_until(lambda: page.find("#alert-body").is_displayed())
    assert page.text("#alert-message") == "test_page.py cannot be read as an image."
    assert not page.find("#retry").is_displayed()
    transparent = tmp_path / "transparent.png"
    Image.new("RGBA", (20, 20), (9, 9, 9, 100)).save(transparent)
    page.open_file(transparent)
    wait_until(lambda: "has transparent pixels" in page.text("#alert-message"))
    page.settle()
    assert page.text("#alert-message").startswith("transparent.png has")
    assert not page.find("#retry").is_displayed()
    assert "Shown: seven.png" in page.attribute("#pad-canvas", "aria-label")
    assert page.text("#sent-name") == "seven.png"
    assert page.text("#label") in list("0123456789")
    assert len(page.errors()) == 1  # the browser's own, of status 422
    page.choose_example("two")
    assert not page.find("#alert-body").is_displayed()
    assert page.text("#label") in list("0123456789")


def test_a_slow_server_shows_itself_and_recovers(page: Page, app: FastAPI) -> None:
    page.open()
    with hold(app.state.engine):
        page.find(".examples button").click()
        wait_until(lambda: page.attribute("#card", "aria-busy") == "true")
        wait_until(lambda: page.text("#alert-message") == "The server is taking a while.")
        assert page.text("#verdict-title") == "Ask the networks"
    page.settle()
    assert page.text("#label") in list("0123456789")
    assert not page.find("#alert-body").is_displayed()


def test_a_dead_server_shows_itself_and_recovers(browser: webdriver.Chrome, checkpoints: Path) -> None:
    def start(port: int) -> AbstractContextManager[str]:
        return serve(create_app(Settings(checkpoints=checkpoints)), port)

    with start(0) as address:
        page = Page(browser, address)
        page.open("vary")
        page.choose_example("seven")
    page.find("#straighten").click()
    wait_until(lambda: page.text("#alert-message") == "The server cannot be reached.")
    page.settle()
    page.choose_example("three")
    with start(urlsplit(address).port or 0):
        page.find("#retry").click()
        wait_until(lambda: not page.find("#alert-body").is_displayed())
        page.settle()
        assert "three.png" in page.attribute("#pad-canvas", "aria-label")
        assert page.text("#varied-label") in list("0123456789")
        browser.get("about:blank")
    assert {message.rpartition(" ")[2] for message in page.errors()} == {"net::ERR_CONNECTION_REFUSED"}
    read_requests(browser)


def test_a_key_is_asked_for(browser: webdriver.Chrome, checkpoints: Path, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", reader=["predict"])
    with serve(create_app(Settings(checkpoints=checkpoints, keys=tmp_path / "keys.toml"))) as address:
        page = Page(browser, address)
        browser.get(f"{address}/")
        wait_until(lambda: expected_conditions.alert_is_present()(browser))
        browser.switch_to.alert.send_keys(keys["reader"])
        browser.switch_to.alert.accept()
        page.settle()
        page.choose_example("seven")
        page.find("#tab-weights").click()
        wait_until(lambda: "this needs weights" in page.text("#alert-message"))
        browser.get("about:blank")
    page.errors()
    read_requests(browser)


def test_networks_stop_when_more_would_hardly_change_the_answer(
    browser: webdriver.Chrome, grown: tuple[Path, StoppingRule, list[bytes]], tmp_path: Path
) -> None:
    store, _, images = grown
    with serve(create_app(Settings(checkpoints=store))) as address:
        page = Page(browser, address)
        page.open()
        (tmp_path / "one.png").write_bytes(images[0])
        page.open_file(tmp_path / "one.png")
        wait_until(lambda: "mean of 100 networks" in page.text("#ensemble"))
        assert page.find("#flags").is_displayed()
        page.find("#auto").click()
        wait_until(lambda: "more would hardly change it" in page.text("#ensemble"))
        networks = int(page.text("#ensemble").split()[2])
        assert networks < 100
        assert page.text("#variation-ratio").endswith(f" of {networks}")
        assert not page.find("#flags").is_displayed()
        assert "ensemble_size=auto" in page.text("#answer-curl")
        assert not page.errors()
        browser.get("about:blank")
    assert {urlsplit(url).netloc for url in read_requests(browser)} <= {"", urlsplit(address).netloc}


def test_a_model_without_rules_does_not_offer_to_stop(page: Page) -> None:
    page.open()
    page.choose_example("seven")
    assert not page.find("#auto").is_displayed()


def test_the_monitor_shows_whether_inputs_have_changed(page: Page, app: FastAPI) -> None:
    digits = app.state.catalog.resolve("digits")
    app.state.monitor.reset(digits)
    usual, foreign = draw_scores(digits, 300), draw_scores(digits, 60, foreign=True)
    page.open("monitor")
    assert page.text("#monitor-note").startswith("0 inputs since")
    assert "No inputs so far" in page.text("#monitor-flags")
    app.state.monitor.measure(digits, usual, seed=1)
    page.open("monitor")
    flag = "[aria-label='out of distribution']"
    assert page.text(f"{flag} .verdict-title") == "No change so far"
    app.state.monitor.measure(digits, foreign, seed=2)
    page.open("monitor")
    assert page.text("#monitor-note").startswith("360 inputs since")
    assert page.attribute(f"{flag} .verdict", "data-kind") == "flagged"
    assert re.match(r"This was certain after 30\d inputs, ", page.text(f"{flag} .verdict-detail"))
    for chart in ("martingale", "share", "scores"):
        assert page.ink(f"{flag} .{chart}") > 100
        assert page.attribute(f"{flag} .{chart}", "aria-label")
    assert "The inputs have changed" in page.run("document.getElementById('summary').textContent")
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#monitor-lines tr")) == 10
    assert page.text("#monitor-curl") == f"curl '{page.address}/v1/models/digits/monitor'"
    compile(page.run("document.getElementById('monitor-python').textContent"), "page", "exec")
    Select(page.find("#model")).select_by_value("people")
    wait_until(lambda: "no calibration" in page.text("#monitor-note"))
    page.settle()
