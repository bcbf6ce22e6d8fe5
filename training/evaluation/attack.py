"""Attacks on a classifier and its flags by an attacker who knows everything except, usually, the seed.

An attack succeeds if the answer is wrong and no flag is raised, on average over fresh draws of the ensemble. The
attacker minimises one loss for all of this: the margin of the label over the best other class, and then the excess of
each flag's score over its threshold, in expectation over sampled weights (Athalye, Engstrom, Ilyas & Kwok,
"Synthesizing Robust Adversarial Examples", ICML 2018; Tramèr, Carlini, Brendel & Mądry, "On Adaptive Attacks to
Adversarial Example Defenses", NeurIPS 2020). It uses projected gradient descent with momentum and several restarts, and
does not stop early.

There is also the protocol of HyperGAN's paper (section 4.3): descent on a few fixed networks, which stops as soon as
they are fooled. What it finds lies near their decision boundary, where entropy is high.

Shapes: K networks of the attacker, J of which see noise, n images, C classes.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.backbone import NO_GRADIENT
from models.checkpoint import Checkpoint
from models.checkpoint_files import dump_json, write_file
from models.inputs.image import ImageSpec
from models.noise import permutations, uniform
from models.predictions.detection import DEFAULT_RATE
from models.predictions.perturbation import ATTACK_STREAM, Descent, Norm, measure_margin
from models.predictions.prediction import FEATURE_DISTANCE, JITTERED_NETWORKS, ScoreName, evaluate, interpret
from models.predictions.surprise import COMBINED_SURPRISE, measure_surprise
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
from training.progress import announce, track

JUDGES = 20
"""Number of fresh draws that judge an attack."""

ATTACKER_SEED, JUDGE_SEED = 1_000_000, 10**12
CONFIDENCE = 8.0
"""Margin that the attacker aims at, in nats; with it, predictive entropy can fall below its threshold."""

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
"""Usual ε as shares of the pixels' range, by the number of channels: for digits, and for photographs."""


class Attacker:
    """Perturbs images with the knowledge of a tier.

    Args:
        victim: the calibrated checkpoint whose answer and flags are to be evaded.
        attacked: the checkpoint that gives gradients; None for the victim.
        tier: what the attacker knows.
        networks: size of the ensemble that answers.
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
        self.score, self.levels = size.scores["out_of_distribution"], size.levels
        self.thresholds = [size.thresholds[flag][index] for flag in FLAGS]

    def perturb(self, images: Tensor, labels: Tensor, norm: Norm, epsilon: float, budget: Budget) -> Tensor:
        """Perturbs images [n, C, H, W] between 0 and 1 by at most epsilon; the best of several restarts counts."""
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
            loss = self._measure_loss(current, logits, jittered, labels).sum()
            (gradient,) = torch.autograd.grad(loss, current)
            descent.step(gradient, running)
        return descent.current.detach()

    def _measure_loss(self, images: Tensor, logits: Tensor, jittered: Tensor | None, labels: Tensor) -> Tensor:
        if jittered is None:
            return measure_margin(average_logits(logits), labels)
        score = self._measure_score(self.score, images, logits).float()
        return measure_joint_loss(logits, jittered, labels, score, *self.thresholds)

    def _measure_score(self, name: ScoreName, images: Tensor, logits: Tensor) -> Tensor:
        """The score that raises `out_of_distribution`, [n]."""
        if name == COMBINED_SURPRISE:
            parts = [measure_surprise(self._measure_score(n, images, logits), own) for n, own in self.levels.items()]
            return torch.stack(parts).sum(0)
        if name == FEATURE_DISTANCE:
            assert self.victim.density is not None
            return self.victim.density.measure_distance(self.spec.prepare(255 * images))
        return measure_disagreement(logits) if name == "mutual_information" else measure_entropy(logits)

    @torch.no_grad()
    def _measure(self, images: Tensor, labels: Tensor, restart: int) -> Tensor:
        """The loss of finished images, averaged over several draws."""
        losses = [self._measure_loss(images, *self._evaluate(images, restart, -1 - i), labels) for i in range(4)]
        return torch.stack(losses).mean(0)

    def _evaluate(self, images: Tensor, restart: int, step: int) -> tuple[Tensor, Tensor | None]:
        """Logits of a step's networks on images, and on images with noise."""
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
        """The seed and the networks that a step attacks, and the networks that see noise."""
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
        was = f"{earlier.budget.images} images, {earlier.budget.steps} steps, {earlier.budget.restarts} restarts"
        raise ValueError(f"{path} holds an attack with {was} on {earlier.networks} networks; move the file away first")
    if earlier and earlier.surrogate not in (None, surrogate_version):
        raise ValueError(f"{path} holds an attack with another surrogate; move the file away first")
    outcomes = {(o.tier, o.norm, o.epsilon): o for o in earlier.outcomes} if earlier else {}
    clean = judge(checkpoint, pixels, labels, range(JUDGE_SEED, JUDGE_SEED + JUDGES), networks)

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
            attacker = Attacker(checkpoint, attacked, tier, networks)
            outcomes[tier.name, norm, epsilon] = attack_once(attacker, pixels, labels, norm, epsilon, budget, clean)
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


