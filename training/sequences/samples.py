"""Drawings that a model has made up, at several temperatures."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.sequences.checkpoint import SequenceCheckpoint
from models.sequences.drawing import render_smooth
from models.sequences.strokes import StrokesSpec, draw_noise
from training.data.dataset import DatasetError

TEMPERATURES = 0.1, 0.4, 0.7, 1.0
ROW = 12
"""Drawings of each temperature."""

CELL = 100
"""Side of a drawing's place in a figure, in pixels."""


@torch.no_grad()
def sample_drawings(checkpoint: SequenceCheckpoint, seed: int, count: int, temperature: float) -> list[Tensor]:
    """Drawings of a model's first network, each float32 [P, 3]. One that does not end is cut at the most points.

    Raises:
        DatasetError: if the model does not draw.
    """
    spec = checkpoint.config.input
    if not isinstance(spec, StrokesSpec):
        raise DatasetError(f"the model does not draw; it is one for {spec.kind}")
    sampler = checkpoint.sampler
    latents = sampler.draw_latents(seed, [0])
    network = sampler.assemble(latents)
    step, states = network.begin(one_hot=False), network.open(count)
    noise = torch.stack([draw_noise(seed, drawing, range(spec.max_points)) for drawing in range(count)], dim=1)
    inputs, points, alive = latents.new_zeros(count, spec.num_inputs), list[Tensor](), list[Tensor]()
    ended = torch.zeros(count, dtype=torch.bool, device=latents.device)
    for numbers in noise.to(latents.device):
        outputs, states = step(inputs, states)
        point, last = spec.sample(outputs, numbers, temperature)
        points.append(point)
        alive.append(~ended)
        ended = ended | last
        inputs = spec.prepare(point)
        if ended.all():
            break
    rows, kept = torch.stack(points, dim=1).cpu(), torch.stack(alive, dim=1).cpu()
    return [row[mask] for row, mask in zip(rows, kept, strict=True)]


def render_samples(checkpoint: SequenceCheckpoint, seed: int, temperatures: Sequence[float] = TEMPERATURES) -> str:
    """An SVG with a row of drawings for each temperature, least first.

    Raises:
        DatasetError: if the model does not draw.
    """
    left = CELL // 2
    size = f"{left + ROW * CELL} {len(temperatures) * CELL}"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="16">']
    parts.append('<rect width="100%" height="100%" fill="#ffffff"/>')
    for row, temperature in enumerate(temperatures):
        parts.append(f'<text x="4" y="{row * CELL + CELL // 2}">τ {temperature:g}</text>')
        for column, drawing in enumerate(sample_drawings(checkpoint, seed, ROW, temperature)):
            place = f'x="{left + column * CELL + 8}" y="{row * CELL + 8}" width="{CELL - 16}" height="{CELL - 16}"'
            parts.append(render_smooth(drawing).strip().replace("<svg", f"<svg {place}", 1))
    return "\n".join([*parts, "</svg>", ""])
