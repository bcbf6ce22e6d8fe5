import math
import re
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch import Tensor

import training.evaluation.attack
from models.checkpoint import Checkpoint, load_checkpoint, save_calibration
from models.checkpoint_files import CheckpointError
from models.precision import Precision
from models.predictions.detection import DEFAULT_RATE
from models.predictions.perturbation import Descent, Norm, find_steepest, measure_margin, project, round_down
from models.predictions.prediction import JITTERED_NETWORKS, ScoreName, evaluate, interpret
from models.predictions.surprise import measure_score
from models.tasks.classification import Classification
from training.data.datasets import load_digits
from training.evaluation.attack import TIERS, attack, judge, list_attempts
from training.evaluation.attack_report import (
    FILE,
    UNBOUNDED,
    Budget,
    Outcome,
    Tier,
    check_strength,
    is_no_less,
    load_attack_report,
)
from training.evaluation.attacker import (
    SLACK,
    Attacker,
    measure_disagreement,
    measure_entropy,
    measure_excess,
    measure_joint_loss,
)
from training.report.card import save_card

BUDGET = Budget(images=10, steps=8, restarts=1)
TEST = load_digits(Path()).test
MEASURES = {"predictive_entropy": measure_entropy, "mutual_information": measure_disagreement}
EXPECTATION = Tier("expectation, K = 5", "expectation", 5)


@pytest.fixture(autouse=True)
def few_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.evaluation.attack, "JUDGES", 2)


def test_margin_known_answers() -> None:
    logs = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]))
    expected = torch.log(torch.tensor([0.7 / 0.2, 0.1 / 0.7]))
    torch.testing.assert_close(measure_margin(logs, torch.tensor([0, 2])), expected)


@pytest.mark.parametrize("score", MEASURES)
def test_the_joint_loss_wants_a_confident_error_that_no_flag_sees(score: str) -> None:
    labels = torch.tensor([0])

    def loss(plain: list[float], jittered: list[float]) -> float:
        logits, noisy = (torch.tensor(p).log()[None, None] for p in (plain, jittered))
        return measure_joint_loss(
            logits, noisy, labels, measure_excess(score, MEASURES[score](logits), 0.1), 0.1
        ).item()

    right, undecided, wrong = [0.98, 0.01, 0.01], [0.3, 0.4, 0.3], [1e-5, 0.99998, 1e-5]
    assert loss(wrong, wrong) == 0
    assert loss(right, right) > loss(undecided, undecided) > loss(wrong, wrong)
    assert loss(wrong, undecided) > loss(wrong, wrong)  # the answer does not survive noise
    undecided_error = [1e-5, 0.6, 0.4]
    if score == "predictive_entropy":  # above its threshold
        assert loss(undecided_error, undecided_error) > loss(wrong, wrong)


def test_the_joint_loss_knows_both_scores() -> None:
    """Two networks that are sure of different classes, and two that are undecided between them."""
    labels, sure = torch.tensor([0]), [[-20.0, 20.0, -20.0], [-20.0, -20.0, 20.0]]
    disagreeing = torch.tensor(sure)[:, None]
    agreeing = torch.tensor([[-20.0, 0.0, 0.0]] * 2)[:, None]

    def loss(logits: Tensor, score: str) -> float:
        return measure_joint_loss(
            logits, logits, labels, measure_excess(score, MEASURES[score](logits), 0.3), 1.0
        ).item()

    for logits in (disagreeing, agreeing):
        assert loss(logits, "predictive_entropy") > 0
    assert loss(disagreeing, "mutual_information") == pytest.approx(loss(disagreeing, "predictive_entropy"), abs=1e-4)
    assert loss(agreeing, "mutual_information") == 0


def test_the_joint_loss_knows_thresholds_however_small() -> None:
    """An entropy of 3 · 10⁻¹⁵ exceeds a threshold of 10⁻¹⁸, and the loss falls with it."""
    logits = torch.tensor([[[0.0, 36.9, 0.0]]], requires_grad=True)
    excess = measure_excess("predictive_entropy", measure_entropy(logits), 1e-18)
    loss = measure_joint_loss(logits, logits.detach(), torch.tensor([0]), excess, 1.0)
    loss.sum().backward()
    assert loss.item() > 1
    assert logits.grad is not None
    assert logits.grad[0, 0, 2] > 0.1


