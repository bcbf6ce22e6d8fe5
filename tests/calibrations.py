"""Calibrations of networks that are not there, by logits that are drawn."""

import torch
from torch import Tensor

from models.inputs.image import ImageSpec
from models.inputs.kind import InputKind
from models.predictions.detection import Calibration, list_scores
from models.predictions.prediction import Outputs
from models.tasks.classification import Classification
from training.evaluation.calibration import calibrate

TASK = Classification(classes=("a", "b", "c", "d"))
SPEC = ImageSpec(channels=1, height=2, width=2, mean=(0.0,), std=(1.0,))


def draw_logits(networks: int, inputs: int, seed: int = 0, draw: int | None = None, noise: float = 1.0) -> Tensor:
    """Logits of networks that agree somewhat, on the inputs of a seed; other draws are other networks."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(inputs, 4, generator=generator)
    if draw is not None:
        generator.manual_seed(10**9 + draw)
    return 2 * shared + noise * torch.randn(networks, inputs, 4, generator=generator)


def make_calibration(
    n: int = 999, networks: int = 25, foreign: Outputs | None = None, noise: float = 1.0, spec: InputKind = SPEC
) -> Calibration:
    """Labels are drawn from the tempered probabilities of all networks, so that those are right."""
    plain = draw_logits(networks, n, noise=noise)
    labels = plain.double().softmax(-1).mean(0).multinomial(1, generator=torch.Generator().manual_seed(1))[:, 0]
    outputs = Outputs(plain, draw_logits(networks, n, seed=2, noise=noise) if spec.perturbable else None)
    return calibrate(
        checkpoint="0" * 64,
        split="test/calibration",
        seeds=range(1, n + 1),
        scores=list_scores(TASK, spec),
        task=TASK,
        outputs=outputs,
        labels=labels,
        foreign=foreign,
        validation=("test/validation", outputs, labels),
    )
