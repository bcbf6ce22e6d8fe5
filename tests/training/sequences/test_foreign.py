"""Telling foreign text from usual text."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models.checkpoint_files import CheckpointError
from models.sequences.checkpoint import load_sequence_checkpoint, save_sequence_checkpoint
from tests.sequences import HYPER, SPEC, describe, make_sampler
from training.__main__ import app
from training.data.text import load_text
from training.sequences.calibration import measure_false_alarms
from training.sequences.foreign import measure_passages, score_passages, shuffle_letters, shuffle_words


def test_shuffled_texts_have_the_same_words_and_letters() -> None:
    text = "the cat sat\non the mat\n"
    words, letters = shuffle_words(text), shuffle_letters(text)
    assert words != text
    assert sorted(words.split()) == sorted(text.split())
    assert [line.count(" ") for line in words.split("\n")] == [2, 2, 0]
    assert letters != text
    assert [sorted(word) for word in letters.split(" ")] == [sorted(word) for word in text.split(" ")]


def test_each_passage_is_read_as_a_text_of_its_own() -> None:
    sampler = make_sampler(HYPER, 3)
    latents = sampler.draw_latents(0, range(3))
    text = torch.randint(SPEC.num_inputs, (250,), generator=torch.Generator().manual_seed(0))
    two, three = score_passages(sampler, latents, SPEC.start_number, text, [2, 3], "")
    assert two.member_surprisal.shape == (2, 200)
    torch.testing.assert_close(three.member_surprisal[:2], two.member_surprisal)
    second = torch.cat([torch.tensor([SPEC.start_number]), text[100:199]])
    logits, _ = sampler(second[:, None].repeat(1, 3), latents)
    expected = -logits.log_softmax(-1).gather(-1, text[100:200, None, None].expand(-1, 3, 1))[..., 0].T
    torch.testing.assert_close(three.member_surprisal[:, 100:], expected)
    found = measure_passages(three)
    torch.testing.assert_close(found["surprisal of one network"][1], expected[0].mean() / math.log(2))
    assert all(len(values) == 2 for values in found.values())


def test_the_command_compares_with_files(tmp_path: Path) -> None:
    own, other = tmp_path / "own.txt", tmp_path / "other.txt"
    own.write_text("abc d\n" * 2_000 + "\N{SNOWMAN}")
    other.write_text("dddd ñ\n" * 100)
    sampler = make_sampler(HYPER, 2).float()
    config = describe(sampler)
    save_sequence_checkpoint(tmp_path / "model", config, sampler, "float32")
    assert load_text(own).spec == config.input
    command = ["foreign-text", str(tmp_path / "model"), "--quiet", "--json", "--text", f"others={other}"]
    done = CliRunner().invoke(app, [*command, "--data", str(own)])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["passages"] == {
        "test split": 6,
        "its words, shuffled": 6,
        "its words' letters, shuffled": 6,
        "others": 7,
    }
    assert set(report["aurocs"]) == set(report["passages"]) - {"test split"}
    assert set(report["aurocs"]["others"]) == {"surprisal of one network", "surprisal", "entropy", "disagreement"}
    refused = CliRunner().invoke(app, [*command, "--data", str(other)])
    assert refused.exit_code == 1
    assert "at least 10000 are needed" in refused.output


@pytest.mark.parametrize("text", ["spanish", "=x", "x="])
def test_a_text_needs_a_name_and_a_file(tmp_path: Path, text: str) -> None:
    done = CliRunner().invoke(app, ["foreign-text", str(tmp_path), "--text", text])
    assert done.exit_code == 2
    assert "is not NAME=FILE" in done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and a calibrated model that never learned from it."""
    folder = tmp_path_factory.mktemp("calibrated")
    draw = np.random.default_rng(0)
    (folder / "own.txt").write_text("".join(draw.choice(["abc d\n", "dad cab\n", "ab\n"], 8_000)) + "\N{SNOWMAN}")
    sampler = make_sampler(HYPER, 2, 1).float()
    save_sequence_checkpoint(folder / "model", describe(sampler), sampler, "float32")
    options = ["--data", str(folder / "own.txt"), "--quiet"]
    done = CliRunner().invoke(app, ["calibrate", str(folder / "model"), *options])
    assert done.exit_code == 0, done.output
    return folder


class TestCalibration:
    def test_thresholds_are_exceeded_as_often_as_they_may_be(self, folder: Path) -> None:
        checkpoint = load_sequence_checkpoint(folder / "model")
        calibration, text = checkpoint.calibration, load_text(folder / "own.txt")
        assert calibration is not None
        assert [size.ensemble_size for size in calibration.sizes] == [1, 2]
        assert calibration.sizes[0].score == "surprisal"
        assert calibration.n == len(text.calibration) // 100
        assert list(calibration.sizes[1].thresholds) == sorted(calibration.sizes[1].thresholds, reverse=True)
        # 23 passages: with a budget of 5 %, more than 5 alarms have a probability of .1 %
        assert measure_false_alarms(checkpoint, calibration, text) <= 5 / 23

    def test_evaluation_states_the_measured_rate(self, folder: Path) -> None:
        done = CliRunner().invoke(
            app, ["evaluate", str(folder / "model"), "--data", str(folder / "own.txt"), "--quiet", "--json"]
        )
        assert done.exit_code == 0, done.output
        metrics = json.loads(done.stdout)
        assert 0 <= metrics["share of test passages flagged as foreign, budget 5%"] <= 5 / 23
        assert load_sequence_checkpoint(folder / "model").metrics == metrics

    def test_surprising_passages_are_flagged(self, folder: Path) -> None:
        calibration = load_sequence_checkpoint(folder / "model").calibration
        assert calibration is not None
        usual = torch.full((250,), calibration.sizes[1].thresholds[-1] - 0.1, dtype=torch.float64)
        usual[100:200] += 1
        judged = calibration.judge({"surprisal": usual, "disagreement": usual}, 2, 0.2)
        assert judged is not None
        assert judged.flagged.tolist() == [False, True]
        assert judged.rate == 0.2
        assert calibration.judge({"surprisal": usual, "disagreement": usual}, 3) is None
        with pytest.raises(ValueError, match=r"a false-alarm rate of 0\.0001 was not calibrated"):
            calibration.judge({"surprisal": usual, "disagreement": usual}, 2, 0.0001)

    def test_a_calibration_of_other_weights_is_refused(self, folder: Path, tmp_path: Path) -> None:
        sampler = make_sampler(HYPER, 2, 2).float()
        save_sequence_checkpoint(tmp_path, describe(sampler), sampler, "float32")
        (tmp_path / "calibration.json").write_bytes((folder / "model" / "calibration.json").read_bytes())
        with pytest.raises(CheckpointError, match="was measured for a different checkpoint"):
            load_sequence_checkpoint(tmp_path)
