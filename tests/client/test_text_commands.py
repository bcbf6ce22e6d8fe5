"""The commands that write and score texts."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hyperdraw
import pytest
from fastapi import FastAPI
from hyperdraw import text_commands
from hyperdraw.__main__ import app as command_line
from hyperdraw.text_terminal import GATES, find_surprises
from rich.console import Console
from typer.testing import CliRunner

from tests.waiting import wait_until

ASKED = ["--tokens", "40", "--seed", "7", "--temperature", "2"]


def run(address: str, *arguments: str, code: int = 0, **options: Any) -> str:
    """What a command prints, or what it says if it fails."""
    result = CliRunner().invoke(command_line, arguments, env={"HYPERDRAW_URL": address}, **options)
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture
def _coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the output a terminal of 24 columns with colours."""
    make = lambda: Console(force_terminal=True, color_system="truecolor", width=24, highlight=False)  # noqa: E731
    monkeypatch.setattr(text_commands, "make_console", make)


def write(address: str, model: str = "hyper", **parameters: Any) -> tuple[str, list[hyperdraw.Symbol]]:
    with hyperdraw.Client(address) as client:
        symbols = list(client.generate(model, max_tokens=40, seed=7, temperature=2, **parameters))
    return "".join(symbol.text for symbol in symbols), symbols


@pytest.mark.parametrize("model", ["hyper", "lstm"])
def test_a_pipe_gets_the_text_alone(text_address: str, model: str) -> None:
    text, _ = write(text_address, model, prompt="ab")
    assert run(text_address, "write", model, "--prompt", "ab", *ASKED) == text
    end = text[20]
    written = run(text_address, "write", model, "--prompt", "ab", "--stop", end, "--stop", "never", *ASKED)
    assert written == text.partition(end)[0]


def remove_colours(shown: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", shown)


@pytest.mark.usefixtures("_coloured")
def test_squares_show_how_weights_change(text_address: str) -> None:
    shown = run(text_address, "write", "hyper", "--prompt", "ab", *ASKED)
    text, symbols = write(text_address, prompt="ab", changes=True)
    lines = iter(shown.splitlines())
    expected: list[list[Any]] = [[(" ", None)] * 0]
    for character, changes in [("a", None), ("b", None), *((symbol.text, symbol.changes) for symbol in symbols)]:
        if len(expected[-1]) == 23:
            expected.append([])
        expected[-1].append((character, changes))
        if character == "\n":
            expected.append([])
    largest = [0.0] * 4
    count = 0
    for line in expected:
        if not line:
            continue
        assert remove_colours(next(lines)) == "".join(character for character, _ in line).rstrip("\n")
        largest = [max(most, *(c[gate] for _, c in line if c)) for gate, most in enumerate(largest)]
        if len(line) == 1:
            continue
        for gate, colour in enumerate(GATES):
            row = next(lines)
            assert len(remove_colours(row)) == len(line)
            found = re.findall(r"\x1b\[48;2;(\d+);(\d+);(\d+)m( +)", row)
            cells = [tuple(map(int, cell[:3])) for cell in found for _ in cell[3]]
            shares = [changes[gate] / largest[gate] if changes else 0.0 for _, changes in line]
            for cell, share in zip(cells, shares, strict=True):
                assert cell == pytest.approx([share * part for part in colour], abs=1)
            count += max(shares) == 1
    assert count >= len(GATES)  # each gate's largest change has the full colour
    assert remove_colours(next(lines)) == "2 networks of hyper, seed 7"
    assert not text.startswith("ab")


@pytest.mark.usefixtures("_coloured")
def test_terminals_get_text_without_squares_too(text_address: str) -> None:
    text, _ = write(text_address, "lstm")
    shown = remove_colours(run(text_address, "write", "lstm", *ASKED))
    *lines, origin = shown.splitlines()
    assert "".join(lines) == text.replace("\n", "")
    assert origin == "1 network of lstm, seed 7"
    plain = run(text_address, "write", "hyper", "--plain", *ASKED)
    assert plain == write(text_address)[0].rstrip("\n") + "\n"


def test_unknown_characters_of_a_prompt_are_said(text_address: str) -> None:
    result = CliRunner().invoke(
        command_line, ["write", "hyper", "--prompt", "aé", *ASKED], env={"HYPERDRAW_URL": text_address}
    )
    assert (result.exit_code, len(result.stdout)) == (0, 40)
    assert result.stderr == "Warning: the model does not know characters of the prompt: 'é' (U+00E9)\n"


def test_an_interrupt_ends_the_work(text_address: str, text_app: FastAPI) -> None:
    command = [sys.executable, "-m", "hyperdraw", "write", "hyper", "--tokens", "10000", "--url", text_address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        written, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, b"")
    assert len(written) < 9_999
    wait_until(lambda: text_app.state.engine.streams.count()["hyper"] == 0)


TEXT = "abcd abcd\n" * 12 + "ç\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_bytes(TEXT.replace("\n", "\r\n").encode("utf-8-sig"))
    return str(tmp_path / "text.txt")


def test_a_file_is_scored(text_address: str, file: str) -> None:
    with hyperdraw.Client(text_address) as client:
        score = client.score("hyper", TEXT, seed=7)
    lines = run(text_address, "score", "hyper", file, "--seed", "7").splitlines()
    assert lines[0] == f"{file}: 122 characters"
    assert lines[1] == f"surprisal: {score.bits:,.1f} bits, {score.bits_per_character:.4g} bits per character"
    assert f"{score.disagreement:.3g} are disagreement" in lines[2]
    foreign = next(i for i, line in enumerate(lines) if line.startswith("foreign: "))
    assert re.fullmatch(r"foreign: \d+ of 12 passages of 10 .*surprisal above 2.89 bits.*alarms 0.05\)", lines[foreign])
    excerpts = [line.split(maxsplit=3) for line in lines[4:foreign]]
    assert 2 <= len(excerpts) <= 3
    values = [float(value) for value, *_ in excerpts]
    assert values == sorted(values, reverse=True)
    assert values[0] > score.bits_per_character
    assert score.foreign is not None
    flagged = sorted((passage.value for passage in score.foreign.passages if passage.foreign), reverse=True)
    assert lines[foreign].split()[1] == str(len(flagged))
    assert [line.split()[0] for line in lines[foreign + 1 : -2]] == [f"{value:.2f}" for value in flagged[:5]]
    assert lines[-2] == "characters that the model does not know: 'ç' (U+00E7)"
    assert lines[-1] == "2 networks of hyper, seed 7"
    shown = json.loads(run(text_address, "score", "hyper", "-", "--seed", "7", "--json", input=TEXT))
    assert (shown["file"], shown["bits"], shown["unknown"]) == ("-", pytest.approx(score.bits, rel=1e-4), ["ç"])
    assert "".join(token["text"] for token in shown["tokens"]) == TEXT
    assert [round(excerpt["bits_per_character"], 2) for excerpt in shown["surprises"]] == values
    lax = run(text_address, "score", "hyper", file, "--seed", "7", "--false-alarm-rate", "0.2")
    assert "foreign: 12 of 12 passages of 10 characters (surprisal above 0 bits per character, false alarms 0.2)" in lax
    lines = run(text_address, "score", "lstm", "-", input="a").splitlines()
    assert lines[0] == "-: 1 character"
    assert len(lines) == 4


@pytest.mark.usefixtures("_coloured")
def test_the_more_surprising_the_redder(text_address: str, file: str) -> None:
    shown = run(text_address, "score", "hyper", file, "--seed", "7")
    with hyperdraw.Client(text_address) as client:
        first = client.score("hyper", TEXT, seed=7).tokens[0]
    red, green, blue, character = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+)m([^\x1b])", shown)[0]
    assert int(red) == pytest.approx(128 + 12.7 * first.bits, abs=1)
    assert (green, character) == (blue, "a")
    assert int(green) == pytest.approx(128 - 12.8 * first.bits, abs=1)
    assert re.search(r"\x1b\[7;38;2;[\d;]+mç", shown)
    assert remove_colours(shown).startswith(TEXT)


