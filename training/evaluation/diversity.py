"""Measures of how much sampled networks differ.

Shapes: S sampled networks, B inputs, K classes.
"""

from models.targets.target import TargetNetwork, Weights
from training.evaluation.summaries import Spread, average, summarize


def measure_weight_spread(weights: Weights) -> float:
    """Standard deviation of weights over networks divided by the weights' root mean square, averaged over layers."""
    matrices = [tensor for name, tensor in weights.items() if name.endswith(".weight")]
    return average([(m.var(0).mean() / m.square().mean()).sqrt() for m in matrices])


def measure_layer_norms(target: TargetNetwork, weights: Weights) -> dict[str, Spread]:
    """2-norm of each layer's weights and biases together, over S networks."""
    return {layer: summarize(vectors.norm(dim=1)) for layer, vectors in target.layer_vectors(weights).items()}
