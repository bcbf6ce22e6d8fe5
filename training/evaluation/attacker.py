"""An attacker who knows everything about a classifier and its flags except, usually, the seed.

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

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.checkpoint import Checkpoint
from models.inputs.image import ImageSpec
from models.noise import permutations, uniform
from models.precision import DTYPES
from models.predictions.detection import DEFAULT_RATE
from models.predictions.perturbation import ATTACK_STREAM, Descent, Norm, measure_margin
from models.predictions.prediction import FEATURE_DISTANCE, JITTERED_NETWORKS, ScoreName
from models.predictions.surprise import COMBINED_SURPRISE, measure_surprise
from models.tasks.probabilities import average_logits
from training.evaluation.attack_report import FLAGS, Budget, Tier
from training.progress import track

ATTACKER_SEED, JUDGE_SEED = 1_000_000, 10**12

TRIALS = 4
"""Fresh draws by which an attacker compares what it found."""

CONFIDENCE = 2.0
"""Margin that the attacker aims at, in nats, so that other draws err, too."""

SLACK = 0.5
"""How far below its threshold the attacker wants a score, in nats."""


class Attacker:
    """Perturbs images with the knowledge of a tier.

    Args:
        victim: the calibrated checkpoint whose answer and flags are to be evaded.
        attacked: the checkpoint that gives gradients; None for the victim.
        tier: what the attacker knows.
        networks: size of the ensemble that answers.
        budget: how much the attacker may compute, and in which precision.
    """

    def __init__(
        self, victim: Checkpoint, attacked: Checkpoint | None, tier: Tier, networks: int, budget: Budget
    ) -> None:
        assert isinstance(victim.config.input, ImageSpec)
        assert victim.calibration is not None
        self.victim = victim
        self.attacked = attacked or victim
        self.tier = tier
        self.networks = networks
        self.budget = budget
        self.minds_flags = not tier.stops and tier.knows != "surrogate"
        self.least_loss = 0.0 if self.minds_flags else -math.inf
        self.spec = victim.config.input
        size = victim.calibration.for_size(networks)
        index = victim.calibration.find_rate(DEFAULT_RATE)
        self.score, self.levels = size.scores["out_of_distribution"], size.levels
        self.most_score, self.most_fragility = (size.thresholds[flag][index] for flag in FLAGS)

    def perturb(self, images: Tensor, labels: Tensor, norm: Norm, epsilon: float) -> Tensor:
        """Perturbs images [n, C, H, W] between 0 and 1 by at most epsilon; the best of several restarts counts."""
        best, least = images.clone(), torch.full((len(images),), math.inf)
        for restart in track(range(1 if self.tier.stops else self.budget.restarts), self.tier.name, "restart"):
            unsolved = least > self.least_loss
            if not unsolved.any():
                break
            found = self._descend(images[unsolved], labels[unsolved], norm, epsilon, restart)
            loss = self._compare(found, labels[unsolved], restart)
            better = loss < least[unsolved]
            best[unsolved] = torch.where(better.view(-1, 1, 1, 1), found, best[unsolved])
            least[unsolved] = torch.minimum(loss, least[unsolved])
        return best

    def _descend(self, images: Tensor, labels: Tensor, norm: Norm, epsilon: float, restart: int) -> Tensor:
        start = uniform(ATTACKER_SEED + restart, range(len(images)), images[0].numel(), ATTACK_STREAM).view_as(images)
        descent = Descent(images, start, norm, epsilon, self.budget.steps)
        running = torch.ones(len(images), dtype=torch.bool)
        for step in track(range(self.budget.steps), "descending", "step"):
            current = descent.current.requires_grad_()
            logits, jittered = self.evaluate(current, restart, step)
            if self.tier.stops:
                running &= logits.softmax(-1).mean(0).argmax(-1) == labels
                if not running.any():
                    break
            loss = self._measure_loss(current, logits, jittered, labels).sum()
            (gradient,) = torch.autograd.grad(loss, current)
            descent.step(gradient, running)
        return descent.current.detach()

    @torch.no_grad()
    def _compare(self, images: Tensor, labels: Tensor, restart: int) -> Tensor:
        """The loss of finished images, averaged over draws as large as the attacker can make them: [n]."""
        networks = self.networks if self.tier.knows in ("expectation", "seed") else self.tier.networks
        trials = (self.evaluate(images, restart, -1 - trial, networks) for trial in range(TRIALS))
        return torch.stack([self._measure_loss(images, *outputs, labels) for outputs in trials]).mean(0)

    def _measure_loss(self, images: Tensor, logits: Tensor, jittered: Tensor | None, labels: Tensor) -> Tensor:
        if jittered is None:
            return measure_margin(average_logits(logits), labels)
        return measure_joint_loss(logits, jittered, labels, self.measure_excess(images, logits), self.most_fragility)

    def measure_excess(self, images: Tensor, logits: Tensor) -> Tensor:
        """How far the score that raises `out_of_distribution` is above what the attacker wants, in nats: [n]."""
        return measure_excess(self.score, self.measure_score(self.score, images, logits).float(), self.most_score)

    def measure_score(self, name: ScoreName, images: Tensor, logits: Tensor) -> Tensor:
        """A score that can raise `out_of_distribution`, [n], with a gradient."""
        if name == COMBINED_SURPRISE:
            parts = [measure_surprise(self.measure_score(n, images, logits), own) for n, own in self.levels.items()]
            return torch.stack(parts).sum(0)
        if name == FEATURE_DISTANCE:
            assert self.victim.density is not None
            return self.victim.density.measure_distance(self.spec.prepare(255 * images))
        return measure_disagreement(logits) if name == "mutual_information" else measure_entropy(logits)

    def evaluate(
        self, images: Tensor, restart: int, step: int, networks: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of a step's networks on images, [K, n, C], and on images with noise, [J, n, C], if flags matter.

        Args:
            images: [n, C, H, W], between 0 and 1.
            restart: number of the restart.
            step: number of the step. Another step, or restart, has fresh networks if the tier can draw them.
            networks: K, if it is not the tier's.
        """
        seed, members, noisy_members = self._choose(restart, step, networks or self.tier.networks)
        logits = self._forward(seed, members, 255 * images)
        if not self.minds_flags:
            return logits, None
        noisy = self.spec.jitter(255 * images, self.spec.draw_noise(seed, noisy_members))
        return logits, self._forward(seed, noisy_members, noisy)

    def _forward(self, seed: int, members: Sequence[int], pixels: Tensor) -> Tensor:
        sampler = self.attacked.sampler
        with torch.no_grad():
            weights = sampler.generate(sampler.draw_latents(seed, members))
            arranged = sampler.target.arrange(weights, DTYPES[self.budget.precision])
        return sampler.target.forward(arranged, self.spec.prepare(pixels).to(sampler.device)).cpu()

    def _choose(self, restart: int, step: int, networks: int) -> tuple[int, Sequence[int], Sequence[int]]:
        """The seed and the networks that a step attacks, and the networks that see noise."""
        members = range(self.attacked.sampler.limit_networks(networks))
        noisy = min(math.ceil(len(members) / 4), JITTERED_NETWORKS)
        match self.tier.knows:
            case "expectation":
                return ATTACKER_SEED * (2 + restart) + step, members, members[:noisy]
            case "seed":
                order = permutations(ATTACKER_SEED + restart, [step % 2**32], self.networks, ATTACK_STREAM)[0].tolist()
                jittered = [member for member in order if member < JITTERED_NETWORKS]
                return JUDGE_SEED, order[: len(members)], jittered[:noisy]
            case _:
                return ATTACKER_SEED, members, members[:noisy]


