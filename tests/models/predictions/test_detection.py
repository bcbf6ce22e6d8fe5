import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from models.checkpoint_files import dump_json
from models.inputs.vector import VectorSpec
from models.predictions.calibration_origin import Seeds
from models.predictions.detection import (
    CALIBRATED_SIZES,
    Calibration,
    check_calibration,
    conformal_quantile,
    list_scores,
)
from models.predictions.prediction import Outputs, ScoreName, interpret
from models.predictions.size_calibration import ClassCalibration, SizeCalibration
from models.tasks.classification import Classification
from models.tasks.kind import Flag
from models.tasks.regression import Regression
from tests.calibrations import SPEC, TASK, draw_logits, make_calibration
from training.evaluation.calibration import calibrate


def test_conformal_quantile_known_answers() -> None:
    scores = torch.arange(1.0, 20.0)[torch.randperm(19, generator=torch.Generator().manual_seed(0))]
    assert conformal_quantile(scores, 0.05) == 19  # rank ⌈20 · .95⌉
    assert conformal_quantile(scores, 0.5) == 10
    with pytest.raises(ValueError, match="too few"):
        conformal_quantile(scores[:18], 0.05)


def test_realised_false_alarms_do_not_exceed_the_budget() -> None:
    """Over draws of the calibration set, the mean false-alarm rate is (n + 1 − rank) / (n + 1) exactly."""
    generator = torch.Generator().manual_seed(0)
    n, trials = 99, 2000
    thresholds = [conformal_quantile(torch.rand(n, generator=generator), 0.1) for _ in range(trials)]
    rate = sum(1 - t for t in thresholds) / trials  # uniform scores: the share above t is 1 − t
    # The rate of one trial has a standard deviation of .03; the bound is 6 standard errors.
    assert rate == pytest.approx(0.1, abs=6 * 0.03 / trials**0.5)


def test_thresholds_flag_their_share_of_the_calibration_inputs(calibration: Calibration) -> None:
    assert [size.ensemble_size for size in calibration.sizes] == [*range(1, 21), 25]
    assert calibration.rates == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    assert calibration.n == 999
    outputs = Outputs(draw_logits(25, 999), draw_logits(25, 999, seed=2))
    for size in (1, 2, 5, 10, 25):
        prediction = interpret(TASK, outputs.prefix(size))
        for rate in calibration.rates:
            for judgement in calibration.judge(prediction, rate).values():
                assert judgement.flagged.sum() == round(1000 * rate) - 1  # rank ⌈1000 (1 − rate)⌉
                assert judgement.false_alarm_rate == rate
                assert judgement.ensemble_size == size


def test_the_largest_size_that_fits_is_used(calibration: Calibration) -> None:
    sizes = [calibration.for_size(size).ensemble_size for size in (1, 4, 20, 21, 24, 25, 1000)]
    assert sizes == [1, 4, 20, 20, 20, 25, 25]
    alone = make_calibration(networks=1)
    assert [size.ensemble_size for size in alone.sizes] == [1]
    assert [size.ensemble_size for size in make_calibration(n=9, networks=103).sizes] == [*CALIBRATED_SIZES, 103]


def test_between_and_beyond_calibrated_sizes_the_first_networks_judge() -> None:
    """Of every size up to 104: flags and sets are those of the largest calibrated number of networks."""
    calibration = make_calibration(n=199, networks=100)
    assert len({size.classes.temperature for size in calibration.sizes if size.classes}) == len(calibration.sizes)
    outputs = Outputs(draw_logits(104, 50, seed=5), draw_logits(20, 50, seed=6))
    for networks in range(1, 105):
        prediction = interpret(TASK, outputs.prefix(networks))
        judging = max(size for size in CALIBRATED_SIZES if size <= networks)
        first = interpret(TASK, outputs.prefix(judging))
        own = {size.ensemble_size: size for size in calibration.sizes}[judging]
        assert own.classes
        assert calibration.temperature_for(networks) == own.classes.temperature
        tempered = calibration.temper(prediction.log_probabilities, networks).exp()
        powers = prediction.log_probabilities.exp() ** (1 / own.classes.temperature)
        torch.testing.assert_close(tempered, powers / powers.sum(-1, keepdim=True))
        for flag, judgement in calibration.judge(prediction, 0.2).items():
            assert judgement.ensemble_size == judging
            assert judgement.threshold == own.thresholds[flag][-1]
            assert judgement.scores.equal(first.score(judgement.score_name))
            assert judgement.flagged.equal(judgement.scores > judgement.threshold)
        sets, of_first = (calibration.choose_sets(p, 0.8).members for p in (prediction, first))
        best = F.one_hot(prediction.probabilities.argmax(-1), 4).bool()
        assert (sets | of_first).equal(sets)
        assert sets.equal(of_first | best)


