"""Attacks on a classifier and its flags, by somebody who knows all of it but, mostly, the seed.

An attack succeeds where the answer is wrong and no flag is raised, on average over fresh draws of the ensemble. The
attacker minimises one loss for all of that: the margin of the label over the best other class, then what each flag's
score exceeds its threshold by, in expectation over sampled weights (Athalye, Engstrom, Ilyas & Kwok, "Synthesizing
Robust Adversarial Examples", ICML 2018; Tramèr, Carlini, Brendel & Mądry, "On Adaptive Attacks to Adversarial Example
Defenses", NeurIPS 2020). Projected gradient descent with momentum, no early stop, several restarts.

Beside it, the protocol of HyperGAN's paper (section 4.3): descent on some fixed networks that ends as soon as these are
fooled, so that what it finds lies near their boundary, where entropy is high.

Shapes: K networks of the attacker, of which J see noise, n images, C classes.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.checkpoint import Checkpoint, dump_json, write_file
from models.inputs.image import ImageSpec
from models.noise import permutations, uniform
from models.predictions.detection import DEFAULT_RATE
from models.predictions.perturbation import ATTACK_STREAM, Descent, Norm, measure_margin
from models.predictions.prediction import JITTERED_NETWORKS, ScoreName, evaluate, interpret
from models.tasks.kind import Flag
from models.tasks.probabilities import average_logits
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
from training.evaluation.measures import measure_auroc
from training.evaluation.summaries import measure_share
from training.progress import track

JUDGES = 20
"""Fresh draws that an attack is judged by."""

ATTACKER_SEED, JUDGE_SEED = 1_000_000, 10**12
CONFIDENCE = 8.0
"""Margin in nats that the attacker aims at: then a predictive entropy can lie below its threshold."""


TIERS = (
    Tier("the paper's protocol", "fixed", 10, stops=True),
    Tier("transfer", "surrogate", 1),
    Tier("fixed ensemble, K = 5", "fixed", 5),
    Tier("expectation, K = 1", "expectation", 1),
    Tier("expectation, K = 5", "expectation", 5),
    Tier("expectation, K = 20", "expectation", 20),
    Tier("seed known", "seed", 20),
)


EPSILONS: dict[int, dict[Norm, tuple[float, ...]]] = {
    1: {"linf": (0.1, 0.2, 0.3), "l2": (1.0, 2.0, 3.0)},
    3: {"linf": (2 / 255, 4 / 255, 8 / 255), "l2": (0.25, 0.5, 1.0)},
}
"""In units of the pixels' range, by the images' channels: the usual ones of digits, and of photographs."""


class Attacker:
    """Perturbs images against what a tier knows.

    Args:
        victim: whose answer and flags are to be evaded, calibrated.
        attacked: the checkpoint that gradients come from, the victim but for transfer.
        tier: what is known.
        networks: of the ensemble that answers.
    """

    def __init__(self, victim: Checkpoint, attacked: Checkpoint | None, tier: Tier, networks: int) -> None:
        assert isinstance(victim.config.input, ImageSpec)
        assert victim.calibration is not None
        self.victim = victim
        self.attacked = attacked or victim
        self.tier = tier
        self.networks = networks
        self.minds_flags = not tier.stops and tier.knows != "surrogate"
        self.least_loss = 0.0 if self.minds_flags else -math.inf
        self.spec = victim.config.input
        size = victim.calibration.for_size(networks)
        index = victim.calibration.find_rate(DEFAULT_RATE)
        self.score = size.scores["out_of_distribution"]
        self.thresholds = [size.thresholds[flag][index] for flag in FLAGS]

    def perturb(self, images: Tensor, labels: Tensor, norm: Norm, epsilon: float, budget: Budget) -> Tensor:
        """Images [n, C, H, W] between 0 and 1, each at most epsilon from its own, the best of several restarts."""
        best, least = images.clone(), torch.full((len(images),), math.inf)
        for restart in track(range(1 if self.tier.stops else budget.restarts), self.tier.name, "restart"):
            unsolved = least > self.least_loss
            if not unsolved.any():
                break
            found = self._descend(images[unsolved], labels[unsolved], norm, epsilon, budget.steps, restart)
            loss = self._measure(found, labels[unsolved], restart)
            better = loss < least[unsolved]
            best[unsolved] = torch.where(better.view(-1, 1, 1, 1), found, best[unsolved])
            least[unsolved] = torch.minimum(loss, least[unsolved])
        return best

    def _descend(self, images: Tensor, labels: Tensor, norm: Norm, epsilon: float, steps: int, restart: int) -> Tensor:
        start = uniform(ATTACKER_SEED + restart, range(len(images)), images[0].numel(), ATTACK_STREAM).view_as(images)
        descent = Descent(images, start, norm, epsilon, steps)
        running = torch.ones(len(images), dtype=torch.bool)
        for step in track(range(steps), "descending", "step"):
            current = descent.current.requires_grad_()
            logits, jittered = self._evaluate(current, restart, step)
            if self.tier.stops:
                running &= logits.softmax(-1).mean(0).argmax(-1) == labels
                if not running.any():
                    break
            loss = self._measure_loss(logits, jittered, labels).sum()
            (gradient,) = torch.autograd.grad(loss, current)
            descent.step(gradient, running)
        return descent.current.detach()

    def _measure_loss(self, logits: Tensor, jittered: Tensor | None, labels: Tensor) -> Tensor:
        if jittered is None:
            return measure_margin(average_logits(logits), labels)
        return measure_joint_loss(logits, jittered, labels, self.score, *self.thresholds)

    @torch.no_grad()
    def _measure(self, images: Tensor, labels: Tensor, restart: int) -> Tensor:
        """The loss of finished images, on several draws."""
        losses = [self._measure_loss(*self._evaluate(images, restart, -1 - i), labels) for i in range(4)]
        return torch.stack(losses).mean(0)

    def _evaluate(self, images: Tensor, restart: int, step: int) -> tuple[Tensor, Tensor | None]:
        """Logits on images and on images with noise, of the networks of a step."""
        seed, members, noisy_members = self._choose(restart, step)
        logits = self._forward(seed, members, 255 * images)
        if not self.minds_flags:
            return logits, None
        noisy = self.spec.jitter(255 * images, self.spec.draw_noise(seed, noisy_members))
        return logits, self._forward(seed, noisy_members, noisy)

    def _forward(self, seed: int, members: Sequence[int], pixels: Tensor) -> Tensor:
        sampler = self.attacked.sampler
        with torch.no_grad():
            weights = sampler.generate(sampler.draw_latents(seed, members))
        return sampler.target.forward(weights, self.spec.prepare(pixels).to(sampler.device)).cpu()

    def _choose(self, restart: int, step: int) -> tuple[int, Sequence[int], Sequence[int]]:
        """The seed and the networks that a step attacks, and those that see noise."""
        members = range(self.attacked.sampler.limit_networks(self.tier.networks))
        noisy = math.ceil(len(members) / 4)
        match self.tier.knows:
            case "expectation":
                return ATTACKER_SEED * (2 + restart) + step, members, members[:noisy]
            case "seed":
                order = permutations(ATTACKER_SEED + restart, [step % 2**32], self.networks, ATTACK_STREAM)[0].tolist()
                jittered = [member for member in order if member < JITTERED_NETWORKS]
                return JUDGE_SEED, order[: len(members)], jittered[:noisy]
            case _:
                return ATTACKER_SEED, members, members[:noisy]


def attack(
    checkpoint: Checkpoint,
    test: Examples,
    surrogate: Checkpoint | None,
    budget: Budget,
    attempts: Sequence[tuple[Tier, Norm, float]],
    path: Path,
    report: Callable[[str], None],
    networks: int | None = None,
) -> AttackReport:
    """Attacks test images; what is finished is kept in `path`.

    Args:
        checkpoint: a calibrated classifier of images.
        test: that the images are taken from, the first ones.
        surrogate: another model for the same images, which transfer is tried from.
        budget: of the attacker.
        attempts: tiers, norms and epsilons.
        path: of attack.json. Outcomes of this attack that are in it stay, and are not computed again.
        report: is told what is being computed.
        networks: of the ensemble that answers, all if there are fewer; None for the largest that is evaluated.

    Raises:
        ValueError: if the checkpoint has no flags that can be evaded, the surrogate is for other images, or another
            attack on this version is in `path`, which would be lost.
    """
    calibration, config = checkpoint.calibration, checkpoint.config
    if calibration is None or "suspect_adversarial" not in calibration.flags:
        raise ValueError(f"{checkpoint.name} has no flags to evade; calibrate a classifier of images")
    if surrogate is not None and (surrogate.config.input, surrogate.config.task) != (config.input, config.task):
        raise ValueError(f"{surrogate.name} takes other images than {checkpoint.name}, or has other classes")
    pixels, labels = test.inputs[: budget.images], test.labels[: budget.images]
    networks = checkpoint.sampler.limit_networks(networks or config.training.largest_ensemble)
    earlier = load_attack_report(path.parent)
    if earlier and earlier.version != checkpoint.version:
        earlier = None
    surrogate_version = surrogate.version if surrogate else earlier.surrogate if earlier else None
    if earlier and (earlier.budget, earlier.networks) != (budget, networks):
        was = f"{earlier.budget.images} images, {earlier.budget.steps} steps, {earlier.budget.restarts} restarts"
        raise ValueError(f"{path} holds an attack of {was} on {earlier.networks} networks; move it away first")
    if earlier and earlier.surrogate not in (None, surrogate_version):
        raise ValueError(f"{path} holds an attack by way of another surrogate; move it away first")
    outcomes = {(o.tier, o.norm, o.epsilon): o for o in earlier.outcomes} if earlier else {}
    clean = judge(checkpoint, pixels, labels, range(JUDGE_SEED, JUDGE_SEED + JUDGES), networks)

    def describe() -> AttackReport:
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
            report(f"{tier.name}, {norm} {epsilon:g}")
            attacked = surrogate if tier.knows == "surrogate" else checkpoint
            attacker = Attacker(checkpoint, attacked, tier, networks)
            outcomes[tier.name, norm, epsilon] = attack_once(attacker, pixels, labels, norm, epsilon, budget, clean)
        write_file(path, dump_json(describe()))
    return describe()


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What R judging draws say of n images."""

    wrong: Tensor
    """bool [R, n]."""
    score: Tensor
    """What raises `out_of_distribution`, [R, n]."""
    flagged: dict[tuple[Flag, float], Tensor]
    """By flag and budget of false alarms, bool [R, n]."""

    def passes(self, flags: Iterable[Flag], rate: float) -> Tensor:
        """Where none of some flags is raised, [R, n]."""
        return ~torch.stack([self.flagged[flag, rate] for flag in flags]).any(0)