def judge(checkpoint: Checkpoint, pixels: Tensor, labels: Tensor, seeds: Sequence[int], networks: int) -> Verdicts:
    """Answers and flags of one ensemble for each seed, for images uint8 [n, C, H, W]."""
    config, calibration = checkpoint.config, checkpoint.calibration
    assert calibration is not None
    wrong, scores = [], []
    flagged: dict[tuple[Flag, float], list[Tensor]] = {}
    for seed in seeds:
        outputs = evaluate(checkpoint.sampler, config.input, config.task, pixels, seed, networks, checkpoint.density)
        prediction = interpret(config.task, outputs)
        wrong.append(prediction.probabilities.argmax(-1) != labels)
        for rate in RATES:
            judgements = calibration.judge(prediction, rate)
            for flag, judgement in judgements.items():
                flagged.setdefault((flag, rate), []).append(judgement.flagged)
        scores.append(judgements["out_of_distribution"].scores)
    return Verdicts(torch.stack(wrong), torch.stack(scores), {k: torch.stack(v) for k, v in flagged.items()})


def attack_once(
    attacker: Attacker, pixels: Tensor, labels: Tensor, norm: Norm, epsilon: float, budget: Budget, clean: Verdicts
) -> Outcome:
    """Makes one attack and judges it. Images are rounded to 8 bits, as the service receives them."""
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
    logits: Tensor, jittered: Tensor, labels: Tensor, score: Tensor, most_score: float, most_fragility: float
) -> Tensor:
    """The attacker's loss for each image, [n].

    It is the label's margin, down to a confident error. Where the answer is wrong, the excess of the scores over their
    thresholds is added.

    Args:
        logits: logits of K networks on the images, [K, n, C].
        jittered: logits of the networks that see noise, [J, n, C].
        labels: [n].
        score: the score that raises `out_of_distribution`, [n].
        most_score: its threshold.
        most_fragility: the threshold of fragility.
    """
    log_mean, after = average_logits(logits), average_logits(jittered)
    margin = measure_margin(log_mean, labels)
    before, chosen = log_mean.max(-1, keepdim=True)
    fragility = (before.exp() - after.gather(1, chosen).exp())[:, 0]
    most_score = max(most_score, 1e-30)
    # Far below its threshold a score costs nothing, and its logarithm would have no finite gradient.
    excess = F.relu(score.clamp(min=most_score / 10).log() - math.log(most_score) + 0.5)
    fragility_excess = F.relu((fragility - most_fragility) / (abs(most_fragility) + 0.01) + 0.2)
    loss: Tensor = F.relu(margin + CONFIDENCE) + (margin < 0) * (excess + fragility_excess)
    return loss


def measure_entropy(logits: Tensor) -> Tensor:
    """Predictive entropy of K networks, [n], from logits [K, n, C]; its gradient is finite."""
    return _measure_entropy(average_logits(logits))


def measure_disagreement(logits: Tensor) -> Tensor:
    """Mutual information of K networks, [n], from logits [K, n, C]; its gradient is finite."""
    return measure_entropy(logits) - _measure_entropy(logits.log_softmax(-1)).mean(0)


def _measure_entropy(log_probabilities: Tensor) -> Tensor:
    """Shannon entropy over the last axis, with finite gradients where probabilities vanish."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def list_attempts(epsilons: dict[Norm, tuple[float, ...]], with_surrogate: bool) -> list[tuple[Tier, Norm, float]]:
    """Lists the unbounded attack, and all possible tiers at each epsilon."""
    tiers = [tier for tier in TIERS if with_surrogate or tier.knows != "surrogate"]
    attempts = [(tier, norm, epsilon) for norm, sizes in epsilons.items() for epsilon in sizes for tier in tiers]
    return [UNBOUNDED, *attempts]
