"""What attacks on a checkpoint found: `attack.json`, and whether the attacks were as strong as they should be.

Shapes: n images.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.checkpoint import CheckpointError
from models.predictions.detection import DEFAULT_RATE, Calibration
from models.predictions.perturbation import Norm
from models.tasks.kind import Flag

FILE = "attack.json"
RATES = (0.01, DEFAULT_RATE)
"""Budgets of false alarms at which evasion is told; the attacker aims at the larger, which is harder to evade."""

FLAGS: tuple[Flag, ...] = ("out_of_distribution", "suspect_adversarial")


@dataclass(frozen=True)
class Tier:
    """What an attacker knows, and how much they compute."""

    name: str
    knows: Literal["surrogate", "fixed", "expectation", "seed"]
    """Another model; some draw of the ensemble; the sampler; or the very networks that will answer."""
    networks: int
    """K, in each step; a quarter as many see noise."""
    stops: bool = False
    """At success against the attacked networks, and regardless of flags, as in HyperGAN's paper."""


UNBOUNDED: tuple[Tier, Norm, float] = Tier("expectation, K = 5", "expectation", 5), "linf", 1.0
"""An attack that must always succeed."""


EXPECTED_ORDER = (
    ("five networks in a step do no worse than one", "expectation, K = 5", "expectation, K = 1"),
    ("twenty do no worse than five", "expectation, K = 20", "expectation, K = 5"),
    ("a surrogate helps no more than the model", "expectation, K = 20", "transfer"),
    ("the paper's protocol is no stronger", "expectation, K = 20", "the paper's protocol"),
    ("a fixed ensemble helps no more than fresh ones", "expectation, K = 20", "fixed ensemble, K = 5"),
    ("to know the seed does not hurt", "seed known", "expectation, K = 20"),
)
"""What must hold, the tier that does at least as well, and the other one."""


@dataclass(frozen=True)
class Budget:
    """Of the attacker."""

    images: int = 100
    steps: int = 500
    restarts: int = 5


@dataclass(frozen=True)
class Outcome:
    """Of one attack, as shares of images and judging draws."""

    tier: str
    norm: Norm
    epsilon: float
    wrong: float
    auroc: float | None
    """Of what raises `out_of_distribution`, wrong answers on attacked images against answers on clean ones."""
    evades: dict[float, float]
    """Wrong, and no flag is raised, by budget of false alarms."""
    evades_out_of_distribution: dict[float, float]
    """Wrong, and that flag is not raised."""
    evades_by_image: tuple[float, ...] = ()
    """`evades` of each image, at the default budget; files of earlier versions of this program lack it."""


@dataclass(frozen=True)
class Check:
    """What must hold if the attacks are as strong as they should be."""

    what: str
    holds: bool


@dataclass(frozen=True)
class AttackReport:
    """What `attack.json` holds."""

    version: str
    """The checkpoint's, at whose thresholds this was measured. Another calibration makes another version."""
    budget: Budget
    surrogate: str | None
    networks: int
    """Of an ensemble that answers."""
    clean_wrong: float
    clean_flagged: dict[float, float]
    outcomes: tuple[Outcome, ...]
    checks: tuple[Check, ...]
    thresholds: dict[Flag, dict[float, float]] = dataclasses.field(default_factory=dict)
    """Those of that version, by budget of false alarms; files of earlier versions of this program lack them."""


def list_thresholds(calibration: Calibration, networks: int) -> dict[Flag, dict[float, float]]:
    """Each flag's, for an ensemble of some size, by budget of false alarms."""
    thresholds = calibration.for_size(networks).thresholds
    return {flag: {rate: thresholds[flag][calibration.find_rate(rate)] for rate in RATES} for flag in FLAGS}


def check_strength(outcomes: Sequence[Outcome]) -> list[Check]:
    """Whether attacks that know more, or compute more, succeed as often or more, to two standard errors.

    All attack the same images, of which some are easy for each of them. So the error is that of the mean difference
    between two attacks on an image; outcomes that do not tell images apart are not compared.
    """
    found = {(o.tier, o.norm, o.epsilon): o for o in outcomes}
    checks = []
    if unbounded := found.get((UNBOUNDED[0].name, *UNBOUNDED[1:])):
        checks.append(Check("without a bound, every answer is wrong", unbounded.wrong >= 0.99))
    for what, strong, weak in EXPECTED_ORDER:
        for norm, epsilon in dict.fromkeys((o.norm, o.epsilon) for o in outcomes):
            pair = [found.get((name, norm, epsilon)) for name in (strong, weak)]
            by_image = [outcome.evades_by_image for outcome in pair if outcome]
            if len(by_image) == 2 and all(by_image):
                a, b = torch.tensor(by_image, dtype=torch.float64)
                checks.append(Check(f"{what}, {norm} {epsilon:g}", is_no_less(a, b)))
    return checks


def is_no_less(values: Tensor, others: Tensor) -> bool:
    """Whether values [n] are on average no less than paired others [n], to two standard errors of the difference."""
    differences = values - others
    error = differences.std() / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    return bool(differences.mean() >= -2 * error)


def load_attack_report(directory: Path) -> AttackReport | None:
    """What attacks on a checkpoint's weights found, if they were attacked; at the version that the report names.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        report: AttackReport = TypeAdapter(AttackReport).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(path, str(error)) from error
    return report
