"""What a target network's outputs mean: class probabilities, or numbers with a noise of their own.

Shapes: S members, B inputs, K outputs of the target network.
"""

from typing import Annotated, Literal

import torch
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.inputs.spec import Deviations, Means
from models.targets.layers import STRICT
from models.tasks.uncertainty import (
    RegressionUncertainty,
    Uncertainty,
    measure_regression_uncertainty,
    measure_uncertainty,
)


@dataclass(frozen=True, config=STRICT)
class Classification:
    """Outputs are logits of `classes`."""

    classes: Annotated[tuple[str, ...], Field(min_length=2), FailFast()]
    kind: Literal["classification"] = "classification"

    @property
    def num_outputs(self) -> int:
        return len(self.classes)

    def predict(self, outputs: Tensor) -> Tensor:
        """Class probabilities from the networks' outputs, [S, B, K]."""
        return outputs.softmax(-1)

    def measure(self, outputs: Tensor) -> Uncertainty:
        """The uncertainty of an ensemble from its members' outputs, [S, B, K]."""
        return measure_uncertainty(outputs)


@dataclass(frozen=True, config=STRICT)
class Regression:
    """Outputs times `std` plus `mean` are the expectations of named numbers, whose noise is normal."""

    names: Annotated[tuple[str, ...], Field(min_length=1), FailFast()]
    mean: Means
    std: Deviations
    noise_std: Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], FailFast()]
    """Of the observations around their expectation, known beforehand, in the numbers' own units."""
    kind: Literal["regression"] = "regression"

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == len(self.noise_std) == len(self.names):
            raise ValueError(f"mean, std and noise_std must have one number for each of {len(self.names)} names")

    @property
    def num_outputs(self) -> int:
        return len(self.names)

    def predict(self, outputs: Tensor) -> Tensor:
        """Expectations in the numbers' own units from the networks' outputs, [S, B, K]."""
        mean, std = (torch.tensor(values, device=outputs.device) for values in (self.mean, self.std))
        return outputs * std + mean

    def measure(self, outputs: Tensor) -> RegressionUncertainty:
        """The uncertainty of an ensemble from its members' outputs, [S, B, K]."""
        noise_std, unit = torch.tensor(self.noise_std), torch.tensor(self.std)
        return measure_regression_uncertainty(self.predict(outputs), noise_std, unit)


Task = Annotated[Classification | Regression, Field(discriminator="kind")]