def test_the_most_surprising_passages() -> None:
    def make(text: str, bits: float) -> list[hyperdraw.Symbol]:
        return [hyperdraw.Symbol(character, 0.5, bits, 0.0, 0.0) for character in text]

    dull = make("." * 99 + "\n", 1.0)
    tokens = [*dull, *make("x" * 40, 9.0), *dull, *make("y" * 40, 5.0), *dull]
    first, second, *rest = find_surprises(tokens)
    assert (first.line, first.bits_per_character, first.text) == (2, 9.0, "x" * 40)
    assert (second.line, second.bits_per_character, second.text) == (3, 5.0, "y" * 40)
    assert [passage.bits_per_character for passage in rest] == [1.0] * 3
    assert find_surprises(tokens[:79]) == []
    assert len(find_surprises(make("a" * 80, 1.0))) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["write", "people"], 1, "people is not a model of sequences"),
        (["write", "nobody"], 1, "no model 'nobody'"),
        (["write", "hyper", "--temperature", "11"], 1, "temperature"),
        (["write", "hyper", "--tokens", "0"], 2, "--tokens"),
        (["write", "hyper", "--tokens", "1000000000"], 1, "max_tokens"),
        (["write", "hyper", "--prompt", "\udcff"], 2, "surrogates"),
        (["score", "hyper", "/dev/null"], 2, "/dev/null is empty"),
        (["score", "hyper", "/dev/zero"], 2, "larger than 1 MiB"),
        (["score", "hyper", "/"], 1, "Is a directory"),
        (["score", "hyper", "nowhere"], 1, "No such file"),
        (["score", "hyper", sys.executable], 2, "is not text in UTF-8"),
        (["score", "hyper", __file__, "--false-alarm-rate", "0.5"], 1, "0.5 was not calibrated"),
        (["score", "people", __file__], 1, "people is not a model of sequences"),
    ],
)
def test_mistakes_are_explained(
    text_address: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.setattr(text_commands, "_LARGEST_FILE", 2**20 if "zero" in arguments[-1] else 2**26)
    said = run(text_address, *arguments, code=code)
    assert message in " ".join(said.replace("│", "").split())
    assert "Traceback" not in said
