"""Counter-based random numbers: every number is a pure function of (seed, member, position).

With a stateful generator, the noise of member 3 depends on whether members 0 to 2 were drawn before; a CUDA generator
gives different noise on another GPU model. Philox 4x32 with 10 rounds (Salmon et al., "Parallel Random Numbers:
As Easy as 1, 2, 3", SC 2011) has no state: its output is a keyed hash of a counter. We compute it on the CPU.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SEED_LIMIT = 2**63
"""Seeds lie in [0, SEED_LIMIT)."""

MEMBER_LIMIT = 2**32
"""Members lie in [0, MEMBER_LIMIT)."""

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_BELOW_ONE = 1 - 2.0**-24
"""The largest float32 below 1."""


def philox(counter: NDArray[np.uint64], key: tuple[int, int], rounds: int = 10) -> NDArray[np.uint64]:
    """Philox 4x32: four 32-bit words for each counter.

    Args:
        counter: [..., 4], each word below 2^32.
        key: two words below 2^32.

    Returns:
        [..., 4], each word below 2^32, held in uint64.
    """
    a, b, c, d = np.moveaxis(counter, -1, 0)
    for r in range(rounds):
        k0, k1 = (np.uint64((k + r * w) & 0xFFFFFFFF) for k, w in zip(key, _WEYL, strict=True))
        ac, bd = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (bd >> _SHIFT) ^ b ^ k0, bd & _LOW, (ac >> _SHIFT) ^ d ^ k1, ac & _LOW
    return np.stack([a, b, c, d], axis=-1)


def standard_normal(seed: int, members: Sequence[int], size: int, stream: int = 0) -> Tensor:
    """Independent N(0, 1) numbers for each member, by Box and Muller's transform in double precision.

    Args:
        seed: in [0, 2^63).
        members: S numbers in [0, 2^32); row i depends only on seed and members[i].
        size: number of values for each member.
        stream: in [0, 2^32); separates the uses of one seed, such as serving and training.

    Returns:
        float32 [S, size], on the CPU.

    Raises:
        ValueError: if the seed or a member is out of range.
    """
    shares = _draw_shares(seed, members, size, stream)
    radius = np.sqrt(-2.0 * np.log(shares[..., :2]))
    angle = 2.0 * np.pi * shares[..., 2:]
    return _arrange(np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1), size)


def uniform(seed: int, members: Sequence[int], size: int, stream: int = 0) -> Tensor:
    """Independent numbers, uniform on (−1, 1), ends excluded. Arguments and result are those of `standard_normal`."""
    numbers = _arrange(2.0 * _draw_shares(seed, members, size, stream) - 1.0, size)
    return numbers.clamp(-_BELOW_ONE, _BELOW_ONE)  # float32 rounds numbers very close to 1 to 1


def choices(seed: int, members: Sequence[int], size: int, count: int, stream: int = 0) -> Tensor:
    """Independent indices from 0 to count−1, each as probable: int64 [S, size]. Arguments as in `standard_normal`."""
    shares = uniform(seed, members, size, stream) / 2 + 0.5
    return (shares * count).long().clamp(max=count - 1)


def permutations(seed: int, members: Sequence[int], size: int, stream: int = 0) -> Tensor:
    """A random order of 0 … size−1 for each member: int64 [S, size], on the CPU. Arguments as in `standard_normal`."""
    return standard_normal(seed, members, size, stream).argsort(dim=1, stable=True)


def _draw_shares(seed: int, members: Sequence[int], size: int, stream: int) -> NDArray[np.float64]:
    """Uniform numbers in (0, 1), whose logarithms are finite: [S, blocks, 4], at least `size` for each member."""
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed must be in [0, 2^63), not {seed}")
    if members and not (min(members) >= 0 and max(members) < MEMBER_LIMIT):
        raise ValueError(f"members must be in [0, 2^32), not {min(members)} to {max(members)}")
    blocks = -(-size // 4)
    counter = np.zeros((len(members), blocks, 4), dtype=np.uint64)
    counter[..., 0] = np.arange(blocks, dtype=np.uint64)
    counter[..., 1] = np.asarray(members, dtype=np.uint64)[:, None]
    counter[..., 2] = stream
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return (words.astype(np.float64) + 0.5) / 2.0**32


def _arrange(numbers: NDArray[np.float64], size: int) -> Tensor:
    return torch.from_numpy(numbers.reshape(len(numbers), -1)[:, :size].astype(np.float32))
