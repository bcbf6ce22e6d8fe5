"""Attacks on a classifier and its flags: what different attackers know, how often they succeed, and who judges that.

An attack succeeds if the answer is wrong and no flag is raised, on average over fresh draws of the ensemble.

Shapes: n images.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.backbones.backbone import NO_GRADIENT
from models.checkpoint import Checkpoint
from models.checkpoint_files import dump_json, write_file
from models.precision import Precision
from models.predictions.detection import DEFAULT_RATE
from models.predictions.perturbation import Norm, round_down
from models.predictions.prediction import evaluate, interpret
from models.tasks.kind import Flag
from training.data.dataset import Examples
from training.evaluation.attack_report import (
    FLAGS,
    RATES,
    UNBOUNDED,
    AttackReport,
    Budget,
    Outcome,
    Tier,
    check_strength,
    list_thresholds,
    load_attack_report,
)
from training.evaluation.attacker import JUDGE_SEED, Attacker
from training.evaluation.measures import measure_auroc
from training.evaluation.summaries import measure_share
from training.progress import announce, track

JUDGES = 20
"""Number of fresh draws that judge an attack."""

TIERS = (
    Tier("the paper's protocol", "fixed", 10, stops=True),
    Tier("transfer", "surrogate", 1),
    Tier("fixed ensemble, K = 5", "fixed", 5),
    Tier("expectation, K = 1", "expectation", 1),
    Tier("expectation, K = 5", "expectation", 5),
    Tier("expectation, K = 20", "expectation", 20),
    Tier("expectation, K = 100", "expectation", 100),
    Tier("seed known", "seed", 20),
)

EPSILONS: dict[int, dict[Norm, tuple[float, ...]]] = {
    1: {"linf": (0.1, 0.2, 0.3), "l2": (1.0, 2.0, 3.0)},
    3: {"linf": (2 / 255, 4 / 255, 8 / 255), "l2": (0.25, 0.5, 1.0)},
}
"""Usual ε as shares of the pixels' range, by the number of channels: for digits, and for photographs."""


def attack(
    checkpoint: Checkpoint,
    test: Examples,
    surrogate: Checkpoint | None,
    budget: Budget,
    attempts: Sequence[tuple[Tier, Norm, float]],
    path: Path,
    networks: int | None = None,
) -> AttackReport:
    """Attacks test images, and saves each finished attack to `path`.

    Args:
        checkpoint: a calibrated classifier of images.
        test: the test split, of which the first images are attacked.
        surrogate: another model for the same images, whose adversarial images are transferred.
        budget: the attacker's budget.
        attempts: the tiers, norms and epsilons to try.
        path: path of attack.json. Outcomes that it already holds are kept, not computed again.
        networks: size of the ensemble that answers; None for the largest that is evaluated. It is limited to the
            networks that exist.

    Raises:
        ValueError: if the checkpoint has no flags to evade, if the surrogate is for other images or classes, or if
            `path` holds another attack on this version, which would be lost.
    """
    calibration, config = checkpoint.calibration, checkpoint.config
    for model in (checkpoint, surrogate):
        if model is not None and model.backbone is not None:
            raise ValueError(f"{model.name} cannot be attacked: {NO_GRADIENT}")
    if calibration is None or "suspect_adversarial" not in calibration.flags:
        raise ValueError(f"{checkpoint.name} has no flags to evade; attacks need a calibrated classifier of images")
    if surrogate is not None and (surrogate.config.input, surrogate.config.task) != (config.input, config.task):
        raise ValueError(f"{surrogate.name} and {checkpoint.name} differ in their inputs or classes")
    pixels, labels = test.inputs[: budget.images], test.labels[: budget.images]
    networks = checkpoint.sampler.limit_networks(networks or config.training.largest_ensemble)
    earlier = load_attack_report(path.parent)
    if earlier and earlier.version != checkpoint.version:
        earlier = None
    surrogate_version = surrogate.version if surrogate else earlier.surrogate if earlier else None
    if earlier and (earlier.budget, earlier.networks) != (budget, networks):
        was = f"{earlier.budget.images} images, {earlier.budget.effort} in {earlier.budget.precision}"
        raise ValueError(f"{path} holds an attack with {was} on {earlier.networks} networks; move the file away first")
    if earlier and earlier.surrogate not in (None, surrogate_version):
        raise ValueError(f"{path} holds an attack with another surrogate; move the file away first")
    outcomes = {(o.tier, o.norm, o.epsilon): o for o in earlier.outcomes} if earlier else {}
    seeds = range(JUDGE_SEED, JUDGE_SEED + JUDGES)
    clean = judge(checkpoint, pixels, labels, seeds, networks, budget.precision)

    def make_report() -> AttackReport:
        return AttackReport(
            version=checkpoint.version,
            budget=budget,
            surrogate=surrogate_version,
            networks=networks,
            clean_wrong=measure_share(clean.wrong),
            clean_flagged={rate: 1 - measure_share(clean.passes(FLAGS, rate)) for rate in RATES},
            outcomes=tuple(outcomes.values()),
            checks=tuple(check_strength(list(outcomes.values()))),
            thresholds=list_thresholds(calibration, networks),
        )

    for tier, norm, epsilon in track(attempts, "attacking", "attack"):
        if (tier.name, norm, epsilon) not in outcomes:
            announce(f"{tier.name}, {norm} {epsilon:g}")
            attacked = surrogate if tier.knows == "surrogate" else checkpoint
            attacker = Attacker(checkpoint, attacked, tier, networks, budget)
            outcomes[tier.name, norm, epsilon] = attack_once(attacker, pixels, labels, norm, epsilon, clean)
        write_file(path, dump_json(make_report()))
    return make_report()


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """Answers of R judging draws for n images."""

    wrong: Tensor
    """Where the answer is wrong, bool [R, n]."""
    score: Tensor
    """The score that raises `out_of_distribution`, [R, n]."""
    flagged: dict[tuple[Flag, float], Tensor]
    """Where a flag is raised, by flag and budget of false alarms, bool [R, n]."""

    def passes(self, flags: Iterable[Flag], rate: float) -> Tensor:
        """Where none of the flags is raised, bool [R, n]."""
        return ~torch.stack([self.flagged[flag, rate] for flag in flags]).any(0)