def draw_exchangeable(inputs: int, networks: int, generator: torch.Generator) -> Tensor:
    """Logits of inputs that are each judged by a seed of their own: what inputs, seeds and networks add is random."""
    of_inputs = torch.randn(1, inputs, 3, generator=generator) * torch.rand(1, inputs, 1, generator=generator) * 4
    of_seeds = 0.5 * torch.randn(1, inputs, 3, generator=generator)
    return of_inputs + of_seeds + 1.5 * torch.randn(networks, inputs, 3, generator=generator)


def test_every_ensemble_size_keeps_its_budget() -> None:
    """Realised false alarms of both scores, and misses of sets, for each calibrated size; others are judged by these.

    The mean over the calibrations is bounded by 5 standard errors around the budget. 87 means that keep it exactly
    leave these bounds in fewer than one of 10,000 implementations that are right.
    """
    task, generator = Classification(("a", "b", "c")), torch.Generator().manual_seed(0)
    n, fresh, trials = 399, 400, 12
    names: dict[Flag, tuple[ScoreName, ...]] = {
        "out_of_distribution": ("predictive_entropy",),
        "suspect_adversarial": ("mutual_information",),
    }

    def draw(count: int) -> tuple[Outputs, Tensor]:
        logits = draw_exchangeable(count, 100, generator)
        labels = logits.mean(0).softmax(-1).multinomial(1, generator=generator)[:, 0]
        return Outputs(logits, None), labels

    validation = "validation", *draw(200)
    shares = {name: torch.zeros(len(CALIBRATED_SIZES)) for name in (*names, "missed")}
    for _ in range(trials):
        outputs, labels = draw(n)
        calibration = calibrate(
            checkpoint="0" * 64,
            split="test/calibration",
            seeds=range(n),
            scores=names,
            task=task,
            outputs=outputs,
            labels=labels,
            foreign=None,
            validation=validation,
        )
        outputs, labels = draw(fresh)
        for number, size in enumerate(CALIBRATED_SIZES):
            prediction = interpret(task, outputs.prefix(size))
            for flag, judgement in calibration.judge(prediction, 0.05).items():
                shares[flag][number] += judgement.flagged.float().mean() / trials
            covered = calibration.choose_sets(prediction, 0.95).members.gather(1, labels[:, None])
            shares["missed"][number] += (~covered).float().mean() / trials
    error = math.sqrt(0.05 * 0.95 * (1 / n + 1 / fresh) / trials)
    for name, realised in shares.items():
        assert realised.max() <= 0.05 + 5 * error, (name, realised)
    assert shares["out_of_distribution"].min() > 0.05 - 5 * error
    assert shares["suspect_adversarial"][1:].min() > 0.05 - 5 * error
    assert shares["suspect_adversarial"][0] == 0  # one network has nobody to disagree with