def measure_joint_loss(
    logits: Tensor, jittered: Tensor, labels: Tensor, excess: Tensor, most_fragility: float
) -> Tensor:
    """The attacker's loss for each image, [n].

    It is the label's margin, down to a confident error. Where the answer is wrong, the excess of the scores over their
    thresholds is added.

    Args:
        logits: logits of K networks on the images, [K, n, C].
        jittered: logits of the networks that see noise, [J, n, C].
        labels: [n].
        excess: that of the score that raises `out_of_distribution`, [n].
        most_fragility: the threshold of fragility.
    """
    log_mean, after = average_logits(logits), average_logits(jittered)
    margin = measure_margin(log_mean, labels)
    before, chosen = log_mean.max(-1, keepdim=True)
    fragility = (before.exp() - after.gather(1, chosen).exp())[:, 0]
    fragility_excess = F.relu((fragility - most_fragility) / (abs(most_fragility) + 0.01) + 0.2)
    loss: Tensor = F.relu(margin + CONFIDENCE) + (margin < 0) * (excess + fragility_excess)
    return loss


def measure_excess(name: ScoreName, score: Tensor, most: float) -> Tensor:
    """How far scores [n] of a kind are above `SLACK` below their threshold, in nats; 0 for those below that."""
    if name != COMBINED_SURPRISE:  # which is in nats
        most = max(most, 1e-30)
        # Far below its threshold a score costs nothing, and its logarithm would have no finite gradient.
        score, most = score.clamp(min=most / 10).log(), math.log(most)
    return F.relu(score - most + SLACK)


def measure_entropy(logits: Tensor) -> Tensor:
    """Predictive entropy of K networks, [n], from logits [K, n, C]; its gradient is finite."""
    return _measure_entropy(average_logits(logits))


def measure_disagreement(logits: Tensor) -> Tensor:
    """Mutual information of K networks, [n], from logits [K, n, C]; its gradient is finite."""
    return measure_entropy(logits) - _measure_entropy(logits.log_softmax(-1)).mean(0)


def _measure_entropy(log_probabilities: Tensor) -> Tensor:
    """Shannon entropy over the last axis, with finite gradients where probabilities vanish."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)