def judge(checkpoint: Checkpoint, pixels: Tensor, labels: Tensor, seeds: Sequence[int], networks: int) -> Verdicts:
    """Answers and flags for images, uint8 [n, C, H, W], of an ensemble for each seed."""
    config, calibration = checkpoint.config, checkpoint.calibration
    assert calibration is not None
    wrong, scores = [], []
    flagged: dict[tuple[Flag, float], list[Tensor]] = {}
    for seed in seeds:
        outputs = evaluate(checkpoint.sampler, config.input, config.task, pixels, seed, networks)
        prediction = interpret(config.task, outputs)
        wrong.append(prediction.probabilities.argmax(-1) != labels)
        for rate in RATES:
            judgements = calibration.judge(prediction, rate)
            for flag, judgement in judgements.items():
                flagged.setdefault((flag, rate), []).append(judgement.flagged)
        scores.append(judgements["out_of_distribution"].scores)
    return Verdicts(torch.stack(wrong), torch.stack(scores), {k: torch.stack(v) for k, v in flagged.items()})


def attack_once(
    attacker: "Attacker", pixels: Tensor, labels: Tensor, norm: Norm, epsilon: float, budget: Budget, clean: Verdicts
) -> Outcome:
    """One attack, judged; images are rounded to 8 bits, as the service takes them."""
    checkpoint, tier = attacker.victim, attacker.tier
    found = attacker.perturb(pixels / 255, labels, norm, epsilon, budget)
    seeds = [JUDGE_SEED] if tier.knows == "seed" else range(JUDGE_SEED, JUDGE_SEED + JUDGES)
    verdicts = judge(checkpoint, (255 * found).round().to(torch.uint8), labels, seeds, attacker.networks)
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


