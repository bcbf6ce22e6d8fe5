import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from models.checkpoint import load_checkpoint
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from tests.conftest import make_session
from tests.pictures import draw_image, encode
from training.__main__ import app
from training.data.datasets import load_digits
from training.evaluation.evaluation import evaluate_sets
from training.evaluation.evidence import Evidence, Origin, gather_evidence, load_evidence, save_evidence, trace_origin
from training.recipes.recipe import Part
from training.recipes.toys import digits_hypergan
from training.recipes.variation import vary
from training.runs.session import train
from training.studies.comparison import (
    compare,
    find_equivalent,
    format_comparison,
    measure_differences,
    measure_reference,
)
from training.studies.comparison_metrics import list_metrics

DIGITS = load_digits(Path())


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A deep ensemble of 4 with two seeds, and modes with one."""
    directory = tmp_path_factory.mktemp("compared")
    start = replace(
        digits_hypergan(),
        name="digits-deep-ensemble",
        steps=80,
        method=DeepEnsembleConfig(4),
        networks_per_step=4,
        own_epochs=True,
        learning_rates={"all": 3e-3},
        weight_decays={},
        moment_matching_weight=0.0,
        adversarial_weight=0.0,
        largest_ensemble=20,
    )
    rates = {"modes": 3e-3, "gains": 1e-3}
    modes = replace(start, name="digits-hyperdraw", method=HyperDrawConfig(4), learning_rates=rates)
    runs = [(start, 0), (start, 1), (vary(modes, extras=[Part.AUGMENTATION]), 0)]
    for recipe, seed in runs:
        train(make_session(directory / f"{recipe.name}-{seed}", steps=80, recipe=recipe, seed=seed))
    return [directory / f"{recipe.name}-{seed}" for recipe, seed in runs]


@pytest.fixture(scope="module")
def evidences(directories: list[Path]) -> list[Evidence]:
    outliers = {"noise": torch.randint(256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()}
    checkpoints = [load_checkpoint(directory) for directory in directories]
    return [
        gather_evidence(c, DIGITS, trace_origin(c, DIGITS, outliers), evaluate_sets(c, DIGITS, outliers))
        for c in checkpoints
    ]


def test_the_command_makes_a_table(directories: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    folder.mkdir()
    for size in range(5, 25):
        (folder / f"{size}.png").write_bytes(encode(draw_image(size=(size, 20))))
    arguments = ["compare", *map(str, directories), "--out", str(tmp_path / "out"), "--outliers", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.count("evaluating") == 3
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(row["method"], row["seeds"], row["networks"]) for row in found["rows"]] == [
        ("digits-deep-ensemble", [0, 1], 4),
        ("digits-hyperdraw --with augmentation", [0], 20),
    ]
    for row in found["rows"]:
        metrics = [load_checkpoint(d).metrics for d in directories if d.name.startswith(row["method"].split()[0])]
        whole = [m["ensembles"][-1] for m in metrics if m]
        assert row["figures"]["accuracy"]["mean"] == pytest.approx(sum(m["accuracy"] for m in whole) / len(whole))
        assert row["figures"]["NLL"]["mean"] == pytest.approx(sum(m["tempered"]["nll"] for m in whole) / len(whole))
        assert row["figures"]["AUGRC"]["mean"] == pytest.approx(sum(m["augrc"] for m in whole) / len(whole))
        coverage = sum(m["coverage_at_1_risk"] for m in whole) / len(whole)
        assert row["figures"]["coverage at 1% risk"]["mean"] == pytest.approx(coverage)
        assert {"shapes AUROC", "shapes flag AUROC"} <= row["figures"].keys()
    table = (tmp_path / "out" / "README.md").read_text()
    assert "| digits-deep-ensemble | 2 | 4 |" in table
    assert "equivalent in networks of digits-deep-ensemble" in table
    assert (tmp_path / "out" / "comparison.svg").read_text().startswith("<?xml")
    again = CliRunner().invoke(app, arguments)
    assert "evaluating" not in again.output  # the evidence was kept
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found


def test_what_cannot_be_compared(directories: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    copytree(directories[0], bare, ignore=ignore_patterns("calibration.json", "training"))
    for wrong, message in (
        ([directories[0], directories[0]], "digits-deep-ensemble, seed 0, like another checkpoint"),
        ([bare], "is missing; calibrate the checkpoint first"),
        ([tmp_path], "No such file"),
    ):
        result = CliRunner().invoke(app, ["compare", *map(str, wrong), "--out", str(tmp_path / "out")])
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())


def test_evidence_survives_its_file(evidences: list[Evidence], tmp_path: Path) -> None:
    assert load_evidence(tmp_path) is None
    save_evidence(tmp_path, evidences[0])
    loaded = load_evidence(tmp_path)
    assert loaded
    for name in ("origin", "method", "seed", "networks", "curves"):
        assert getattr(loaded, name) == getattr(evidences[0], name)
    assert torch.equal(loaded.log_probabilities, evidences[0].log_probabilities)
    for name in ("test", "noise"):
        assert torch.equal(loaded.entropies[name], evidences[0].entropies[name])
        assert torch.equal(loaded.flag_scores[name], evidences[0].flag_scores[name])
    assert torch.equal(loaded.members["validation"], evidences[0].members["validation"])


def test_evidence_is_of_a_version_and_of_sets() -> None:
    whole = Origin("a", {"test": "1", "letters": "2"})
    assert whole.covers(whole)
    assert whole.covers(Origin("a", {"test": "1"}))
    for other in (Origin("b", {"test": "1"}), Origin("a", {"test": "2"}), Origin("a", {"test": "1", "noise": "2"})):
        assert not whole.covers(other)


def test_a_method_does_not_differ_from_itself(evidences: list[Evidence]) -> None:
    metrics = list_metrics(["noise"])
    whole = {name: torch.arange(len(scores)) for name, scores in evidences[0].entropies.items()}
    intervals = measure_differences(metrics, evidences[:1], evidences[:1], DIGITS.test.labels, whole)
    for interval in intervals.values():
        assert (interval.difference, interval.low, interval.high) == (0, 0, 0)


def test_intervals_hold_the_difference(evidences: list[Evidence]) -> None:
    comparison = compare(evidences, {}, "digits", DIGITS, ["noise"])
    first, second = comparison.rows
    assert not first.differences
    for name, interval in second.differences.items():
        assert interval.difference == pytest.approx(second.figures[name].mean - first.figures[name].mean)
        assert interval.low <= interval.high
    accuracy = second.differences["accuracy"]
    assert accuracy.low <= accuracy.difference <= accuracy.high


@pytest.mark.parametrize(("own", "others"), [(3, 3), (2, 3), (5, 1)])
def test_intervals_are_of_trainings_too(
    own: int, others: int, evidences: list[Evidence], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings of both methods have random metrics of one mean, which 95 % of the intervals hold.

    Of 300 intervals, at least 270: fewer in less than one of 1,000 implementations that are right. Those of images
    alone, whatever the trainings are, would hold it in none. A method with a single training has no luck here.
    """
    monkeypatch.setattr("training.studies.comparison.RESAMPLES", 50)
    generator, held = torch.Generator().manual_seed(0), 0
    parts = [[replace(evidences[0], seed=100 * p + s) for s in range(k)] for p, k in enumerate((own, others))]
    for _ in range(300):
        values = torch.randn(200, generator=generator)
        values[100:] *= 2 if others > 1 else 0

        def metric(evidence: Evidence, *_: object, values: torch.Tensor = values) -> float:
            return float(values[evidence.seed])

        interval = measure_differences({"metric": metric}, parts[0], parts[1], DIGITS.test.labels, {})["metric"]
        held += interval.low <= 0 <= interval.high
    assert held >= 270