def test_excesses_are_in_nats() -> None:
    """A surprise is, so that its excess is a difference; that of other scores is the logarithm of a ratio."""
    scores = torch.tensor([8.0, 4.0, 0.0])
    surprise = measure_excess("combined_surprise", scores, 4.0)
    assert surprise.tolist() == pytest.approx([4 + SLACK, SLACK, 0])
    entropy = measure_excess("predictive_entropy", scores, 4.0)
    assert entropy.tolist() == pytest.approx([math.log(2) + SLACK, SLACK, 0])


@pytest.mark.parametrize("epsilon", [0.05, 0.7])
def test_projections_stay_within_the_ball_and_the_range(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(0)
    around = torch.rand(5, 1, 4, 4, generator=generator)
    far = around + torch.randn(5, 1, 4, 4, generator=generator)
    norms: tuple[Norm, ...] = ("linf", "l2")
    for norm in norms:
        found = project(far, around, norm, epsilon)
        assert found.min() >= 0
        assert found.max() <= 1
        difference = (found - around).flatten(1)
        length = difference.abs().amax(1) if norm == "linf" else difference.norm(dim=1)
        assert (length <= epsilon + 1e-6).all()
        torch.testing.assert_close(project(around, around, norm, epsilon), around)
    assert find_steepest(far, "l2").flatten(1).norm(dim=1).tolist() == pytest.approx([1] * 5)
    assert find_steepest(far, "linf").abs().unique().tolist() == [1]


def test_a_small_gradient_does_not_turn_the_momentum() -> None:
    """After (3, 4), the first pixel of (−1, 10) still says the same, although its sign does not."""
    images = torch.full((1, 1, 1, 2), 0.5)
    descent = Descent(images, torch.zeros_like(images), "linf", 0.1, steps=10)
    before = descent.current
    for gradient in ([3.0, 4.0], [-1.0, 10.0]):
        descent.step(torch.tensor(gradient).view_as(images))
        assert (descent.current < before).all()
        before = descent.current


def test_attacks_stay_within_epsilon_and_do_better_than_noise(checkpoint: Checkpoint) -> None:
    images, labels = TEST.inputs[:20] / 255, TEST.labels[:20]
    found = Attacker(checkpoint, None, EXPECTATION, 20, replace(BUDGET, steps=20)).perturb(images, labels, "linf", 0.2)
    assert (found - images).abs().max() <= 0.2 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    noise = 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()
    shares = [
        judge(checkpoint, (255 * x.clamp(0, 1)).round().byte(), labels, [5], 20).wrong.double().mean().item()
        for x in (found, images + noise)
    ]
    assert shares[0] > shares[1] + 0.3


def test_the_attacker_measures_the_score_that_raises_the_flag(checkpoint: Checkpoint) -> None:
    """The distance from the training's images, too, whose gradient leads to the pixels."""
    images = (TEST.inputs[:20] / 255).requires_grad_()
    attacker = Attacker(checkpoint, None, EXPECTATION, 20, BUDGET)
    outputs = evaluate(
        checkpoint.sampler, checkpoint.input, checkpoint.config.task, TEST.inputs[:20], 5, 20, checkpoint.density
    )
    prediction = interpret(checkpoint.config.task, outputs)
    assert checkpoint.calibration is not None
    levels = checkpoint.calibration.for_size(20).levels
    assert attacker.score == "combined_surprise"
    names: tuple[ScoreName, ...] = "predictive_entropy", "mutual_information", "feature_distance", "combined_surprise"
    for name in names:
        found = attacker.measure_score(name, images, outputs.plain)
        torch.testing.assert_close(
            found.detach(), measure_score(prediction, name, levels), rtol=1e-4, atol=1e-4, check_dtype=False
        )
    (gradient,) = torch.autograd.grad(attacker.measure_score("feature_distance", images, outputs.plain).sum(), images)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_each_step_has_fresh_networks(checkpoint: Checkpoint) -> None:
    """A hundred of them in the strongest tier, of which as many see noise as in the ensemble that answers."""
    tier = next(tier for tier in TIERS if tier.name == "expectation, K = 100")
    attacker, images = Attacker(checkpoint, None, tier, 100, BUDGET), TEST.inputs[:2] / 255
    plain, jittered = attacker.evaluate(images, 0, 0)
    assert jittered is not None
    assert (len(plain), len(jittered)) == (100, JITTERED_NETWORKS)
    torch.testing.assert_close(attacker.evaluate(images, 0, 0)[0], plain)
    for restart, step in ((0, 1), (1, 0)):
        other, _ = attacker.evaluate(images, restart, step)
        assert not torch.isclose(plain, other).all(-1).any()


def test_coarse_networks_give_almost_the_same_gradients(checkpoint: Checkpoint) -> None:
    gradients = []
    precisions: tuple[Precision, ...] = "float32", "bfloat16"
    for precision in precisions:
        attacker = Attacker(checkpoint, None, EXPECTATION, 20, replace(BUDGET, precision=precision))
        images = (TEST.inputs[:20] / 255).requires_grad_()
        logits, _ = attacker.evaluate(images, 0, 0)
        assert logits.dtype == torch.float32
        (gradient,) = torch.autograd.grad(measure_entropy(logits).log().sum(), images)
        gradients.append(gradient.flatten(1))
    assert not torch.equal(*gradients)
    assert torch.cosine_similarity(gradients[0], gradients[1]).median() > 0.99


@pytest.mark.parametrize(("epsilon", "reach"), [(0.1, 25), (0.2, 51), (8 / 255, 8), (1.0, 255)])
def test_rounded_images_stay_within_epsilon(epsilon: float, reach: int) -> None:
    assert round_down(epsilon) == pytest.approx(reach / 255)


def test_every_tier_is_reported_kept_and_not_computed_again(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def count_announced() -> int:
        return len(re.findall(r"^[^\n]*, linf [\d.]+$", capsys.readouterr().err, re.MULTILINE))

    attempts: list[tuple[Tier, Norm, float]] = [UNBOUNDED, *((tier, "linf", 0.2) for tier in TIERS)]
    report = attack(checkpoint, TEST, checkpoint, BUDGET, attempts, tmp_path / FILE)
    assert count_announced() == len(attempts) == len(report.outcomes)
    assert report.outcomes[0].wrong == 1
    for outcome in report.outcomes:
        for rate in (0.01, DEFAULT_RATE):
            assert outcome.evades[rate] <= outcome.evades_out_of_distribution[rate] <= outcome.wrong
        assert outcome.evades[DEFAULT_RATE] <= outcome.evades[0.01]
    assert {check.what for check in report.checks} >= {"without a bound, all answers are wrong"}
    assert load_attack_report(tmp_path) == report
    assert all(len(outcome.evades_by_image) == BUDGET.images for outcome in report.outcomes)
    assert report.outcomes[-1].evades[0.05] == pytest.approx(sum(report.outcomes[-1].evades_by_image) / BUDGET.images)
    again = attack(checkpoint, TEST, checkpoint, BUDGET, attempts, tmp_path / FILE)
    assert again == report
    assert count_announced() == 0


def test_attackers_can_be_left_out() -> None:
    def list_names(with_surrogate: bool, most: int | None) -> set[str]:
        attempts = list_attempts({"linf": (0.1, 0.2), "l2": ()}, with_surrogate, most)
        assert attempts[0] == UNBOUNDED
        names = [tier.name for tier, _, _ in attempts[1:]]
        assert len(names) == 2 * len(set(names))
        return set(names)

    everybody = {tier.name for tier in TIERS}
    assert list_names(True, None) == everybody
    assert list_names(False, None) == everybody - {"transfer"}
    assert list_names(True, 20) == everybody - {"expectation, K = 100"}


def test_what_was_attacked_otherwise_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Other tiers and epsilons are added; what does not belong into one table is refused, until the table is moved."""
    path, budget = tmp_path / FILE, replace(BUDGET, steps=2)
    transfer, fixed = TIERS[1], TIERS[2]
    first = attack(checkpoint, TEST, checkpoint, budget, [(transfer, "linf", 0.1)], path)
    second = attack(checkpoint, TEST, None, budget, [(fixed, "l2", 1.0)], path)
    assert second.outcomes[:1] == first.outcomes
    assert [(o.tier, o.norm, o.epsilon) for o in second.outcomes[1:]] == [(fixed.name, "l2", 1.0)]
    assert second.surrogate == checkpoint.version
    before = path.read_bytes()
    other = replace(checkpoint, version="another surrogate")
    for message, surrogate, spent, networks in (
        ("2 steps and 1 restart in float32 on 100 networks; move the file", checkpoint, replace(budget, steps=3), None),
        ("2 steps and 1 restart in float32 on 100 networks; move the file", checkpoint, budget, 5),
        ("another surrogate; move the file away", other, budget, None),
    ):
        with pytest.raises(ValueError, match=message):
            attack(checkpoint, TEST, surrogate, spent, [(fixed, "linf", 0.1)], path, networks)
        assert path.read_bytes() == before
    again = replace(checkpoint, version="calibrated anew")
    report = attack(again, TEST, None, budget, [(fixed, "linf", 0.1)], path)
    assert (report.version, len(report.outcomes)) == ("calibrated anew", 1)


def test_a_card_says_at_which_calibration_attacks_were_measured(
    checkpoints: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    directory = tmp_path / "digits"
    copytree(checkpoints / "digits", directory)
    attack(checkpoint, TEST, None, replace(BUDGET, steps=2), [(TIERS[2], "linf", 0.1)], directory / FILE)
    assert checkpoint.calibration is not None
    save_card(directory, checkpoint, None)
    assert "earlier calibration" not in (directory / "README.md").read_text()
    largest = checkpoint.calibration.sizes[-1]
    doubled = replace(largest, thresholds={flag: tuple(2 * t for t in ts) for flag, ts in largest.thresholds.items()})
    sizes = (*checkpoint.calibration.sizes[:-1], doubled)
    save_calibration(directory, replace(checkpoint.calibration, sizes=sizes), checkpoint.density)
    save_card(directory, load_checkpoint(directory), None)
    card, index = (directory / "README.md").read_text(), checkpoint.calibration.find_rate(DEFAULT_RATE)
    then = [thresholds[index] for thresholds in largest.thresholds.values()]
    assert f"attacked with an earlier calibration, version `{checkpoint.version[:12]}…`" in card
    said = [" and ".join(f"{factor * threshold:.3g}" for threshold in then) for factor in (1, 2)]
    assert f"were {said[0]} then, and are {said[1]} now" in " ".join(card.split())


def test_what_cannot_be_attacked(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digits has no flags to evade"):
        attack(replace(checkpoint, calibration=None), TEST, None, BUDGET, [UNBOUNDED], tmp_path / FILE)
    config = replace(checkpoint.config, task=Classification(classes=tuple("abcdefghij")))
    with pytest.raises(ValueError, match="digits and digits differ in their inputs or classes"):
        attack(checkpoint, TEST, replace(checkpoint, config=config), BUDGET, [UNBOUNDED], tmp_path / FILE)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(CheckpointError, match="Invalid JSON"):
        load_attack_report(tmp_path)


def make_outcome(tier: str, by_image: list[float]) -> Outcome:
    shares = dict.fromkeys((0.01, 0.05), sum(by_image) / max(1, len(by_image)))
    return Outcome(tier, "linf", 0.2, shares[0.05], None, shares, shares, tuple(by_image))


@pytest.mark.parametrize(
    ("strong", "weak", "holds"),
    [
        ([1, 1, 1, 0, 0] * 20, [1, 1, 0, 0, 0] * 20, [True]),
        ([0, 1, 0, 0, 0] * 20, [1, 1, 1, 0, 0] * 20, [False]),
        ([1, 0, 0, 0], [0, 1, 1, 1], [True]),  # too few images to tell
        ([1, 0, 0, 0] * 25, [1, 0, 0, 0] * 25, [True]),
        # 90 points against 97, by unpaired errors within chance: but each image that differs speaks for the weak one.
        ([1] * 90 + [0] * 10, [1] * 97 + [0] * 3, [False]),
        ([], [1, 0], []),  # of an earlier file, which does not tell images apart
    ],
)
def test_weak_attacks_are_noticed(strong: list[float], weak: list[float], holds: list[bool]) -> None:
    outcomes = [make_outcome("expectation, K = 20", strong), make_outcome("transfer", weak)]
    assert [check.holds for check in check_strength(outcomes)] == holds


def test_errors_of_attacks_are_those_of_pairs() -> None:
    """Where images are easy or hard for both attacks, one that is no weaker is called weak in 2.3 % of the trials."""
    generator = torch.Generator().manual_seed(0)
    trials, images = 2000, 100
    easy = torch.rand(trials, images, generator=generator)
    pairs = [(easy + 0.1 * torch.randn(trials, images, generator=generator)).double() for _ in range(2)]
    called = sum(not is_no_less(a, b) for a, b in zip(*pairs, strict=True)) / trials
    assert called == pytest.approx(0.0228, abs=5 * math.sqrt(0.0228 / trials))