def measure_joint_loss(
    logits: Tensor, jittered: Tensor, labels: Tensor, score: ScoreName, most_score: float, most_fragility: float
) -> Tensor:
    """What an attacker minimises for each image, [n].

    It is the label's margin, down to a confident error, and, where the answer is wrong, what the scores exceed their
    thresholds by.

    Args:
        logits: of K networks on the images, [K, n, C].
        jittered: of networks that see noise, [J, n, C].
        labels: [n].
        score: predictive entropy or mutual information, whichever raises `out_of_distribution`.
        most_score: its threshold.
        most_fragility: threshold of fragility.
    """
    log_mean, after = average_logits(logits), average_logits(jittered)
    margin = measure_margin(log_mean, labels)
    uncertainty = _measure_entropy(log_mean)
    if score == "mutual_information":
        uncertainty = uncertainty - _measure_entropy(logits.log_softmax(-1)).mean(0)
    before, chosen = log_mean.max(-1, keepdim=True)
    fragility = (before.exp() - after.gather(1, chosen).exp())[:, 0]
    most_score = max(most_score, 1e-30)
    # Far below its threshold, a score costs nothing, and its logarithm has no gradient to give.
    excess = F.relu(uncertainty.clamp(min=most_score / 10).log() - math.log(most_score) + 0.5)
    fragility_excess = F.relu((fragility - most_fragility) / (abs(most_fragility) + 0.01) + 0.2)
    loss: Tensor = F.relu(margin + CONFIDENCE) + (margin < 0) * (excess + fragility_excess)
    return loss


def _measure_entropy(log_probabilities: Tensor) -> Tensor:
    """Over the last axis, with finite gradients where probabilities vanish."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def list_attempts(epsilons: dict[Norm, tuple[float, ...]], with_surrogate: bool) -> list[tuple[Tier, Norm, float]]:
    """All tiers that can be tried, at each epsilon, and the unbounded attack."""
    tiers = [tier for tier in TIERS if with_surrogate or tier.knows != "surrogate"]
    attempts = [(tier, norm, epsilon) for norm, sizes in epsilons.items() for epsilon in sizes for tier in tiers]
    return [UNBOUNDED, *attempts]
