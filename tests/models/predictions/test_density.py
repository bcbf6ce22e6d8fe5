import pytest
import torch
from safetensors.torch import save as serialize_tensors

from models.predictions.density import (
    DIRECTIONS,
    bound_density_bytes,
    fit_density,
    fit_feature_density,
    pack_density,
    unpack_density,
)


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


def test_features_of_a_backbone_are_judged_by_their_direction() -> None:
    """Far from the training's means far in direction, however long; few directions have variances of their own."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.cat([torch.full((8,), 3.0), torch.full((192,), 0.3)])
    features = torch.ones(400, 200) + scales * torch.randn(400, 200, generator=generator)
    density = fit_feature_density(features)
    assert density.directions.shape == (200, DIRECTIONS)
    assert density.measure_distance(features).square().mean().item() == pytest.approx(1, rel=0.01)
    again = density.measure_distance(7 * features)
    torch.testing.assert_close(again, density.measure_distance(features), rtol=1e-4, atol=1e-4)
    rare, common = torch.ones(2, 200)
    rare[100], common[0] = 8.0, 8.0
    assert density.measure_distance(rare[None]) > 2 * density.measure_distance(common[None])


def test_all_directions_together_are_the_distance_of_mahalanobis() -> None:
    features = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 3, 4, 5]) + 4
    density = fit_feature_density(features)
    unit = torch.nn.functional.normalize(features, dim=-1).double()
    centred = unit - unit.mean(0)
    # Scaled vectors lie on a sphere, so none of the variances vanishes only as long as there are five of them.
    expected = (centred * torch.linalg.solve(centred.mT @ centred / 300, centred.mT).mT).sum(-1).div(5).sqrt()
    torch.testing.assert_close(density.measure_distance(features), expected, rtol=1e-2, atol=1e-2)


def test_maps_are_averaged_over_their_positions() -> None:
    features = torch.rand(50, 6, 2, 3, generator=torch.Generator().manual_seed(0))
    density = fit_feature_density(features)
    torch.testing.assert_close(density.measure_distance(features), density.measure_distance(features.mean((2, 3))))


def test_few_training_examples_give_finite_distances() -> None:
    features = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(fit_feature_density(features).measure_distance(features + 1)).all()
    assert torch.isfinite(fit_feature_density(features[:1].expand(2, -1)).measure_distance(features)).all()


@pytest.mark.parametrize("of_another_network", [False, True])
def test_files_hold_the_density_or_are_refused(of_another_network: bool) -> None:
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    density = (fit_feature_density if of_another_network else fit_density)(features)
    tensors = pack_density(density)
    assert len(serialize_tensors(tensors)) <= bound_density_bytes(3)
    again = unpack_density(tensors, 3)
    assert torch.equal(again.measure_distance(features), density.measure_distance(features))
    for wrong in (
        {},
        tensors | {"more": torch.zeros(1)},
        tensors | {"mean": torch.zeros(3, dtype=torch.float64)},
        tensors | {"deviations": torch.ones(4)},
        tensors | {"deviations": torch.tensor(1.0)},
    ):
        with pytest.raises(ValueError, match=r"must hold float32 tensors mean \[3\], directions \[3, 3\], deviations"):
            unpack_density(wrong, 3)
    with pytest.raises(ValueError, match=r"mean \[4\]"):
        unpack_density(tensors, 4)
    with pytest.raises(ValueError, match="unlike its residual"):
        unpack_density(tensors | {"residual": torch.ones(1)}, 3)
    with pytest.raises(ValueError, match="directions has numbers that are not finite"):
        unpack_density(tensors | {"directions": tensors["directions"] / 0}, 3)
    with pytest.raises(ValueError, match="deviations must be positive"):
        unpack_density(tensors | {"deviations": torch.zeros(3)}, 3)
