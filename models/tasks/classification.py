"""Classification: outputs are logits, and uncertainty is measured in nats.

Shapes: S members, J of them that also see noisy inputs, B inputs, K classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.schema import STRICT
from models.tasks.kind import Flag, TaskKind
from models.tasks.probabilities import (
    average_logits,
    compute_probabilities,
    measure_disagreement,
    shannon_entropy,
)
from models.tasks.quantity import Quantity, list_quantities


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """Uncertainty of S members' class probabilities. Every tensor is in double precision.

    The predictive entropy is the sum of two parts: the expected entropy, ambiguity that the members agree on, and the
    mutual information of prediction and network, their disagreement (Depeweg et al., ICML 2018).
    """

    probabilities: Tensor
    """Mean over members, [B, K]."""
    log_probabilities: Tensor
    """Logarithm of the mean, finite even for tiny probabilities, [B, K]."""
    predictive_entropy: Annotated[
        Tensor,
        Quantity("Entropy of the mean probabilities: total uncertainty.", unit="nats", score=True, monitored=True),
    ]
    expected_entropy: Annotated[
        Tensor, Quantity("Mean entropy of the members: ambiguity that they agree on.", unit="nats")
    ]
    mutual_information: Annotated[
        Tensor,
        Quantity(
            "Predictive minus expected entropy: the members' disagreement.", unit="nats", score=True, monitored=True
        ),
    ]
    variation_ratio: Annotated[
        Tensor, Quantity("Share of members that do not vote for the most chosen class.", unit="1", score=True)
    ]
    max_probability: Annotated[Tensor, Quantity("1 − the largest mean probability.", unit="1", score=True)]
    energy: Annotated[Tensor, Quantity("−ln Σ exp of the mean logits.", unit="nats", score=True)]
    """Liu et al., NeurIPS 2020; it may be negative."""
    fragility: Tensor | None = None
    """Loss of the chosen class's probability under small noise, by the J networks, [B]; None if no network saw noise.
    If the networks, each with its own noise, do not repeat the answer, it depends on details that the noise hides."""


def measure_uncertainty(logits: Tensor, jittered: Tensor | None = None) -> Uncertainty:
    """Measures the uncertainty of an ensemble.

    Args:
        logits: logits of the members, [S, B, K].
        jittered: logits of the first J members for noisy inputs, [J, B, K], if they saw any.

    Raises:
        NotFiniteError: if a logit is not finite.
    """
    members = compute_probabilities(logits)
    mean = members.mean(0)
    predictive, expected = shannon_entropy(mean), shannon_entropy(members).mean(0)
    votes = F.one_hot(members.argmax(-1), members.shape[-1]).double().mean(0)
    fragility = None
    if jittered is not None:
        chosen = mean.argmax(-1, keepdim=True)
        before, after = members[: len(jittered)].mean(0), compute_probabilities(jittered).mean(0)
        fragility = (before.gather(-1, chosen) - after.gather(-1, chosen)).squeeze(-1)
    return Uncertainty(
        probabilities=mean,
        log_probabilities=average_logits(logits.double()),
        predictive_entropy=predictive,
        expected_entropy=expected,
        mutual_information=(predictive - expected).clamp(min=0),
        variation_ratio=1 - votes.amax(-1),
        max_probability=1 - mean.amax(-1),
        energy=-logits.double().mean(0).logsumexp(-1),
        fragility=fragility,
    )


@dataclass(frozen=True, config=STRICT)
class Classification(TaskKind):
    """A task whose outputs are logits of `classes`."""

    classes: Annotated[tuple[str, ...], Field(min_length=2), FailFast()]
    kind: Literal["classification"] = "classification"

    quantities: ClassVar[Mapping[str, Quantity]] = list_quantities(Uncertainty)
    has_classes: ClassVar[bool] = True
    flag_scores: ClassVar[Mapping[Flag, tuple[str, ...]]] = {
        "out_of_distribution": ("predictive_entropy", "mutual_information"),
        "suspect_adversarial": ("fragility",),
    }
    noisy_scores: ClassVar[frozenset[str]] = frozenset({"fragility"})

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.classes

    def predict(self, outputs: Tensor) -> Tensor:
        """Class probabilities from the networks' outputs, [S, B, K]."""
        return outputs.softmax(-1)

    def measure(self, outputs: Tensor, jittered: Tensor | None = None) -> Uncertainty:
        """Measures the uncertainty of an ensemble: `measure_uncertainty`."""
        return measure_uncertainty(outputs, jittered)

    def measure_loss(self, outputs: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Mean cross-entropy per example, from logits [S, B, K], labels [S, B] and class weights [K], if any.

        The expectation of a weighted mean is that of all examples, for any B.
        """
        logits, labels = outputs.flatten(0, 1), labels.flatten()
        if class_weights is None:
            return F.cross_entropy(logits, labels)
        return F.cross_entropy(logits, labels, class_weights, reduction="none").mean()

    def measure_fit(self, outputs: Tensor, labels: Tensor) -> tuple[str, Tensor]:
        return "accuracy", (outputs.argmax(-1) == labels).float().mean()

    def measure_quality(self, members: Tensor, labels: Tensor) -> dict[str, float]:
        return {
            "single accuracy": (members.argmax(-1) == labels).double().mean().item(),
            "ensemble accuracy": (members.mean(0).argmax(-1) == labels).double().mean().item(),
            "disagreement": measure_disagreement(members),
        }