def test_files_of_earlier_versions_are_read(calibration: Calibration) -> None:
    """Theirs list the seeds, and hold few sizes; ensembles in between are judged by their first networks, too."""
    content = json.loads(dump_json(calibration))
    assert content["seeds"] == {"first": 1, "count": 999}
    content["seeds"] = list(range(1, 11))
    content["sizes"] = [size for size in content["sizes"] if size["ensemble_size"] in (1, 2, 5)]
    old = TypeAdapter(Calibration).validate_json(json.dumps(content))
    assert old.seeds == Seeds(1, 10)
    for wrong in ([], ["x"], [-1]):
        with pytest.raises(ValidationError, match="seeds"):
            TypeAdapter(Calibration).validate_json(json.dumps(content | {"seeds": wrong}))
    prediction = interpret(TASK, Outputs(draw_logits(4, 50), draw_logits(4, 50)))
    for flag, judgement in old.judge(prediction).items():
        assert judgement.ensemble_size == 2
        assert judgement.scores.equal(prediction.prefix(2).score(judgement.score_name))
        assert judgement.threshold == calibration.sizes[1].thresholds[flag][5]
    new = TypeAdapter(Calibration).validate_json(dump_json(calibration))
    assert new == calibration
    assert new.seeds == Seeds(1, 999)


def test_rates_between_the_calibrated_ones_are_kept(calibration: Calibration) -> None:
    found = [calibration.rates[calibration.find_rate(rate)] for rate in (0.001, 0.0049, 0.05, 0.0501, 0.2)]
    assert found == [0.001, 0.002, 0.05, 0.05, 0.2]
    found = [1 - calibration.rates[calibration.find_coverage(coverage)] for coverage in (0.999, 0.95, 0.94, 0.8)]
    assert found == [0.999, 0.95, 0.95, 0.8]
    for rate in (0.0009, 0.21, 1.0):
        with pytest.raises(ValueError, match=f"a false-alarm rate of {rate:g} was not calibrated"):
            calibration.find_rate(rate)
    for coverage in (0.9991, 0.79):
        with pytest.raises(ValueError, match=f"a coverage of {coverage:g} was not calibrated"):
            calibration.find_coverage(coverage)


def test_few_inputs_calibrate_few_rates() -> None:
    assert make_calibration(n=19).rates == (0.05, 0.1, 0.2)
    few = make_calibration(n=9)
    assert few.rates == (0.1, 0.2)
    judgements = few.judge(interpret(TASK, Outputs(draw_logits(5, 3), draw_logits(5, 3))))
    assert {judgement.false_alarm_rate for judgement in judgements.values()} == {0.1}
    with pytest.raises(ValueError, match=r"3 inputs are too few to calibrate with; the largest rate, 0\.2, needs 4"):
        make_calibration(n=3)


@pytest.mark.parametrize("sizes", [[5, 10], [1, 10, 5], [1, 1]])
def test_ensemble_sizes_must_grow_from_one(sizes: list[int], calibration: Calibration) -> None:
    parts = tuple(replace(calibration.sizes[0], ensemble_size=size) for size in sizes)
    with pytest.raises(ValidationError, match="ensemble sizes must increase from 1"):
        replace(calibration, sizes=parts)


def test_a_calibration_must_be_whole(calibration: Calibration) -> None:
    first = calibration.sizes[0]
    with pytest.raises(ValidationError, match="rates must increase"):
        replace(calibration, rates=calibration.rates[::-1])
    with pytest.raises(ValidationError, match="one number for each of 8 rates"):
        replace(calibration, sizes=(replace(first, classes=ClassCalibration(1.0, (0.5,))),))
    with pytest.raises(ValidationError, match="thresholds for out_of_distribution, suspect_adversarial"):
        replace(calibration, sizes=(SizeCalibration(1, first.scores, {}, first.classes),))


def test_a_calibration_must_fit_its_sampler(calibration: Calibration) -> None:
    check_calibration(calibration, TASK, SPEC, None)
    check_calibration(calibration, TASK, SPEC, 25)
    with pytest.raises(ValueError, match="calibrates ensembles of 25 networks, but the sampler has only 9"):
        check_calibration(calibration, TASK, SPEC, 9)
    regression = Regression(names=("y",), mean=(0.0,), std=(1.0,), noise_std=(1.0,))
    with pytest.raises(
        ValueError, match="calibrates out_of_distribution, suspect_adversarial instead of out_of_distribution"
    ):
        check_calibration(calibration, regression, SPEC, None)
    by_energy = tuple(replace(s, scores={**s.scores, "out_of_distribution": "energy"}) for s in calibration.sizes)
    with pytest.raises(ValueError, match="raised by predictive_entropy or mutual_information, not by energy"):
        check_calibration(replace(calibration, sizes=by_energy), TASK, SPEC, None)
    without_classes = tuple(replace(size, classes=None) for size in calibration.sizes)
    with pytest.raises(ValueError, match="temperatures and prediction sets"):
        check_calibration(replace(calibration, sizes=without_classes), TASK, SPEC, None)


