import pytest
import torch

from models.inputs.kind import InputError
from models.inputs.vector import MAX_DEVIATIONS, VectorSpec

SPEC = VectorSpec(names=("a", "b"), mean=(1.0, -2.0), std=(2.0, 0.5))


def test_each_number_has_a_mean_and_a_deviation() -> None:
    with pytest.raises(ValueError, match="one number for each of 1 names"):
        VectorSpec(names=("a",), mean=(0.0, 0.0), std=(1.0,))


def test_numbers_are_brought_to_mean_0_and_deviation_1() -> None:
    prepared = SPEC.prepare(torch.tensor([[1.0, -2.0], [5.0, -3.0]]))
    assert prepared.tolist() == [[0.0, 0.0], [2.0, -2.0]]


def test_numbers_far_beyond_training_are_refused_and_named() -> None:
    most = torch.tensor([[1.0, -2.0 + MAX_DEVIATIONS * 0.5]], dtype=torch.float64)
    decoded = SPEC.decode(most)
    assert decoded.dtype == torch.float32
    with pytest.raises(InputError) as caught:
        SPEC.decode(torch.cat([most, most * 1.01]))
    assert caught.value.message.startswith("b in row 1 is 504998, more than 10⁶ standard deviations")
    assert caught.value.hint == "Keep it within -2 ± 500000."


def test_vectors_have_no_noise() -> None:
    assert not SPEC.perturbable
    assert SPEC.draw_noise(0, range(3)) is None
    with pytest.raises(NotImplementedError, match="vectors have no noise"):
        SPEC.jitter(torch.zeros(1, 2), torch.zeros(1, 1, 2))
