"""Regression: outputs are expectations of numbers, and uncertainty is measured as variance.

Shapes: S members, B inputs, K numbers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.schema import STRICT, Deviations, Means
from models.tasks.kind import Flag, TaskKind
from models.tasks.probabilities import NotFiniteError
from models.tasks.quantity import Axis, Quantity, list_quantities

LEAST_NOISE = 1e-3
"""Least standard deviation of noise that is learned, in units of the numbers' deviation in training."""

EACH_NUMBER: tuple[Axis, ...] = ("inputs", "outputs")


@dataclasses.dataclass(frozen=True)
class RegressionUncertainty:
    """Uncertainty of S members' expectations of K numbers. Every tensor is in double precision.

    The predictive distribution is the mixture of the members' normal distributions. Its variance is the sum of two: the
    noise variance, which more data would not reduce, and the variance of the members' expectations, their disagreement.
    """

    mean: Annotated[Tensor, Quantity("Mean of the members' expectations.", unit="outputs", axes=EACH_NUMBER)]
    standard_deviation: Annotated[Tensor, Quantity("Root of the variance.", unit="outputs", axes=EACH_NUMBER)]
    variance: Annotated[
        Tensor, Quantity("Total uncertainty: noise plus epistemic variance.", unit="outputs²", axes=EACH_NUMBER)
    ]
    noise_variance: Annotated[
        Tensor, Quantity("Variance of observations around their expectation.", unit="outputs²", axes=EACH_NUMBER)
    ]
    epistemic_variance: Annotated[
        Tensor,
        Quantity("Variance of the members' expectations: their disagreement.", unit="outputs²", axes=EACH_NUMBER),
    ]
    """The divisor is S, because the members are the whole mixture."""
    relative_deviation: Annotated[
        Tensor,
        Quantity(
            "Root of the epistemic variance, relative to each number's variance in training and averaged over numbers.",
            unit="1",
            score=True,
            monitored=True,
        ),
    ]


def measure_regression_uncertainty(
    member_expectations: Tensor, member_noise: Tensor, unit: Tensor
) -> RegressionUncertainty:
    """Measures the uncertainty of an ensemble.

    Args:
        member_expectations: [S, B, K].
        member_noise: standard deviation of the observations around each member's expectation, [S, B, K].
        unit: standard deviation of the numbers in training, [K].

    Raises:
        NotFiniteError: if an expectation is not finite.
    """
    if not (torch.isfinite(member_expectations).all() and torch.isfinite(member_noise).all()):
        raise NotFiniteError("a sampled network gave an expectation that is not finite")
    members = member_expectations.double()
    epistemic = members.var(0, correction=0)
    noise = member_noise.double().square().mean(0)
    return RegressionUncertainty(
        mean=members.mean(0),
        standard_deviation=(noise + epistemic).sqrt(),
        variance=noise + epistemic,
        noise_variance=noise,
        epistemic_variance=epistemic,
        relative_deviation=(epistemic / unit.double().square()).mean(-1).sqrt(),
    )


@dataclass(frozen=True, config=STRICT)
class Regression(TaskKind):
    """A task whose first K outputs, times `std` plus `mean`, are expectations of K named numbers with normal noise.

    If the noise is not known, there are K more outputs, and softplus of these, times `std`, is its standard deviation
    (heteroscedastic regression: Nix & Weigend 1994).
    """

    names: Annotated[tuple[str, ...], Field(min_length=1), FailFast()]
    mean: Means
    std: Deviations
    noise_std: Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(fail_fast=True)] | None
    """Standard deviation of the observations around their expectation, in the numbers' own units, if it is known
    beforehand. None if the networks learn it."""
    kind: Literal["regression"] = "regression"

    quantities: ClassVar[Mapping[str, Quantity]] = list_quantities(RegressionUncertainty)
    flag_scores: ClassVar[Mapping[Flag, tuple[str, ...]]] = {"out_of_distribution": ("relative_deviation",)}

    def __post_init__(self) -> None:
        noise = self.mean if self.noise_std is None else self.noise_std
        if not len(self.mean) == len(self.std) == len(noise) == len(self.names):
            raise ValueError(f"mean, std and noise_std must have one number for each of {len(self.names)} names")

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.names

    @property
    def num_outputs(self) -> int:
        return len(self.names) * (2 if self.noise_std is None else 1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Expectations in the numbers' own units, [S, B, K], from the networks' outputs."""
        mean, std = (torch.tensor(values, device=outputs.device) for values in (self.mean, self.std))
        return outputs[..., : len(self.names)] * std + mean

    def predict_noise(self, outputs: Tensor) -> Tensor:
        """Standard deviation of the noise that each network expects, in the numbers' own units, [S, B, K]."""
        if self.noise_std is not None:
            return torch.tensor(self.noise_std, device=outputs.device).expand_as(outputs)
        std = torch.tensor(self.std, device=outputs.device)
        return std * (F.softplus(outputs[..., len(self.names) :]) + LEAST_NOISE)

    def measure(self, outputs: Tensor, jittered: Tensor | None = None) -> RegressionUncertainty:
        """Measures the uncertainty of an ensemble from its members' outputs.

        Raises:
            NotFiniteError: if an expectation is not finite.
        """
        return measure_regression_uncertainty(
            self.predict(outputs), self.predict_noise(outputs), torch.tensor(self.std)
        )

    def measure_loss(self, outputs: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """−log N(y; f, σ²) without its constant, averaged over examples [S, B]; y is [S, B, K].

        If σ is known, that is ½ ‖(f − y)/σ‖². If it is learned, each number's loss counts by σ/std, without gradient,
        as otherwise examples with much noise hardly count and the expectation is not learned there (β-NLL with β = ½:
        Seitzer et al., ICLR 2022).
        """
        noise = self.predict_noise(outputs)
        loss = ((self.predict(outputs) - labels) / noise).square() / 2
        if self.noise_std is None:
            relative = noise / torch.tensor(self.std, device=outputs.device)
            loss = relative.detach() * (loss + relative.log())
        return loss.sum(-1).mean()

    def measure_fit(self, outputs: Tensor, labels: Tensor) -> tuple[str, Tensor]:
        return "root_mean_square_error", (self.predict(outputs) - labels).square().mean().sqrt()

    def measure_quality(self, members: Tensor, labels: Tensor) -> dict[str, float]:
        return {
            "single error": (members - labels).square().mean().sqrt().item(),
            "ensemble error": (members.mean(0) - labels).square().mean().sqrt().item(),
            "deviation": members.var(0).mean().sqrt().item(),
        }