DISAGREEING = F.one_hot(torch.randint(4, (25, 300), generator=torch.Generator().manual_seed(3)), 4) * 3.0
"""Each network is sure of another class."""

UNDECIDED = torch.zeros(25, 300, 4)
"""All networks agree that they do not know."""


@pytest.mark.parametrize(("foreign", "score"), [(DISAGREEING, "mutual_information"), (UNDECIDED, "predictive_entropy")])
def test_a_flag_is_raised_by_what_tells_foreign_images_best(foreign: Tensor, score: ScoreName) -> None:
    """One score for all sizes, but for 1: a network alone has nobody to disagree with."""
    first, *others = (size.scores for size in make_calibration(foreign=Outputs(foreign, foreign)).sizes)
    assert first == {"out_of_distribution": "predictive_entropy", "suspect_adversarial": "fragility"}
    assert all(scores == {"out_of_distribution": score, "suspect_adversarial": "fragility"} for scores in others)


def test_without_foreign_images_a_flag_is_raised_by_the_first_score() -> None:
    assert {*(size.scores["out_of_distribution"] for size in make_calibration().sizes)} == {"predictive_entropy"}


def test_the_calibration_split_has_no_say_in_the_score() -> None:
    """Its networks disagree, and so mutual information would not tell it from what is foreign."""
    usual, foreign = draw_logits(25, 300, seed=4), Outputs(DISAGREEING, DISAGREEING)
    validation = "test/validation", Outputs(usual, usual), torch.zeros(300).long()
    chosen = []
    for plain in (usual, UNDECIDED, DISAGREEING):
        calibration = calibrate(
            checkpoint="0" * 64,
            split="test/calibration",
            seeds=range(300),
            scores=list_scores(TASK, SPEC),
            task=TASK,
            outputs=Outputs(plain, plain),
            labels=torch.zeros(300).long(),
            foreign=foreign,
            validation=validation,
        )
        chosen.append(calibration.sizes[-1].scores)
    assert chosen[0]["out_of_distribution"] == "mutual_information"
    assert chosen == chosen[:1] * 3


def test_flags_are_judged_by_the_score_of_their_ensemble_size(calibration: Calibration) -> None:
    of_ten = replace(
        calibration.for_size(10), scores={**calibration.sizes[0].scores, "out_of_distribution": "mutual_information"}
    )
    mixed = replace(calibration, sizes=(calibration.sizes[0], of_ten))
    prediction = interpret(TASK, Outputs(draw_logits(12, 50), draw_logits(12, 50)))
    judgement = mixed.judge(prediction)["out_of_distribution"]
    assert judgement.score_name == "mutual_information"
    assert judgement.scores.equal(prediction.prefix(10).score("mutual_information"))


def test_fragility_is_what_noise_takes_from_the_answer() -> None:
    plain = torch.log(torch.tensor([[[0.7, 0.2, 0.05, 0.05]], [[0.9, 0.0001, 0.0499, 0.05]]]))
    jittered = torch.log(torch.tensor([[[0.3, 0.6, 0.05, 0.05]]]))
    of_one = interpret(TASK, Outputs(plain, jittered))
    assert of_one.score("fragility").item() == pytest.approx(0.7 - 0.3)
    both = torch.cat([jittered, plain[1:]])
    assert interpret(TASK, Outputs(plain, both)).score("fragility").item() == pytest.approx(0.8 - 0.6)
    assert interpret(TASK, Outputs(plain, plain)).score("fragility").item() == pytest.approx(0)


@pytest.mark.parametrize("part", ["plain", "jittered"])
def test_nonsense_is_never_certain(part: str) -> None:
    logits = {"plain": draw_logits(3, 5), "jittered": draw_logits(3, 5)}
    logits[part][1, 2, 3] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        interpret(TASK, Outputs(**logits))