def test_a_table_says_which_method_has_one_training(evidences: list[Evidence]) -> None:
    table = " ".join(format_comparison(compare(evidences, {}, "digits", DIGITS, ["noise"])).split())
    assert "There is only one training of digits-hyperdraw --with augmentation: for these" in table


def test_the_reference_is_a_pool_of_all_seeds(evidences: list[Evidence]) -> None:
    curve = measure_reference(evidences[:2], DIGITS)
    assert len(curve) == 8
    assert curve[-1] < curve[0]


def test_equivalents_known_answers() -> None:
    curve = [0.4, 0.3, 0.32, 0.2]
    for nll, networks, sign in (
        (0.5, 1, "<"),
        (0.4, 1, "="),
        (0.35, 1.5, "="),
        (0.3, 2, "="),
        (0.1, 4, ">"),
        (0.2 - 1e-8, 4, "="),
    ):
        found = find_equivalent("method", curve, nll)
        assert found.networks == pytest.approx(networks)
        assert found.sign == sign
    assert find_equivalent("method", curve, 0.25).networks == pytest.approx(3.5)  # from the lowest so far, .3, to .2


def test_confident_errors_are_not_flattered(evidences: list[Evidence]) -> None:
    """A tenth of the answers is wrong by a thousand nats, in one method and in the pool of separate networks."""
    wrong = F.one_hot((DIGITS.test.labels + 1) % 10, 10).double()
    right = F.one_hot(DIGITS.test.labels, 10).double()
    chosen = (torch.arange(len(wrong)) % 10 == 0)[:, None]
    logs = (1000 * torch.where(chosen, wrong, right)).log_softmax(-1)
    whole = {"test": torch.arange(len(wrong))}
    sure = replace(evidences[0], log_probabilities=logs)
    assert list_metrics([])["NLL"](sure, DIGITS.test.labels, whole) == pytest.approx(100)
    pool = replace(evidences[0], members=evidences[0].members | {"test": logs.float().expand(4, -1, -1)})
    assert measure_reference([pool], DIGITS)[-1] > 50  # at the temperature of the true validation set
