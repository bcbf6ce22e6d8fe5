"""Labels that the client sends, and what it shows of them."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import hyperdraw
import numpy as np
import pytest
from hyperdraw.__main__ import app as command_line
from pydantic import SecretStr
from typer.testing import CliRunner

from service.app import create_app
from service.settings import Settings
from tests.checkpoints import save_curve
from tests.client.gateway import PICTURE, Ask
from tests.client.test_many_inputs import PICTURES
from tests.conftest import serve


@pytest.fixture
def keeping(checkpoints: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a service that keeps answers."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "digits").symlink_to(checkpoints / "digits")
    save_curve(tmp_path / "models" / "curve")
    place = SecretStr(str(tmp_path / "answers.sqlite"))
    settings = Settings(checkpoints=tmp_path / "models", default_model="digits", max_inputs=8, feedback=place)
    with serve(create_app(settings)) as address:
        yield address


def run(address: str, *arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(command_line, list(map(str, arguments)), env={"HYPERDRAW_URL": address})
    assert result.exit_code == code, result.output
    return result.output


def test_an_answer_of_several_requests_is_labelled_as_a_whole(ask: Ask, keeping: str) -> None:
    answer = ask(keeping, "predict", PICTURES)
    assert isinstance(answer, hyperdraw.Classification)
    assert answer.request_ids is not None
    assert len(set(answer.request_ids.tolist())) == -(-len(PICTURES) // 8)
    truth = np.where(np.arange(len(answer)) < 5, (answer.class_indices + 1) % 10, answer.class_indices)
    assert ask(keeping, "label", answer, truth) == hyperdraw.Labelling(len(answer), 0, ())
    again = ask(keeping, "label", answer[:2], [str(truth[0]), "none"])
    assert (again.recorded, again.repeated) == (0, 1)
    assert [(refusal.number, refusal.code) for refusal in again.refused] == [(1, "invalid_label")]
    found = ask(keeping, "feedback")
    assert (found.labels, found.model) == (len(answer), answer.model)
    assert found.accuracy.share == pytest.approx(1 - 5 / len(answer))
    assert found.accuracy.lower < found.accuracy.share < found.accuracy.upper
    assert found.coverage[0].promised > found.coverage[-1].promised
    assert ask(keeping, "feedback", "curve").accuracy is None


def test_one_answer_and_names_of_answers_are_labelled(ask: Ask, keeping: str) -> None:
    answer = ask(keeping, "predict", [PICTURE, PICTURE])
    assert ask(keeping, "label", answer[1], [3]).recorded == 1
    assert ask(keeping, "label", [(str(answer.request_ids[0]), 0)], ["3"]).recorded == 1
    numbers = ask(keeping, "predict", [[0.5], [1.5]], model="curve")
    assert ask(keeping, "label", numbers, [1.0, np.array([2.5])]).recorded == 2
    assert list(ask(keeping, "feedback", "curve").root_mean_square_error) == ["y"]


def test_more_labels_than_a_request_takes(keeping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperdraw.feedback.MOST_TOGETHER", 3)
    with hyperdraw.Client(keeping) as client:
        answer = client.predict(PICTURES[:8])
        found = client.label(answer, ["1", "x", "2", "3", "4", "5", "y", "6"])
    assert found.recorded == 6
    assert [refusal.number for refusal in found.refused] == [1, 6]


def test_mistakes(address: str, keeping: str) -> None:
    with hyperdraw.Client(address) as client:
        answer = client.predict(PICTURE)
        with pytest.raises(ValueError, match="there are 2 labels for 1 answers"):
            client.label(answer, [1, 2])
        with pytest.raises(hyperdraw.ServiceError, match="keeps no answers") as error:
            client.label(answer, [1])
        assert error.value.code == "feedback_off"
    with hyperdraw.Client(keeping) as client, pytest.raises(hyperdraw.NotFound, match="at that version"):
        client.feedback(version="0" * 64)


def test_a_table_of_answers_gets_its_truth_later(keeping: str, tmp_path: Path) -> None:
    for index in range(6):
        (tmp_path / f"{index}.png").write_bytes(PICTURE)
    table = tmp_path / "answers.csv"
    run(keeping, "predict", *sorted(tmp_path.glob("*.png")), "--out", table)
    assert "has no column truth" in run(keeping, "feedback", table, code=2)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for row, truth in zip(rows, [rows[0]["label"]] * 3 + ["nine", "", ""], strict=True):
        row["truth"] = truth
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    text = run(keeping, "feedback", table, code=1)
    assert "3 labels recorded." in text
    assert f"{rows[3]['request_id']}, input {rows[3]['request_index']}: The label must be the name of a class" in text
    assert "1 of 4 labels were refused" in text
    truth = f"{rows[4]['request_id']}:{rows[4]['request_index']}={rows[4]['label']}"
    assert run(keeping, "feedback", "--truth", truth, "--truth", truth) == "1 labels recorded, 1 known already.\n"
    shown = run(keeping, "feedback")
    assert "6 answers are kept, 4 of them with a label" in shown
    assert "accuracy 100.00% (" in shown
    assert "estimated from their confidence" in shown
    assert json.loads(run(keeping, "feedback", "--json"))["labels"] == 4


def test_the_table_of_a_review_is_sent_as_it_is(keeping: str, tmp_path: Path) -> None:
    with hyperdraw.Client(keeping) as client:
        answer = client.predict([PICTURE, PICTURE])
    assert answer.request_ids is not None
    table = tmp_path / "labels.csv"
    table.write_text(f"request_id,index,label\n{answer.request_ids[0]},0,3\n{answer.request_ids[1]},1,no digit\n")
    text = run(keeping, "feedback", table, code=1)
    assert "1 labels recorded." in text
    assert f"{answer.request_ids[1]}, input 1: The label must be the name of a class" in text


def test_numbers_on_the_command_line(keeping: str) -> None:
    with hyperdraw.Client(keeping) as client:
        answer = client.predict([[0.5]], model="curve")
    assert answer.request_ids is not None
    truth = f"{answer.request_ids[0]}:0=2.5"
    assert "The label must be 1 finite numbers" in run(keeping, "feedback", "--truth", truth, code=1)
    assert json.loads(run(keeping, "feedback", "--truth", truth, "--numbers", "--json"))["recorded"] == 1
    assert "root mean square error of y" in run(keeping, "feedback", "--model", "curve")
    assert "neither a number nor" in run(keeping, "feedback", "--truth", f"{truth}x", "--numbers", code=2)
    assert "is not like ID:INDEX=LABEL" in run(keeping, "feedback", "--truth", "abc=1", code=2)
