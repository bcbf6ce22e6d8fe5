"""`hyperdraw review`: what it reads, how it ranks, and what it shows."""

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hyperdraw import logged
from hyperdraw.__main__ import app as command_line
from hyperdraw.half_blocks import choose_size, draw_pixels
from hyperdraw.logged import Log
from hyperdraw.pictures import encode_png
from hyperdraw.review import Filters, review
from pydantic import SecretStr
from typer.testing import CliRunner

from service.app import create_app
from service.settings import Settings
from tests.checkpoints import save_curve
from tests.conftest import serve
from tests.pictures import draw_image, encode
from tests.waiting import wait_until

Write = Callable[..., Path]


def make_line(index: int, information: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A record of a classification, as the service writes it."""
    flag = {"flagged": information > 1, "score": information, "threshold": 1.0}
    line: dict[str, Any] = {
        "schema_version": 1,
        "time": f"2026-11-30T12:00:{index % 60:02}.5Z",
        "request_id": "r",
        "index": index,
        "model": "digits",
        "version": "a" * 64,
        "uncertainty": {"mutual_information": information, "predictive_entropy": 3 - information},
        "prediction": {
            "label": str(index % 3),
            "class_index": index % 3,
            "probabilities": [0.2, 0.3, 0.5],
            "flags": {"out_of_distribution": flag},
        },
    }
    return line | changes


def show(brightness: int) -> dict[str, str]:
    """A logged input: a picture of one grey."""
    return {"image": base64.b64encode(encode_png(np.full((8, 8), brightness, np.uint8))).decode()}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines into a file of a folder, and returns the folder."""

    def write(*lines: dict[str, Any] | str, file: str = "predictions-1.jsonl") -> Path:
        folder = tmp_path / "log"
        folder.mkdir(exist_ok=True)
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / file).write_text("".join(f"{text}\n" for text in texts))
        return folder

    return write


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    """Output and messages of the command."""
    result = CliRunner().invoke(command_line, ["review", *map(str, arguments)], env={"COLUMNS": "120"})
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def rank(folder: Path, *arguments: object) -> list[int]:
    return [record["index"] for record in json.loads(run(folder, "--json", *arguments)[0])["records"]]


def test_the_largest_come_first(write: Write) -> None:
    write(*(make_line(i, information) for i, information in enumerate((0.5, 0.1, 0.9))), file="predictions-1.jsonl")
    folder = write(*(make_line(3 + i, information) for i, information in enumerate((0.5, 1.2))), file="b.jsonl")
    (folder / "notes.txt").write_text("not a log")
    assert rank(folder) == [4, 2, 3, 0, 1]  # of equals, the one that is read first
    assert rank(folder, "--count", 2) == [4, 2]
    assert rank(folder, "--by", "predictive_entropy", "--count", 2) == [1, 3]
    assert rank(folder, "--by", "out_of_distribution", "--count", 1) == [4]
    assert rank(folder / "predictions-1.jsonl") == [2, 0, 1]


def test_filters(write: Write) -> None:
    lines = [make_line(i, i / 4) for i in range(8)]
    folder = write(*lines, make_line(8, 5, model="other"))
    assert rank(folder, "--model", "digits", "--count", 1) == [7]
    assert rank(folder, "--flag", "out_of_distribution") == [8, 7, 6, 5]
    assert rank(folder, "--flag", "suspect_adversarial") == []
    assert rank(folder, "--label", "1") == [7, 4, 1]
    assert rank(folder, "--since", "2026-11-30T12:00:07") == [8, 7]
    assert rank(folder, "--since", "2026-12-01") == []
    assert json.loads(run(folder, "--json", "--label", "1")[0])["considered"] == 3
    shown, message = run(folder, "--model", "digit")
    assert "0 of 0 inputs" in shown
    assert "No record passes the filters. Models: digits, other. Scores: mutual_information, out_of" in message


