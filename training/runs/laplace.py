"""Fitting of last-layer Laplace to a network that is trained already.

Shapes: N training inputs, F inputs of the last layer, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.inputs.spec import InputSpec
from models.samplers.laplace import Laplace, LaplaceConfig
from models.targets.target import TargetNetwork
from models.tasks.probabilities import average_logits
from training.data.dataset import Examples
from training.evaluation.calibration import measure_misfit
from training.progress import track

PRECISIONS = [10 ** (exponent / 4) for exponent in range(-16, 17)]
"""Prior precisions to choose from: 10⁻⁴ to 10⁴."""

NETWORKS = 100
"""Networks that judge each of them on the validation inputs."""

SEED = 10**15 + 2 * 10**9
"""Seed of these networks, far from those that people choose."""

INPUTS_PER_PART = 256


@dataclass(frozen=True)
class LaplaceFit:
    """A fitted sampler, and the misfit of validation inputs under it and under the network alone, in nats."""

    sampler: Laplace
    misfit: float
    misfit_alone: float


@torch.no_grad()
def fit_laplace(
    target: TargetNetwork, network: Mapping[str, Tensor], spec: InputSpec, inputs: Tensor, validation: Examples
) -> LaplaceFit:
    """Fits the Gaussian of the last layer, and chooses the precision of its prior by the NLL of validation inputs.

    The Hessian is the Gauss–Newton one, so it needs no labels. The NLL is the one that temperatures are fitted with:
    few validation inputs can hold no error by chance, and then the network alone, with no disagreement, would be best.

    Args:
        target: the network's layers.
        network: its parameters by name.
        spec: its input.
        inputs: the raw inputs that it was trained on, [N, …].
        validation: examples that it was not trained on.
    """
    module = target.module()
    module.load_state_dict(dict(network))
    features = _compute_features(module, spec, inputs, "fitting").double()
    judged = _compute_features(module, spec, validation.inputs, "validating")
    last = target.weighted_layers[-1]
    mean = torch.cat([network[f"{last}.weight"], network[f"{last}.bias"][:, None]], dim=1)
    probabilities = (features @ mean.double().T).softmax(-1)
    spread = torch.diag(probabilities.mean(0)) - probabilities.T @ probabilities / len(features)
    of_outputs, outputs = torch.linalg.eigh(spread)
    of_features, rotation = torch.linalg.eigh(features.T @ features / len(features))
    curvature = len(features) * of_outputs.clamp(min=0)[:, None] * of_features.clamp(min=0)

    fits = []
    for precision in PRECISIONS:
        sampler = LaplaceConfig(precision).build(target).eval()
        sampler.network.load_state_dict({name: tensor[None] for name, tensor in network.items()})
        sampler.outputs.copy_(outputs)
        sampler.features.copy_(rotation)
        sampler.deviations.copy_((curvature + precision).rsqrt())
        drawn = sampler.sample(SEED, range(NETWORKS), {f"{last}.weight", f"{last}.bias"})
        logits = judged[:, :-1] @ drawn[f"{last}.weight"].mT + drawn[f"{last}.bias"][:, None]
        fits.append((float(measure_misfit(average_logits(logits), validation.labels)), sampler))
    misfit, best = min(fits, key=lambda fit: fit[0])
    alone = (judged @ mean.T).log_softmax(-1)
    return LaplaceFit(best, misfit, float(measure_misfit(alone, validation.labels)))


def _compute_features(module: nn.Sequential, spec: InputSpec, inputs: Tensor, what: str) -> Tensor:
    """Inputs of the last layer with a 1 for its bias, [N, F + 1]."""
    parts = [module[:-1](spec.prepare(part)) for part in track(inputs.split(INPUTS_PER_PART), what, "part")]
    features = torch.cat(parts)
    return torch.cat([features, torch.ones(len(features), 1)], dim=1)
