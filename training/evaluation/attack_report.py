"""Results of attacks on a checkpoint, kept in `attack.json`, and checks of the attacks' strength.

Shapes: n images.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.checkpoint_files import CheckpointError
from models.precision import Precision
from models.predictions.detection import DEFAULT_RATE, Calibration
from models.predictions.perturbation import Norm
from models.tasks.kind import Flag

Report = TypeVar("Report")

FILE = "attack.json"
RATES = (0.01, DEFAULT_RATE)
"""Budgets of false alarms at which evasion is measured. The attacker aims at the larger, which is harder to evade."""

FLAGS: tuple[Flag, ...] = ("out_of_distribution", "suspect_adversarial")


@dataclass(frozen=True)
class Tier:
    """What an attacker knows, and how much it computes."""

    name: str
    knows: Literal["surrogate", "fixed", "expectation", "seed"]
    """It knows another model, one fixed draw of the ensemble, the sampler, or the very networks that will answer."""
    networks: int
    """K, the networks in each step; a quarter as many see noise."""
    stops: bool = False
    """Whether it stops once the attacked networks are fooled, and ignores flags, as in HyperGAN's paper."""


UNBOUNDED: tuple[Tier, Norm, float] = Tier("expectation, K = 5", "expectation", 5), "linf", 1.0
"""An attack that must always find wrong answers."""

EXPECTED_ORDER = (
    ("five networks in a step do at least as well as one", "expectation, K = 5", "expectation, K = 1"),
    ("twenty networks do at least as well as five", "expectation, K = 20", "expectation, K = 5"),
    ("a hundred networks do at least as well as twenty", "expectation, K = 100", "expectation, K = 20"),
    ("the model helps at least as much as a surrogate", "expectation, K = 20", "transfer"),
    ("the full attack is at least as strong as the paper's protocol", "expectation, K = 20", "the paper's protocol"),
    ("fresh networks help at least as much as a fixed ensemble", "expectation, K = 20", "fixed ensemble, K = 5"),
    ("knowing the seed does not hurt", "seed known", "expectation, K = 20"),
)
"""Expectations: in words, the tier that should do at least as well, and the other tier."""


@dataclass(frozen=True)
class Budget:
    """How much an attacker may compute."""

    images: int = 100
    steps: int = 500
    restarts: int = 5
    precision: Precision = "float32"
    """In which networks are attacked, and judge."""

    @property
    def effort(self) -> str:
        """What is spent on each image, in words."""
        return f"{self.steps} steps and {self.restarts} restart{'' if self.restarts == 1 else 's'}"


@dataclass(frozen=True)
class Outcome:
    """Result of one attack, as shares over images and judging draws."""

    tier: str
    norm: Norm
    epsilon: float
    wrong: float
    auroc: float | None
    """AUROC of the score that raises `out_of_distribution`: wrong answers on attacked images against clean images."""
    evades: dict[float, float]
    """Share that is wrong without any flag, by budget of false alarms."""
    evades_out_of_distribution: dict[float, float]
    """Share that is wrong without that flag."""
    evades_by_image: tuple[float, ...] = ()
    """`evades` of each image at the default budget; empty in older files."""


@dataclass(frozen=True)
class Check:
    """A check of the attacks' strength."""

    what: str
    holds: bool


@dataclass(frozen=True)
class AttackReport:
    """The contents of `attack.json`."""

    version: str
    """Version of the checkpoint whose thresholds were used. Calibrating again makes another version."""
    budget: Budget
    surrogate: str | None
    networks: int
    """Size of the ensemble that answers."""
    clean_wrong: float
    clean_flagged: dict[float, float]
    outcomes: tuple[Outcome, ...]
    checks: tuple[Check, ...]
    thresholds: dict[Flag, dict[float, float]] = dataclasses.field(default_factory=dict)
    """Thresholds of that version, by flag and budget of false alarms; empty in older files."""


def list_thresholds(calibration: Calibration, networks: int) -> dict[Flag, dict[float, float]]:
    """Thresholds of each flag for an ensemble of some size, by budget of false alarms."""
    thresholds = calibration.for_size(networks).thresholds
    return {flag: {rate: thresholds[flag][calibration.find_rate(rate)] for rate in RATES} for flag in FLAGS}


def check_strength(outcomes: Sequence[Outcome]) -> list[Check]:
    """Checks that attacks which know or compute more succeed at least as often, to two standard errors.

    All attacks use the same images, some of which are easy for all of them. So the error is that of the mean difference
    between two attacks on an image. Outcomes without results for each image are not compared.
    """
    found = {(o.tier, o.norm, o.epsilon): o for o in outcomes}
    checks = []
    if unbounded := found.get((UNBOUNDED[0].name, *UNBOUNDED[1:])):
        checks.append(Check("without a bound, all answers are wrong", unbounded.wrong >= 0.99))
    for what, strong, weak in EXPECTED_ORDER:
        for norm, epsilon in dict.fromkeys((o.norm, o.epsilon) for o in outcomes):
            pair = [found.get((name, norm, epsilon)) for name in (strong, weak)]
            by_image = [outcome.evades_by_image for outcome in pair if outcome]
            if len(by_image) == 2 and all(by_image):
                a, b = torch.tensor(by_image, dtype=torch.float64)
                checks.append(Check(f"{what}, {norm} {epsilon:g}", is_no_less(a, b)))
    return checks


def is_no_less(values: Tensor, others: Tensor) -> bool:
    """Whether the mean of values [n] is at least that of paired others [n], to two standard errors."""
    differences = values - others
    error = differences.std() / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    return bool(differences.mean() >= -2 * error)


def load_attack_report(directory: Path) -> AttackReport | None:
    """Reads the report of attacks on a checkpoint's weights, if any. It names the version that was attacked.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    return load_report(directory / FILE, AttackReport)


def load_report(path: Path, kind: type[Report]) -> Report | None:
    """Reads what was measured of a checkpoint's weights, a dataclass in a file of its own, if it exists.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        report: Report = TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(path, str(error)) from error
    return report