def test_what_is_far_from_the_training_examples_can_be_left_out(write: Write) -> None:
    surprises = 3.1, 2.9, 0.0, 700.0
    far = [{"mutual_information": 1 - i / 10, "distance_surprise": surprise} for i, surprise in enumerate(surprises)]
    folder = write(*(make_line(i, uncertainty=measured) for i, measured in enumerate(far)), make_line(4, 2.0))
    assert rank(folder) == [4, 0, 1, 2, 3]
    assert rank(folder, "--usual") == [1, 2]  # −ln 0.05 = 2.996
    unknown = write(make_line(0), file="unknown.jsonl") / "unknown.jsonl"
    assert "distance_surprise" in run(unknown, "--usual", code=2)[1]


def test_near_duplicates_are_left_out(write: Write) -> None:
    greys = 100, 102, 200, 104, 101, 210
    folder = write(*(make_line(i, 1 - i / 10, input=show(grey)) for i, grey in enumerate(greys)), make_line(6))
    assert rank(folder, "--count", 3) == [0, 1, 2]
    assert rank(folder, "--count", 3, "--apart", 0.02) == [0, 2, 5]
    assert rank(folder, "--apart", 0.05) == [0, 2, 6]  # which has no image
    assert rank(folder, "--apart", 0.005) == [0, 1, 2, 3, 5, 6]


def test_only_the_best_are_kept_in_memory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(*(make_line(i, (i * 7919 % 1000) / 1000) for i in range(1000)))
    alive, most = 0, 0

    class Counted(logged.LoggedPrediction):
        def __post_init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    monkeypatch.setattr(logged, "LoggedPrediction", Counted)
    found = review(Log(str(folder)), 10, "mutual_information", Filters())
    expected = sorted(range(1000), key=lambda i: -(i * 7919 % 1000))[:10]
    assert [record.index for record in found.records] == expected
    assert most <= 12


DAMAGED = {
    "half a line": json.dumps(make_line(9, 9.0))[:200],
    "not an object": "[1, 2]",
    "not text": '"\\ud800',
    "nested": "[" * 100_000,
    "another version": json.dumps(make_line(9, 9.0, schema_version=2)),
    "no number": json.dumps(make_line(9, uncertainty={"mutual_information": None})),
    "not a number": json.dumps(make_line(9, uncertainty={"mutual_information": float("nan")})),
    "not base64": json.dumps(make_line(9, 9.0, input={"image": "%%%"})),
    "not a picture": json.dumps(make_line(9, 9.0, input={"image": base64.b64encode(b"<svg>").decode()})),
    "a row that is a list": json.dumps(make_line(9, 9.0, input={"row": [1, 2]})),
}


def test_damaged_lines_are_counted(write: Write) -> None:
    folder = write(make_line(0, 0.5), *DAMAGED.values(), "", make_line(1, 0.6))
    with (folder / "predictions-1.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n" + json.dumps(make_line(2, 0.7)).encode())  # the last line has no end
    text, warning = run(folder, "--json")
    content = json.loads(text)
    assert [record["index"] for record in content["records"]] == [2, 1, 0]
    assert (content["lines"], content["damaged"]) == (len(DAMAGED) + 4, len(DAMAGED) + 1)
    assert f"{len(DAMAGED) + 1} of {len(DAMAGED) + 4} lines are not records" in warning


def test_a_line_without_end_is_one_damaged_line(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged, "MOST_BYTES", 1000)
    folder = write(make_line(0, 0.5), "x" * 10_500, make_line(1, 0.6))
    assert rank(folder) == [1, 0]


