"""The study of alarms of drift."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.predictions.detection import DEFAULT_RATE, RATES, find_rank
from models.predictions.drift import Bag, Floats, Martingale, count_gaps, find_bins
from training.__main__ import app
from training.studies.drift import (
    FOREIGN_SCORE,
    Detector,
    KolmogorovSmirnovDetector,
    MartingaleDetector,
    RateDetector,
    simulate,
)


def watch(detector: Detector, scores: Floats, size: int) -> list[int]:
    """Numbers of the inputs at which the blocks have their first alarms, of one stream."""
    found = []
    for start in range(0, scores.shape[1], size):
        first = detector.watch(scores[:1, start : start + size])
        found += (start + first[first >= 0]).tolist()
    return found


def make_scores(inputs: int, foreign: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Scores of a calibration and of a stream with foreign inputs, [1, n] and [1, B]."""
    random = np.random.default_rng(seed)
    scores = random.random((1, inputs))
    scores[random.random((1, inputs)) < foreign] = FOREIGN_SCORE
    return random.random((1, 999)), scores


@pytest.mark.parametrize("size", [50, 100, 1000])
def test_twice_the_rate_is_counted_in_a_sliding_window(size: int) -> None:
    known, scores = make_scores(1000, 0.06)
    flagged = scores[0] > np.sort(known[0])[find_rank(999, DEFAULT_RATE) - 1]
    ends = [end for end in range(200, 1001) if flagged[end - 200 : end].sum() > 20]
    assert ends
    expected = [next((end - 1 for end in ends if start < end <= start + size), -1) for start in range(0, 1000, size)]
    found = watch(RateDetector(known, np.random.default_rng(0), window=200), scores, size)
    assert found == [end for end in expected if end >= 0]


def test_the_kolmogorov_smirnov_distance_is_that_of_scipy() -> None:
    """Its p-value is that of the limiting distribution."""
    from scipy.stats import ks_2samp, kstwobign  # takes long to import

    for foreign, seed in ((0.02, 0), (0.08, 1), (0.1, 2)):
        known, scores = make_scores(1000, foreign, seed)
        distance = ks_2samp(known[0], scores[0], method="asymp").statistic
        p_value = kstwobign.sf(distance * np.sqrt(999 * 1000 / 1999))
        for level in (p_value * 1.001, p_value * 0.999):
            found = KolmogorovSmirnovDetector(known, np.random.default_rng(0), level=level).watch(scores)
            assert found.tolist() == [999 if level > p_value else -1]


def test_the_martingale_is_that_of_the_service() -> None:
    known, scores = make_scores(600, 0.1)
    thresholds = [float(np.sort(known[0])[find_rank(999, rate) - 1]) for rate in RATES]
    chances = np.random.default_rng(5).random((1, 600))[0]
    p_values = Bag(count_gaps(999, RATES, thresholds)).rank(find_bins(scores[0], thresholds), chances)
    values = Martingale(RATES).bet(p_values)
    found = MartingaleDetector(known, np.random.default_rng(5), level=0.01).watch(scores)
    assert found.tolist() == [int(np.flatnonzero(values >= 100)[0])]


def test_a_change_is_found_where_it_is() -> None:
    make = partial(MartingaleDetector, level=0.01)
    alarms = simulate(make, 2500, 2000, 6000, streams=20, random=np.random.default_rng(0))
    assert alarms.shape == (20,)
    assert (alarms >= 2000).sum() >= 18


def test_the_command_writes_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"CHANGES": (0, 1000), "PATIENCE": 3000, "SHARED_INPUTS": 2560}
    for name, value in names.items():
        monkeypatch.setattr(f"training.studies.drift.{name}", value)
    arguments = [
        "drift",
        "--out",
        str(tmp_path),
        "--streams",
        "60",
        "--inputs",
        "2000",
        "--calibration",
        "999",
        "--quiet",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "README.md").read_text().rstrip() == result.stdout.rstrip()
    study = json.loads((tmp_path / "drift.json").read_text())
    betting, *others = study["detectors"]
    assert betting["detector"] == "martingale, 1/δ = 100"
    assert betting["false_alarms"]["2000"] <= 5 / 60  # which is exceeded by chance once in 14,000 times
    assert [delay["change"] for delay in betting["delays"]] == [0, 1000]
    assert 0 < betting["delays"][1]["quantiles"][1] < 1500
    assert len(others) == 3
    assert study["sharing"].keys() == {"256", "16"}
    again = CliRunner().invoke(app, arguments)
    assert again.stdout == result.stdout
