import pytest
import torch

from models.predictions.density import fit_density, pack_density, unpack_density


def test_distance_is_about_1_for_training_examples_and_grows_along_what_varies_little() -> None:
    generator = torch.Generator().manual_seed(0)
    deviations = torch.tensor([1.0, 3.0, 0.5])
    features = torch.tensor([5.0, -3.0, 2.0]) + deviations * torch.randn(5_000, 3, generator=generator)
    density = fit_density(features)
    distances = density.measure_distance(features)
    assert distances.dtype == torch.float64
    assert distances.square().mean().item() == pytest.approx(1, rel=0.01)
    moved = torch.tensor([5.0, -3.0, 2.0]) + torch.eye(3)
    assert density.measure_distance(moved).argsort().tolist() == [1, 0, 2]
    assert density.measure_distance(moved)[0].item() == pytest.approx(1 / 3**0.5, rel=0.05)


def test_correlated_features_make_uncorrelated_values_strange() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2_000, 1, generator=generator)
    density = fit_density(torch.cat([first, first + 0.05 * torch.randn(2_000, 1, generator=generator)], 1))
    along, across = density.measure_distance(torch.tensor([[1.0, 1.0], [1.0, -1.0]])).tolist()
    assert across > 4 * along


def test_a_feature_that_never_varies_gives_finite_distances() -> None:
    features = torch.cat([torch.randn(100, 1, generator=torch.Generator().manual_seed(0)), torch.zeros(100, 1)], 1)
    distances = fit_density(features).measure_distance(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    assert torch.isfinite(distances).all()
    assert distances[1] > 10 * distances[0]


def test_features_of_any_shape_are_vectors() -> None:
    features = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    assert fit_density(features).measure_distance(features).shape == (50,)


def test_files_hold_the_density_or_are_refused() -> None:
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    density = fit_density(features)
    tensors = pack_density(density)
    again = unpack_density(tensors, 3)
    assert torch.equal(again.measure_distance(features), density.measure_distance(features))
    for wrong in ({}, {**tensors, "more": torch.zeros(1)}, {**tensors, "mean": torch.zeros(3, dtype=torch.float64)}):
        with pytest.raises(ValueError, match="must hold mean and whitening of 3 features"):
            unpack_density(wrong, 3)
    with pytest.raises(ValueError, match="must hold mean and whitening of 4 features"):
        unpack_density(tensors, 4)
    with pytest.raises(ValueError, match="whitening has numbers that are not finite"):
        unpack_density({**tensors, "whitening": tensors["whitening"] / 0}, 3)
