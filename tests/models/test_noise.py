import math

import numpy as np
import pytest
import torch

from models.noise import MEMBER_LIMIT, SEED_LIMIT, choices, philox, standard_normal, uniform


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that Random123 publishes for philox4x32-10
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: str) -> None:
    words = philox(np.array(counter, dtype=np.uint64), key)
    assert " ".join(f"{word:08x}" for word in words) == expected


def test_member_does_not_depend_on_its_neighbours() -> None:
    many = standard_normal(7, range(1000), 37)
    assert torch.equal(standard_normal(7, range(4), 37), many[:4])
    assert torch.equal(standard_normal(7, [3], 37), many[3:4])
    assert torch.equal(standard_normal(7, [900, 3], 37), many[[900, 3]])


def test_addresses_have_noise_of_their_own() -> None:
    rows = torch.cat(
        [
            standard_normal(seed, [0, 1, MEMBER_LIMIT - 1], 16, stream)
            for seed in (0, 1, 2**32, SEED_LIMIT - 1)
            for stream in (0, 1)
        ]
    )
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_numbers_are_standard_normal() -> None:
    numbers = standard_normal(1, range(1000), 256).double().flatten()
    n = len(numbers)
    # Each bound is six standard errors: a false alarm in fewer than one of 10^8 implementations that are right.
    assert abs(numbers.mean()) < 6 / math.sqrt(n)
    assert abs(numbers.var() - 1) < 6 * math.sqrt(2 / n)
    assert abs((numbers**4).mean() - 3) < 6 * math.sqrt(96 / n)
    for bound in (-2.0, -0.5, 0.0, 1.0):
        share = 0.5 * (1 + math.erf(bound / math.sqrt(2)))
        assert abs((numbers < bound).double().mean() - share) < 6 * math.sqrt(share * (1 - share) / n)


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_extreme_words_give_numbers_within_range(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, 1 − 2⁻³³ is 1."""
    monkeypatch.setattr("models.noise.philox", lambda counter, _: np.full_like(counter, word))
    assert 0.999999 < uniform(0, [0], 4).abs().max() < 1
    numbers = standard_normal(0, [0], 4)
    assert numbers.isfinite().all()
    assert numbers.abs().max() < 7


def test_global_generators_are_untouched() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    standard_normal(1, range(3), 5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("seed", "members"), [(-1, [0]), (SEED_LIMIT, [0]), (0, [-1]), (0, [0, MEMBER_LIMIT])])
def test_out_of_range(seed: int, members: list[int]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        standard_normal(seed, members, 4)


def test_choices_are_equally_probable_indices() -> None:
    (found,) = choices(0, [3], 30_000, 7)
    assert found.dtype == torch.int64
    shares = found.bincount(minlength=7) / 30_000
    assert len(shares) == 7
    torch.testing.assert_close(shares, torch.full((7,), 1 / 7), atol=0.01, rtol=0)
    assert choices(0, [3], 5, 1).unique().tolist() == [0]