def test_what_cannot_be_reviewed_is_said(write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no files such as *.jsonl" in run(tmp_path / "empty", code=1)[1]
    assert "No such file" in run(tmp_path / "none.jsonl", code=1)[1]
    page = tmp_path / "page.html"
    assert "no record of this version among its 1 lines" in run(write("none"), "--html", page, code=1)[1]
    assert not page.exists()
    folder = write(make_line(0))
    _, message = run(folder, "--by", "energy", code=2)
    assert "no record has energy; they have" in " ".join(re.sub("[│\n]", " ", message).split())


def test_a_damaged_image_is_no_obstacle(write: Write) -> None:
    broken = {"image": base64.b64encode(b"\x89PNG\r\n\x1a\nand no more").decode()}
    folder = write(make_line(0, 1.0, input=broken), make_line(1, 0.5, input=show(9)))
    assert rank(folder, "--apart", 0.1) == [0, 1]
    assert "(damaged image)" in run(folder)[0]


def test_the_terminal_shows_images_and_what_is_known(write: Write) -> None:
    first = make_line(2, 1.5, input=show(255), request_id="abc")
    text, _ = run(write(first, make_line(0, 0.5, input=show(0))))
    assert [line[:16] for line in text.splitlines()[:8]] == ["@" * 16] * 8  # the other image is black
    assert text.count("@") == 128
    head, tail = text.split("abc")
    assert "2 50%, class 1 30%, 0 20%" in head  # nothing was ever taken for class 1
    assert "mutual information 1.5" in head
    assert "out of distribution: 1.5 > 1" in head
    assert "out of distribution" not in tail
    assert text.endswith("2 of 2 inputs, the largest mutual information first.\n")


def test_numbers_and_rows_are_shown(write: Write) -> None:
    told = {"outputs": {"y": {"mean": 1.25, "standard_deviation": 0.5}}, "flags": {}}
    row = {"age": None, "sex": "f", **{f"c{i}": i for i in range(9)}}
    line = make_line(0, prediction=told, uncertainty={"relative_deviation": 0.75}, input={"row": row})
    text, _ = run(write(line), "--by", "relative_deviation")
    shown = [line.strip() for line in text.splitlines()]
    values = "age None, sex f, c0 0, c1 1, c2 2, c3 3, c4 4, c5 5, …"
    assert shown[:3] == ["y = 1.25 ± 0.5", "relative deviation 0.75", values]


def test_names_cannot_control_the_terminal(write: Write) -> None:
    prediction = make_line(0)["prediction"] | {"label": "\x1b[31mred", "probabilities": [1.0]}
    text, _ = run(write(make_line(0, prediction=prediction, request_id="\x1b]0;title\x07")))
    assert "\x1b" not in text
    assert "�[31mred 100%" in text


def test_half_blocks_have_two_colours() -> None:
    pixels = np.zeros((3, 2, 3), np.uint8)
    pixels[0], pixels[1, 1] = (255, 0, 0), (0, 0, 255)
    text = draw_pixels(pixels, colours=True)
    assert text.plain == "▀▀\n▀▀"
    styles = [span.style for span in text.spans]
    assert [str(style) for style in styles[:2]] == ["#ff0000 on #000000", "#ff0000 on #0000ff"]


@pytest.mark.parametrize(
    ("size", "drawn"), [((8, 8), (16, 16)), ((28, 28), (28, 28)), ((224, 112), (28, 14)), ((1000, 1), (28, 1))]
)
def test_pictures_fit(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    assert choose_size(*size) == drawn


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = '"><script>document.title = "run"</script><img src=x onerror="document.title=1">'


@pytest.fixture
def page(write: Write, tmp_path: Path) -> Path:
    """A page of two records, one of which has hostile text wherever text may be."""
    hostile = make_line(1, 2.0, request_id=HOSTILE, model=HOSTILE, version=HOSTILE, input={"row": {HOSTILE: HOSTILE}})
    hostile["prediction"] |= {"label": HOSTILE, "flags": {HOSTILE: {"flagged": True, "score": 1, "threshold": 0}}}
    usual = make_line(0, 0.5, input=show(9))
    text, _ = run(write(hostile, usual), "--html", tmp_path / "page.html")
    assert text == f"Wrote {tmp_path / 'page.html'}: 2 of 2 inputs, the largest mutual information first.\n"
    return tmp_path / "page.html"


def test_nothing_in_a_log_becomes_markup(page: Path) -> None:
    found = Elements(page.read_text())
    tags = [tag for tag, _ in found.elements]
    assert (tags.count("script"), tags.count("img"), tags.count("article")) == (1, 1, 2)
    names = {name for _, attributes in found.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    (image,) = [attributes["src"] for tag, attributes in found.elements if tag == "img"]
    assert image == f"data:image/png;base64,{show(9)['image']}"
    cards = [attributes for tag, attributes in found.elements if tag == "article"]
    assert [(card["data-request"], card["data-index"]) for card in cards] == [(HOSTILE, "1"), ("r", "0")]
    assert found.text.count(HOSTILE) >= 5
    assert "http" not in re.sub(r'data-request=".*?"', "", page.read_text()).replace("http-equiv", "")


@pytest.mark.needs("chromium", "chromedriver")
def test_labels_are_saved_as_a_table(page: Path, tmp_path: Path) -> None:
    from tests.browser import open_browser, read_requests

    with open_browser() as browser:
        folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
        browser.get(page.as_uri())
        first, second = browser.find_elements("css selector", "article")
        first.find_element("css selector", "input").send_keys('a "new" one, here')
        second.find_element("xpath", ".//button[text()='0']").click()
        browser.find_element("css selector", "#save").click()
        saved = tmp_path / "labels.csv"
        wait_until(lambda: saved.exists() and saved.stat().st_size)
        assert browser.find_element("css selector", "output").text == "2 of 2 labelled"
        assert browser.title == "hyperdraw review"

        def open_again() -> str:
            browser.refresh()
            return browser.find_element("css selector", "output").text

        wait_until(lambda: open_again() == "2 of 2 labelled")  # a busy browser takes a while to store them
        asked = read_requests(browser)
        messages = browser.get_log("browser")  # type: ignore[no-untyped-call]
    rows = list(csv.reader(io.StringIO(saved.read_text())))
    assert rows == [["request_id", "index", "label"], [HOSTILE, "1", 'a "new" one, here'], ["r", "0", "0"]]
    assert {address.partition(":")[0] for address in asked} <= {"file", "data", "blob"}
    assert messages == []


@pytest.fixture
def service(checkpoints: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A service of digits and a curve that logs, and its log."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "digits").symlink_to(checkpoints / "digits")
    save_curve(tmp_path / "models" / "curve")
    folder = tmp_path / "own log"
    app = create_app(Settings(checkpoints=tmp_path / "models", prediction_log=SecretStr(str(folder)), log_inputs=True))
    with serve(app) as address, httpx.Client(base_url=address) as client:
        yield client, folder


def test_the_log_of_a_service_can_be_reviewed(service: tuple[httpx.Client, Path]) -> None:
    client, folder = service
    files = [("images", encode(draw_image(size=(side, side)))) for side in (8, 16, 30)]
    answer = client.post("/v1/models/digits/predict", files=files, params={"seed": 7})
    client.post("/v1/models/curve/predict", json={"inputs": [[0.5], [90.0]]})
    wait_until(lambda: 'outcome="written"} 5.0' in client.get("/metrics").text)
    told = [one["uncertainty"]["mutual_information"] for one in answer.json()["predictions"]]
    assert rank(folder) == sorted(range(3), key=lambda i: -told[i])
    content = json.loads(run(folder, "--json")[0])
    assert {record["request_id"] for record in content["records"]} == {answer.headers["x-request-id"]}
    text, warning = run(folder, "--by", "relative_deviation")
    assert "x 90.0" in text
    assert not warning
    assert re.search(r"^ *[.:=+*#%@-]{2}", run(folder)[0], re.MULTILINE)
