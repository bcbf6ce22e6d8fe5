"""What the client tells of the streams of models' inputs."""

import asyncio
import json
import re
from datetime import UTC, datetime

import hyperdraw
import pytest
from fastapi import FastAPI
from hyperdraw.__main__ import app as command_line
from hyperdraw.monitoring import read_monitor
from typer.testing import CliRunner

from tests.drift import draw_scores


def run(*arguments: str, code: int = 0) -> str:
    """What a command prints."""
    result = CliRunner().invoke(command_line, ["monitor", *arguments])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture
def changed(app: FastAPI, address: str) -> str:
    """The address of a service whose inputs have changed after 40."""
    digits = app.state.catalog.resolve("digits")
    app.state.monitor.reset(digits)
    app.state.monitor.measure(digits, draw_scores(digits, 40), 1)
    app.state.monitor.measure(digits, draw_scores(digits, 40, foreign=True), 2)
    return address


def test_a_client_tells_whether_inputs_have_changed(changed: str) -> None:
    with hyperdraw.Client(changed) as client:
        known = client.monitor()
        assert client.monitor("digits") == known
    assert (known.model.name, known.inputs, known.level) == ("digits", 80, 0.01)
    assert known.changed == ("out_of_distribution", "suspect_adversarial")
    flag = known.flags["out_of_distribution"]
    assert flag.alarm is not None
    assert 40 < flag.alarm.inputs < 50
    assert abs(flag.alarm.time - datetime.now(UTC)).total_seconds() < 600
    assert 0 < flag.lower < flag.share < flag.upper < 1
    assert (
        flag.flagged
        == round(80 * flag.share)
        == sum(part.shares["out_of_distribution"].flagged for part in known.history)
    )
    assert len(flag.counts) == len(known.rates) + 1
    assert max(part.highest_log10["out_of_distribution"] for part in known.history) >= 2
    assert known.classes is not None
    assert sum(own.inputs for own in known.classes) == 80


def test_a_watch_is_begun_anew(changed: str) -> None:
    async def reset() -> tuple[hyperdraw.Monitor, hyperdraw.Monitor]:
        async with hyperdraw.AsyncClient(changed) as client:
            return await client.monitor(), await client.reset_monitor("digits")

    before, after = asyncio.run(reset())
    assert (before.inputs, after.inputs, after.changed, after.history) == (80, 0, (), ())
    assert after.since > before.since


def test_the_terminal_tells_it_too(changed: str) -> None:
    text = run("digits", "--url", changed)
    title, first, second, classes = text.rstrip().split("\n\n")
    assert re.fullmatch(r"digits: 80 inputs since [-\d]+ [:\d]+", title)
    assert re.match(r"out of distribution: the inputs have changed; this was certain after 4\d of them, ", first)
    assert "at most 5.0% are expected while nothing changes" in first
    assert re.search(r"martingale 10\^[\d.]+, alarm at 100; 80 inputs were bet on", first)
    assert first.splitlines()[-1][-1] == "█"
    assert second.startswith("suspect adversarial: ")
    assert classes.splitlines()[0].split() == ["class", "predicted", "in", "the", "test", "set"]
    assert len(classes.splitlines()) == 11
    shown = json.loads(run("--url", changed, "--json"))
    assert shown["inputs"] == 80
    assert shown["flags"]["out_of_distribution"]["alarm"]["inputs"] > 40
    assert "there are no inputs so far" in run("digits", "--reset", "--url", changed)
    assert "--reset needs the name of a model" in run("--reset", "--url", changed, code=2)


def test_an_answer_that_cannot_be_read_is_told() -> None:
    with pytest.raises(hyperdraw.InvalidAnswer):
        read_monitor(b'{"model": {}}')
