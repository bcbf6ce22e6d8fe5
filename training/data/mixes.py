"""Outliers among vectors or features: mixes of two examples of different classes.

Images have outliers that look like nothing (`training.data.outliers`). Numbers have no such kinds, but a foreign input
near the training data has something of one class and something of another, and so has a mix. (VOS draws outliers in
feature space from the edge of each class instead: Du, Wang, Cai & Li, ICLR 2022.)

Shapes: N examples, n mixes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixes:
    """Which examples are mixed: n pairs."""

    first: Tensor
    """Index of an example: int64 [n]."""
    second: Tensor
    """Index of an example of another class: int64 [n]."""
    shares: Tensor
    """Share of the first: float32 [n]."""

    def __len__(self) -> int:
        return len(self.shares)

    def __getitem__(self, index: Tensor) -> "Mixes":
        return Mixes(self.first[index], self.second[index], self.shares[index])

    def mix(self, first: Tensor, second: Tensor) -> Tensor:
        """The mixes of the examples' features, [n, …] each."""
        return torch.lerp(second, first, self.shares.view(-1, *[1] * (first.dim() - 1)).to(first))


def choose_mixes(labels: Tensor, count: int, shares: tuple[float, float], seed: int) -> Mixes:
    """Chooses what is mixed at random.

    Args:
        labels: classes of the examples, int64 [N].
        count: n.
        shares: least and largest share of the first example. Above 1, the mix lies beyond it, away from the second.
        seed: seeds all randomness.

    Raises:
        ValueError: if all examples are of one class.
    """
    labels = labels.cpu()
    counts = labels.bincount()
    if int(counts.max()) == len(labels):
        raise ValueError("examples of at least two classes are needed to mix them")
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(labels), (count,), generator=generator)
    own, others = counts[labels[first]], len(labels) - counts[labels[first]]
    place = (torch.rand(count, generator=generator, dtype=torch.float64) * others).long()
    place += own * (place >= (counts.cumsum(0) - counts)[labels[first]])  # leaves out the class of the first
    least, largest = shares
    chosen = least + (largest - least) * torch.rand(count, generator=generator)
    return Mixes(first, labels.argsort(stable=True)[place], chosen)
