"""What the other servers host: the same checkpoint, and PyTorch's own way to evaluate many networks."""

import base64
import os
import secrets
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain import forward_vmap
from models.checkpoint import load_checkpoint
from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image

PIXELS = 16_000_000
FIXED, GROWING = (0, 100), (0, 5, 10, 20, 50, 100)
LEAD = 0.9
"""Lead of the most probable class over the next with which an image needs no more networks."""


class PlainModel:
    """Answers with an ensemble of fresh networks, as the service does, but without flags. If the environment says so,
    an image is asked of more networks until its class leads clearly; nothing is promised of that."""

    def __init__(self) -> None:
        self._sizes = GROWING if os.environ.get("HYPERDRAW_PEER_GROWS") else FIXED
        self._checkpoint = load_checkpoint(Path(os.environ["HYPERDRAW_PEER_CHECKPOINT"]), torch.device("cpu"))

    @torch.inference_mode()
    def predict(self, images: list[str]) -> list[dict[str, Any]]:
        """One answer for each image, in base64; the same networks give all of them."""
        spec, sampler = self._checkpoint.config.input, self._checkpoint.sampler
        assert isinstance(spec, ImageSpec)
        decoded = [decode_image(base64.b64decode(image), spec, PIXELS, "image") for image in images]
        inputs, seed = spec.prepare(torch.stack(decoded)), secrets.randbits(53)
        left, known = torch.arange(len(inputs)), torch.empty(0)
        found: dict[int, torch.Tensor] = {}
        for start, stop in pairwise(self._sizes):
            weights = sampler.sample(seed, range(start, stop))
            known = torch.cat([*([known] if start else []), forward_vmap(sampler.target, weights, inputs[left])])
            mean = known.softmax(-1).mean(0)
            first, second = mean.topk(2).values.unbind(-1)
            settled = (first - second >= LEAD) | (stop == self._sizes[-1])
            found |= dict(zip(left[settled].tolist(), mean[settled], strict=True))
            left, known = left[~settled], known[:, ~settled]
            if not len(left):
                break
        probabilities = torch.stack([found[i] for i in range(len(inputs))])
        entropies = torch.special.entr(probabilities).sum(-1)
        return [
            {"class_index": max(range(len(p)), key=p.__getitem__), "probabilities": p, "predictive_entropy": entropy}
            for p, entropy in zip(probabilities.tolist(), entropies.tolist(), strict=True)
        ]
