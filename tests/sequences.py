"""Small models for sequences."""

from pathlib import Path

import torch

from models.sequences.checkpoint import (
    SequenceCheckpoint,
    SequenceConfig,
    SequenceTraining,
    save_sequence_checkpoint,
)
from models.sequences.model import SequenceModel
from models.sequences.network import HyperLSTMSize, LSTMSize, SequenceTarget
from models.sequences.sampler import SequenceSampler, SequenceSamplerConfig
from models.sequences.strokes import StrokesSpec
from models.sequences.text import TextSpec

SPEC = TextSpec(("\n", " ", "a", "b", "c", "d", "\N{REPLACEMENT CHARACTER}"), start="\n")
STROKES = StrokesSpec(scale=20.0, extent=90.0, max_points=30, mixtures=2)
HYPER = HyperLSTMSize(8, 2, hyper_size=6, embedding_size=3)
LSTM = LSTMSize(8)


def make_sampler(
    size: HyperLSTMSize | LSTMSize = HYPER,
    modes: int = 1,
    latent_size: int = 0,
    spec: TextSpec | StrokesSpec = SPEC,
) -> SequenceSampler:
    """A sampler whose parameters are all random, in double precision and evaluation mode."""
    target = SequenceTarget(size, spec.num_inputs, spec.num_outputs)
    torch.manual_seed(0)
    sampler = SequenceSamplerConfig(target, modes, latent_size).build()
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return sampler.double().eval()


def describe(sampler: SequenceSampler, spec: TextSpec | StrokesSpec = SPEC) -> SequenceConfig:
    """The config.json of a sampler that was never trained."""
    training = SequenceTraining("none", "none", "none", updates=0, planned_updates=1, seed=0)
    return SequenceConfig("sequence", sampler.config, spec, training)


def save_writer(
    directory: Path,
    modes: int = 3,
    latent_size: int = 0,
    size: HyperLSTMSize | LSTMSize = HYPER,
    spec: TextSpec | StrokesSpec = SPEC,
) -> None:
    """Saves a model that writes text, or draws, not trained."""
    sampler = make_sampler(size, modes, latent_size, spec).float()
    save_sequence_checkpoint(directory, describe(sampler, spec), sampler, "float32")


def make_model(
    modes: int = 3,
    latent_size: int = 0,
    size: HyperLSTMSize | LSTMSize = HYPER,
    spec: TextSpec | StrokesSpec = SPEC,
) -> SequenceModel:
    """A model that writes text, or draws, in double precision."""
    sampler = make_sampler(size, modes, latent_size, spec).requires_grad_(False)
    return SequenceModel(SequenceCheckpoint("writer", "0" * 64, describe(sampler, spec), sampler, None, None))
