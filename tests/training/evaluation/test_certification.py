"""Certificates of test images: what is told of them, and where it is kept."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from models.checkpoint import Checkpoint, load_checkpoint
from models.checkpoint_files import CheckpointError
from models.predictions.smoothing import Smoothing
from tests.checkpoints import save_curve
from training.data.datasets import load_digits
from training.evaluation.certification import (
    IMAGES_PER_SEED,
    Certification,
    add_certification,
    certify_examples,
    load_certification_report,
)
from training.runs.certificates import certify_directory

CERTIFICATION = Certification(0.5, 1000, 1, 0.001, "float32", (0.2, None, -0.4, 1.0, 0.0))
CPU = torch.device("cpu")


def test_certified_accuracies_known_answers() -> None:
    """Of five images, one is not decided, another class is certified for one, and one has no radius."""
    assert [CERTIFICATION.measure_accuracy(radius) for radius in (0, 0.2, 0.25, 1.0, 1.25)] == [0.4, 0.4, 0.2, 0.2, 0]
    assert CERTIFICATION.average_radius == pytest.approx(1.2 / 5)
    assert CERTIFICATION.abstained == 0.2


def test_a_report_keeps_other_settings() -> None:
    report = add_certification(None, CERTIFICATION)
    other = dataclasses.replace(CERTIFICATION, networks=8)
    report = add_certification(report, other)
    again = dataclasses.replace(CERTIFICATION, radii=(1.0,))
    assert add_certification(report, again).certifications == (again, other)


def test_a_checkpoint_is_certified_and_its_card_says_so(checkpoints: Path, tmp_path: Path) -> None:
    directory = tmp_path / "digits"
    shutil.copytree(checkpoints / "digits", directory)
    for networks in (1, 2):
        found = certify_directory(directory, tmp_path, CPU, 3, Smoothing(0.1, 100, networks), "float32")
        assert len(found.radii) == 3
    report = load_certification_report(directory)
    assert report is not None
    assert [own.networks for own in report.certifications] == [1, 2]
    assert report.certifications[1] == found
    card = (directory / "README.md").read_text()
    assert "## Certificates" in card
    assert f"| 0.1 | 100 | 2 | 0.001 | float32 | 3 | {found.average_radius:.3f} |" in card
    (directory / "certificates.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"certificates\.json"):
        certify_directory(directory, tmp_path, CPU, 3, Smoothing(0.1, 100), "float32")


def test_images_are_certified_in_groups_with_noise_of_their_own(checkpoint: Checkpoint) -> None:
    digits = load_digits(Path()).test
    examples = digits[torch.arange(IMAGES_PER_SEED + 1) * 0]  # one image again and again
    radii = certify_examples(checkpoint, examples, Smoothing(0.1, 200)).radii
    assert len(set(radii[:IMAGES_PER_SEED])) == 1
    assert radii[-1] != radii[0]


def test_what_is_no_classifier_of_images_is_refused(tmp_path: Path) -> None:
    save_curve(tmp_path / "curve")
    curve = load_checkpoint(tmp_path / "curve")
    with pytest.raises(ValueError, match="only classifiers of images"):
        certify_examples(curve, load_digits(Path()).test[:1], Smoothing(0.1, 100))
    with pytest.raises(CheckpointError, match="only classifiers of images"):  # before it looks for data
        certify_directory(tmp_path / "curve", tmp_path / "none", CPU, 1, Smoothing(0.1, 100), "float32")
