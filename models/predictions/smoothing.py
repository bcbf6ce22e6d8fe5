"""Randomised smoothing: a certificate that no change of an image within a radius changes the most probable answer.

The smoothed classifier answers with the class that a fresh network most probably finds in the image with fresh Gaussian
noise. If that class has a probability of at least p > 1/2, no change of L2 norm below σ Φ⁻¹(p) makes another class more
probable (Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, theorem 1).
The theorem holds for any classifier that is random independently of the image, so also for one that draws its weights.
Samples bound p from below, so a certificate is wrong with a probability of at most α.

Each sample draws noise and networks of its own, and the certificate is for the distribution that they come from. If a
sample asks several networks for their mean probabilities, it is for ensembles of that size, which certify larger radii
(Horváth, Müller, Fischer & Vechev, "Boosting Randomized Smoothing with Variance Reduced Classifiers", ICLR 2022). If a
sampler has modes, or only M networks, samples use them in turn. The number of votes then varies less than if each
sample chose at random, so the bounds still hold (Hoeffding, "On the Distribution of the Number of Successes in
Independent Trials", 1956).

Bounds are looked at several times, each with an equal share of α, as in adaptive sampling of the same paper. Whatever
decides whether to go on, the certificate holds.

Shapes: B images, n samples, k networks for each, K classes.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from models.inputs.image import ImageSpec
from models.noise import permutations, standard_normal
from models.precision import Precision
from models.predictions.binomial import bound_above, bound_below
from models.predictions.prediction import count_networks_per_block, draw_weights
from models.samplers.sampler import WeightSampler
from models.tasks.probabilities import NotFiniteError

NOISE_STREAM, TURN_STREAM = 41, 42
"""Streams of the noise, and of the order in which the networks of a finite sampler take turns."""

SELECTING = 100
"""Samples that select the class whose probability is then bounded by others."""

FEWEST = 100
"""Fewest samples before a bound is looked at."""

COST_PER_STEP = 3_200
"""Most images × networks that are evaluated before other work may run, or one sample."""

NUMBERS_AT_ONCE = 2**24
"""Most pixels of noisy images in memory at a time: 64 MB, or those of one network."""


@dataclass(frozen=True)
class Smoothing:
    """What is to be certified.

    Raises:
        ValueError: if a number is out of its range.
    """

    deviation: float
    """Standard deviation σ of the noise, in units of the pixels' range."""
    samples: int = 10_000
    """Most samples n, besides those that select the class. With more, larger radii can be certified."""
    networks: int = 1
    """k."""
    level: float = 0.001
    """α, the probability that a certificate is wrong."""
    radius: float | None = None
    """A radius that is enough: sampling stops once it is certified, or cannot be."""

    def __post_init__(self) -> None:
        if not (self.deviation > 0 and 0 < self.level < 1 and self.samples > 0 and self.networks > 0):
            raise ValueError("the deviation, level, samples and networks must be positive, and the level below 1")
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"the radius must be positive, not {self.radius}")

    @property
    def looks(self) -> list[int]:
        """Numbers of samples after which bounds are looked at."""
        return sorted({self.samples, *(n for n in (self.samples // 100, self.samples // 10) if n >= FEWEST)})

    @property
    def needed(self) -> float:
        """Probability that is to be proved."""
        return 0.5 if self.radius is None else NormalDist().cdf(self.radius / self.deviation)

    def measure_radius(self, probability: float) -> float:
        """L2 radius that a probability certifies, in units of the pixels' range; 0 up to 1/2."""
        return self.deviation * NormalDist().inv_cdf(probability) if probability > 0.5 else 0.0


@dataclass(frozen=True)
class Certificate:
    """What is proved about one image."""

    label: int | None
    """The most probable class; None if it was not found with enough confidence."""
    radius: float
    """L2 radius within which it stays the most probable, in units of the pixels' range; 0 without a class."""
    least_probability: float
    """Lower bound on the probability of the class that was selected."""
    votes: int
    """Samples that found it."""
    samples: int
    """Samples that were asked, besides those that selected it."""


def certify(
    sampler: WeightSampler, spec: ImageSpec, pixels: Tensor, seed: int, smoothing: Smoothing, precision: Precision
) -> Generator[None, None, list[Certificate]]:
    """Certifies images. They share networks and noise, so each certificate holds, but not independently of the others.

    Args:
        sampler: a sampler of classifiers, in evaluation mode.
        spec: the target's input.
        pixels: uint8 [B, C, H, W].
        seed: seed of noise and networks. It must be drawn after the images are known; a certificate says nothing of
            images that were made for its seed.
        smoothing: what is to be certified.
        precision: precision of the networks and their products.

    Yields:
        after each step, so that other work can run in between.

    Raises:
        NotFiniteError: if an output is not finite.
        ValueError: if the sampler has fewer networks than a sample asks.
    """
    if sampler.limit_networks(smoothing.networks) < smoothing.networks:
        raise ValueError(f"the sampler has only {sampler.num_networks} networks, not {smoothing.networks}")
    count = _Counter(sampler, spec, seed, smoothing, precision)
    chosen = (yield from count.votes(pixels, range(SELECTING))).argmax(-1)
    looks, start = smoothing.looks, 0
    level = smoothing.level / len(looks)
    found: dict[int, Certificate] = {}
    votes, bounds = [0] * len(pixels), [0.0] * len(pixels)
    for stop in looks:
        left = [i for i in range(len(pixels)) if i not in found]
        samples = range(SELECTING + start, SELECTING + stop)
        counted = yield from count.votes(pixels[left], samples)
        for i, own in zip(left, counted[torch.arange(len(left)), chosen[left]].tolist(), strict=True):
            votes[i] += own
            bounds[i] = max(bounds[i], bound_below(votes[i], stop, level))
            hopeless = bound_above(votes[i], stop, level) <= smoothing.needed
            enough = smoothing.radius is not None and bounds[i] >= smoothing.needed
            if hopeless or enough or stop == looks[-1]:
                label = int(chosen[i]) if bounds[i] > 0.5 else None
                found[i] = Certificate(label, smoothing.measure_radius(bounds[i]), bounds[i], votes[i], stop)
        if len(found) == len(pixels):
            break
        start = stop
    return [found[i] for i in range(len(pixels))]


class _Counter:
    """Counts the classes that networks find in noisy images."""

    def __init__(
        self, sampler: WeightSampler, spec: ImageSpec, seed: int, smoothing: Smoothing, precision: Precision
    ) -> None:
        self._sampler, self._spec, self._seed, self._precision = sampler, spec, seed, precision
        self._deviation, self._networks = smoothing.deviation, smoothing.networks

    def votes(self, pixels: Tensor, samples: range) -> Generator[None, None, Tensor]:
        """Number of samples that find each class, int64 [B, K]."""
        images, counts = pixels / 255, None
        cost = self._networks * len(pixels)
        at_once = max(1, min(COST_PER_STEP // cost, NUMBERS_AT_ONCE // (cost * pixels[0].numel())))
        for start in range(samples.start, samples.stop, at_once):
            found = self._ask(images, samples[start - samples.start :][:at_once])
            votes = torch.nn.functional.one_hot(found.argmax(-1), found.shape[-1]).sum(0)
            counts = votes if counts is None else counts + votes
            yield
        assert counts is not None
        return counts

    @torch.inference_mode()
    def _ask(self, images: Tensor, samples: range) -> Tensor:
        """Mean probabilities of the networks of each sample, [n, B, K]."""
        target, k = self._sampler.target, self._networks
        noise = self._deviation * standard_normal(self._seed, samples, images[0].numel(), NOISE_STREAM)
        noise = noise.view(-1, 1, *images.shape[1:])
        members, logits = range(samples.start * k, samples.stop * k), []
        block = max(1, min(count_networks_per_block(target), NUMBERS_AT_ONCE // images.numel()))
        for own in (members[i : i + block] for i in range(0, len(members), block)):
            weights = draw_weights(self._sampler, self._seed, self._choose(own), self._precision)
            places = torch.tensor([member // k - samples.start for member in own])
            noisy = self._spec.prepare(255 * (images + noise[places]))
            logits.append(target.forward(weights, noisy.to(self._sampler.device)).cpu())
        found = torch.cat(logits)
        if not torch.isfinite(found).all():
            raise NotFiniteError("a sampled network gave logits that are not finite")
        mean: Tensor = found.softmax(-1).unflatten(0, (-1, k)).mean(1)
        return mean

    def _choose(self, members: range) -> Sequence[int]:
        """The members themselves, or networks of a finite sampler that take turns in random order."""
        count = self._sampler.num_networks
        if count is None:
            return members
        turns = sorted({member // count for member in members})
        orders = dict(zip(turns, permutations(self._seed, turns, count, TURN_STREAM).tolist(), strict=True))
        return [orders[member // count][member % count] for member in members]