def judge(
    checkpoint: Checkpoint,
    pixels: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    networks: int,
    precision: Precision = "float32",
) -> Verdicts:
    """Answers and flags of one ensemble for each seed, for images uint8 [n, C, H, W]."""
    config, calibration, sampler = checkpoint.config, checkpoint.calibration, checkpoint.sampler
    assert calibration is not None
    wrong, scores = [], []
    flagged: dict[tuple[Flag, float], list[Tensor]] = {}
    for seed in seeds:
        outputs = evaluate(sampler, config.input, config.task, pixels, seed, networks, checkpoint.density, precision)
        prediction = interpret(config.task, outputs)
        wrong.append(prediction.probabilities.argmax(-1) != labels)
        for rate in RATES:
            judgements = calibration.judge(prediction, rate)
            for flag, judgement in judgements.items():
                flagged.setdefault((flag, rate), []).append(judgement.flagged)
        scores.append(judgements["out_of_distribution"].scores)
    return Verdicts(torch.stack(wrong), torch.stack(scores), {k: torch.stack(v) for k, v in flagged.items()})


def attack_once(
    attacker: Attacker, pixels: Tensor, labels: Tensor, norm: Norm, epsilon: float, clean: Verdicts
) -> Outcome:
    """Makes one attack and judges it. Images are rounded to 8 bits, as the service receives them."""
    checkpoint, tier, budget = attacker.victim, attacker.tier, attacker.budget
    reach = round_down(epsilon) if norm == "linf" else epsilon
    found = attacker.perturb(pixels / 255, labels, norm, reach)
    seeds = [JUDGE_SEED] if tier.knows == "seed" else range(JUDGE_SEED, JUDGE_SEED + JUDGES)
    rounded = (255 * found).round().to(torch.uint8)
    verdicts = judge(checkpoint, rounded, labels, seeds, attacker.networks, budget.precision)
    fooled = verdicts.score[verdicts.wrong]
    evading = verdicts.wrong & verdicts.passes(FLAGS, DEFAULT_RATE)
    return Outcome(
        tier=tier.name,
        norm=norm,
        epsilon=epsilon,
        wrong=measure_share(verdicts.wrong),
        auroc=measure_auroc(clean.score.flatten(), fooled) if len(fooled) else None,
        evades={rate: measure_share(verdicts.wrong & verdicts.passes(FLAGS, rate)) for rate in RATES},
        evades_out_of_distribution={
            rate: measure_share(verdicts.wrong & verdicts.passes(["out_of_distribution"], rate)) for rate in RATES
        },
        evades_by_image=tuple(evading.double().mean(0).tolist()),
    )


def list_attempts(
    epsilons: dict[Norm, tuple[float, ...]], with_surrogate: bool, most_networks: int | None = None
) -> list[tuple[Tier, Norm, float]]:
    """Lists the unbounded attack, and all possible tiers at each epsilon, or those with few networks in a step."""
    most = math.inf if most_networks is None else most_networks
    tiers = [tier for tier in TIERS if tier.networks <= most and (with_surrogate or tier.knows != "surrogate")]
    attempts = [(tier, norm, epsilon) for norm, sizes in epsilons.items() for epsilon in sizes for tier in tiers]
    return [UNBOUNDED, *attempts]
