"""A small sampler of each method, and what the methods can make."""

from dataclasses import replace

from models.checkpoint import MethodConfig
from models.samplers.apd import APDConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.laplace import LaplaceConfig
from models.samplers.mc_dropout import MCDropoutConfig
from models.samplers.mlp import MLPConfig
from models.samplers.mnf import MNFConfig
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from tests.conftest import SMALL_CONFIG, SMALL_DEUTSCH

CONFIGS: dict[str, MethodConfig] = {
    "hyperdraw": HyperDrawConfig(modes=5),
    "hypergan": SMALL_CONFIG,
    "hypergan without mixer": replace(SMALL_CONFIG, mixer=False),
    "deutsch": SMALL_DEUTSCH,
    "mlp": MLPConfig(latent_size=8),
    "deep ensemble": DeepEnsembleConfig(networks=1000),
    "mc dropout": MCDropoutConfig(),
    "laplace": LaplaceConfig(),
    "mnf": MNFConfig(flow_hidden_size=8),
    "apd": APDConfig(latent_size=8, hidden_size=16),
    "static hypernetworks": StaticHypernetworkConfig(3, 4, basic_channels=2, modes=1000),
    "random static hypernetwork": StaticHypernetworkConfig(3, 4, basic_channels=2, modes=5, latent_size=4),
}

MAKES_ANY_TARGET = {"hyperdraw", "mlp", "deep_ensemble", "apd", "static_hypernetwork", "laplace"}
MAKES_FILTERS = {"hypergan", "deutsch", "mc_dropout", "mnf"}
