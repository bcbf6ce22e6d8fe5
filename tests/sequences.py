"""Small models for sequences."""

import torch

from models.sequences.checkpoint import SequenceConfig, SequenceTraining
from models.sequences.network import HyperLSTMSize, LSTMSize, SequenceTarget
from models.sequences.sampler import SequenceSampler, SequenceSamplerConfig
from models.sequences.text import TextSpec

SPEC = TextSpec(("\n", " ", "a", "b", "c", "d", "\N{REPLACEMENT CHARACTER}"), start="\n")
HYPER = HyperLSTMSize(8, 2, hyper_size=6, embedding_size=3)
LSTM = LSTMSize(8)


def make_sampler(size: HyperLSTMSize | LSTMSize = HYPER, modes: int = 1, latent_size: int = 0) -> SequenceSampler:
    """A sampler whose parameters are all random, in double precision and evaluation mode."""
    target = SequenceTarget(size, SPEC.num_inputs, SPEC.num_outputs)
    torch.manual_seed(0)
    sampler = SequenceSamplerConfig(target, modes, latent_size).build()
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return sampler.double().eval()


def describe(sampler: SequenceSampler) -> SequenceConfig:
    """The config.json of a sampler that was never trained."""
    training = SequenceTraining("none", "none", "none", updates=0, planned_updates=1, seed=0)
    return SequenceConfig("sequence", sampler.config, SPEC, training)
