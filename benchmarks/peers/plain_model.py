"""What the other servers host: the same checkpoint, and PyTorch's own way to evaluate many networks."""

import base64
import os
import secrets
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain import forward_vmap
from models.checkpoint import load_checkpoint
from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image

PIXELS = 16_000_000


class PlainModel:
    """Answers with an ensemble of fresh networks, as the service does, but without flags."""

    def __init__(self) -> None:
        self._checkpoint = load_checkpoint(Path(os.environ["HYPERDRAW_PEER_CHECKPOINT"]), torch.device("cpu"))

    @torch.inference_mode()
    def predict(self, images: list[str]) -> list[dict[str, Any]]:
        """One answer for each image, in base64; the same 100 networks give all of them."""
        spec, sampler = self._checkpoint.config.input, self._checkpoint.sampler
        assert isinstance(spec, ImageSpec)
        decoded = [decode_image(base64.b64decode(image), spec, PIXELS, "image") for image in images]
        weights = sampler.sample(secrets.randbits(53), range(100))
        logits = forward_vmap(sampler.target, weights, spec.prepare(torch.stack(decoded)))
        probabilities = logits.softmax(-1).mean(0)
        entropies = torch.special.entr(probabilities).sum(-1)
        return [
            {"class_index": max(range(len(p)), key=p.__getitem__), "probabilities": p, "predictive_entropy": entropy}
            for p, entropy in zip(probabilities.tolist(), entropies.tolist(), strict=True)
        ]