def test_calibration_of_a_regression() -> None:
    """The score is the members' standard deviation, in units of the output's own."""
    spread = torch.arange(1.0, 101.0)[:, None]
    task = Regression(names=("y",), mean=(5.0,), std=(4.0,), noise_std=(1.0,))
    outputs = Outputs(spread / 2 * torch.tensor([-1.0, 1.0])[:, None, None], None)
    calibration = calibrate(
        checkpoint="0" * 64,
        split="test/calibration",
        seeds=range(100),
        scores={"out_of_distribution": ("relative_deviation",)},
        task=task,
        outputs=outputs,
        labels=torch.zeros(100, 1),
        foreign=None,
        validation=None,
    )
    assert [size.ensemble_size for size in calibration.sizes] == [1, 2]
    index = calibration.find_rate(0.1)
    assert calibration.sizes[0].thresholds["out_of_distribution"][index] == 0
    assert calibration.sizes[1].thresholds["out_of_distribution"][index] == pytest.approx(91 / 2)  # rank ⌈101 · .9⌉
    judgement = calibration.judge(interpret(task, outputs), 0.1)["out_of_distribution"]
    assert judgement.flagged.tolist() == [False] * 91 + [True] * 9
    assert not calibration.judge(interpret(task, outputs.prefix(1)), 0.1)["out_of_distribution"].flagged.any()
    without = replace(calibration, sizes=tuple(replace(size, numbers=None) for size in calibration.sizes))
    with pytest.raises(ValueError, match="no prediction intervals"):
        without.find_coverage(0.9)


def test_intervals_keep_their_coverage() -> None:
    """For each of two numbers, on average over calibrations, though the networks take the noise for half of what it is.

    The bound of 5 standard errors fails by chance in fewer than one of 100,000 implementations that are right.
    """
    task = Regression(names=("a", "b"), mean=(0.0, 0.0), std=(1.0, 3.0), noise_std=(0.5, 0.5))
    generator = torch.Generator().manual_seed(0)
    n, fresh, trials = 99, 400, 60

    def draw(count: int) -> tuple[Outputs, Tensor]:
        outputs = torch.randn(5, count, 2, generator=generator)
        return Outputs(outputs, None), task.predict(outputs).mean(0) + torch.randn(count, 2, generator=generator)

    covered = torch.zeros(2)
    for _ in range(trials):
        outputs, labels = draw(n)
        calibration = calibrate(
            checkpoint="0" * 64,
            split="test/calibration",
            seeds=range(n),
            scores={"out_of_distribution": ("relative_deviation",)},
            task=task,
            outputs=outputs,
            labels=labels,
            foreign=None,
            validation=None,
        )
        check_calibration(calibration, task, VectorSpec(("x",), (0.0,), (1.0,)), 5)
        outputs, labels = draw(fresh)
        prediction = interpret(task, outputs)
        found = calibration.choose_intervals(prediction, 0.87)
        assert found.coverage == 0.9
        middle = (found.lower + found.upper) / 2
        torch.testing.assert_close(middle, prediction.score("mean"))
        covered += ((labels > found.lower) & (labels < found.upper)).double().mean(0) / trials
        assert (calibration.choose_intervals(prediction, 0.95).upper > found.upper).all()
    error = math.sqrt(0.1 * 0.9 * (1 / n + 1 / fresh) / trials)
    assert ((covered - 0.9).abs() < 5 * error).all()
    other = replace(task, names=("a",), mean=(0.0,), std=(1.0,), noise_std=(0.5,))
    with pytest.raises(ValueError, match="must have intervals of 1 numbers"):
        check_calibration(calibration, other, VectorSpec(("x",), (0.0,), (1.0,)), 5)


def test_a_flag_that_needs_noise_is_for_inputs_that_have_some() -> None:
    scores = {"out_of_distribution": ("predictive_entropy", "mutual_information")}
    assert list_scores(TASK, VectorSpec(("x",), (0.0,), (1.0,))) == scores
    assert list_scores(TASK, SPEC) == scores | {"suspect_adversarial": ("fragility",)}
