"""HyperGAN's toy regression: noisy points of a cubic."""

from pathlib import Path

from torch import Tensor

from models.inputs.vector import VectorSpec
from models.noise import standard_normal, uniform
from models.tasks.regression import Regression
from training.data.dataset import Dataset, Examples

CUBIC_SEED, CUBIC_NOISE = 4, 3.0


def load_cubic(data: Path) -> Dataset:
    """y = x³ + N(0, 3²) with x uniform on (−4, 4): 20 points to train on (HyperGAN, section 4.2), more for the rest."""
    input_spec = VectorSpec(names=("x",), mean=(0.0,), std=(2.3,))
    task = Regression(names=("y",), mean=(0.0,), std=(24.0,), noise_std=(CUBIC_NOISE,))
    sizes = 20, 100, 200, 400
    splits = [_draw_cubic(size, stream) for stream, size in enumerate(sizes)]
    return Dataset(input_spec, task, *splits)


def load_cubic_beyond(data: Path) -> Tensor:
    """400 inputs on (−6, −4) and (4, 6), where the cubic has no data."""
    x = uniform(CUBIC_SEED, range(400), 1, stream=4)
    return x.sign() * 4 + x * 2


def _draw_cubic(size: int, stream: int) -> Examples:
    x = 4 * uniform(CUBIC_SEED, range(size), 1, stream)
    return Examples(x, x**3 + CUBIC_NOISE * standard_normal(CUBIC_SEED, range(size), 2, stream)[:, 1:])
