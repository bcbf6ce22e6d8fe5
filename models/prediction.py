"""Predictions of sampled networks."""

import torch
from torch import Tensor

from models.sampler import WeightSampler


@torch.inference_mode()
def predict_members(sampler: WeightSampler, images: Tensor, seed: int, size: int) -> Tensor:
    """Class probabilities that members 0 … size−1 of a seed give.

    Networks are drawn, evaluated and dropped in blocks, so memory beside the result does not grow with `size`.

    Args:
        sampler: in evaluation mode.
        images: [B, C, H, W], normalised, on any device.
        seed: of the draw.
        size: S.

    Returns:
        float32 [S, B, K], on the CPU.
    """
    images = images.to(sampler.device)
    networks_per_block = max(1, 4_000_000 // sampler.target.num_weights)  # 16 MB of weights
    blocks = []
    for start in range(0, size, networks_per_block):
        weights = sampler.sample(seed, range(start, min(start + networks_per_block, size)))
        blocks.append(sampler.target.forward(weights, images).softmax(-1).cpu())
    return torch.cat(blocks)
