import torch

from models.samplers.laplace import LaplaceConfig
from tests.conftest import SMALL_TARGET


def test_before_it_has_seen_data_the_last_layer_has_its_prior() -> None:
    """The mean of 100 × 480 squares is more than 0.01 from 1/4 for one in 10⁹ seeds."""
    sampler = LaplaceConfig(prior_precision=4.0).build(SMALL_TARGET).eval()
    weights = sampler.sample(0, range(100))
    for name, tensor in weights.items():
        changes = tensor - sampler.network.get_parameter(name)
        if name.startswith("linear1"):
            assert abs(changes.mean()) < 0.1
            if name.endswith("weight"):
                torch.testing.assert_close(changes.square().mean(), torch.tensor(0.25), atol=0.01, rtol=0)
        else:
            assert not changes.any()
