"""Certificates of test images by randomised smoothing, kept in `certificates.json`.

Shapes: n images.
"""

from pathlib import Path

import torch
from pydantic.dataclasses import dataclass

from models.checkpoint import Checkpoint
from models.inputs.image import ImageSpec
from models.precision import Precision
from models.predictions.smoothing import Smoothing, certify
from training.data.dataset import Examples
from training.evaluation.attack_report import load_report
from training.progress import Bar

FILE = "certificates.json"

IMAGES_PER_SEED = 25
"""Images that share noise and networks."""

CERTIFYING_SEED = 4 * 10**15
"""Seed of the first images' noise and networks."""

STEP = 0.25
"""Distance of the radii at which certified accuracy is told, in units of the pixels' range."""


@dataclass(frozen=True)
class Certification:
    """Certificates of the first test images, for one smoothing."""

    sigma: float
    samples: int
    networks: int
    """k, asked of each noisy copy."""
    alpha: float
    precision: Precision
    radii: tuple[float | None, ...]
    """Certified radius of each image whose label was found, minus that of each for which another class was; None for
    those that were not decided."""

    @property
    def settings(self) -> tuple[float, int, int, float, Precision]:
        """What was certified. A later certification of the same replaces this one."""
        return self.sigma, self.samples, self.networks, self.alpha, self.precision

    def measure_accuracy(self, radius: float) -> float:
        """Share of images whose label is certified within a radius at least; at 0, the accuracy of what is decided."""
        return sum(own is not None and own > 0 and own >= radius for own in self.radii) / len(self.radii)

    @property
    def average_radius(self) -> float:
        """Average certified radius (Zhai et al., "MACER", ICLR 2020): the mean over images, 0 for those without their
        label."""
        return sum(max(0.0, own or 0.0) for own in self.radii) / len(self.radii)

    @property
    def abstained(self) -> float:
        """Share of images that were not decided."""
        return sum(own is None for own in self.radii) / len(self.radii)


@dataclass(frozen=True)
class CertificationReport:
    """The contents of `certificates.json`."""

    certifications: tuple[Certification, ...]


def certify_examples(
    checkpoint: Checkpoint, examples: Examples, smoothing: Smoothing, precision: Precision = "float32"
) -> Certification:
    """Certifies examples by a classifier's networks.

    Raises:
        ValueError: if the networks do not see images themselves, if there are no classes, or if there are fewer
            networks than a sample asks.
    """
    spec = check_certifiable(checkpoint)
    radii: list[float | None] = []
    with Bar("certifying", "image", len(examples)) as bar:
        for start in range(0, len(examples), IMAGES_PER_SEED):
            pixels = examples.inputs[start : start + IMAGES_PER_SEED]
            steps = certify(checkpoint.sampler, spec, pixels, CERTIFYING_SEED + start, smoothing, precision)
            try:
                while True:
                    next(steps)
            except StopIteration as end:
                found = end.value
            labels = examples.labels[start : start + IMAGES_PER_SEED].tolist()
            for certificate, label in zip(found, labels, strict=True):
                sign = 1 if certificate.label == label else -1
                radii.append(None if certificate.label is None else sign * certificate.radius)
            bar.update(len(pixels))
    return Certification(
        smoothing.deviation, smoothing.samples, smoothing.networks, smoothing.level, precision, tuple(radii)
    )


def check_certifiable(checkpoint: Checkpoint) -> ImageSpec:
    """The images that a classifier's networks see.

    Raises:
        ValueError: if the networks do not see images themselves, or if there are no classes.
    """
    spec = checkpoint.input
    if not (isinstance(spec, ImageSpec) and checkpoint.config.task.has_classes):
        raise ValueError("only classifiers of images that the networks see themselves can be certified")
    return spec


def list_radii(certification: Certification) -> list[float]:
    """Radii at which certified accuracy is told: from 0 to the largest that is certified."""
    largest = max((own or 0.0 for own in certification.radii), default=0.0)
    return torch.arange(0, largest + STEP, STEP).tolist()


def add_certification(report: CertificationReport | None, certification: Certification) -> CertificationReport:
    """A report with one more certification, which replaces that of the same settings."""
    kept = [own for own in (report.certifications if report else ()) if own.settings != certification.settings]
    return CertificationReport(tuple(sorted([*kept, certification], key=lambda own: own.settings)))


def load_certification_report(directory: Path) -> CertificationReport | None:
    """Reads the certificates of a checkpoint's weights, if any.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    return load_report(directory / FILE, CertificationReport)
