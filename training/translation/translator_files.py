"""The files of a trained translator."""

from pathlib import Path

import torch
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import save as serialize_tensors

from models.checkpoint_files import CheckpointError, dump_json, parse_config, write_file
from models.schema import STRICT
from training.tensors import read_tensors
from training.translation.network import Translator, TranslatorConfig

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass(frozen=True, config=STRICT)
class Origin:
    """Where a translator comes from."""

    command: str
    pairs: str
    """Name of the file of pairs."""
    sha256: str
    """Digest of the pairs."""
    seed: int
    updates: int
    planned_updates: int


@dataclass(frozen=True, config=STRICT)
class TranslationConfig:
    """The content of `config.json`."""

    translator: TranslatorConfig
    training: Origin


def save_translator(directory: Path, config: TranslationConfig, network: Translator) -> None:
    """Writes `config.json` and `model.safetensors`."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_file(directory / WEIGHTS_FILE, serialize_tensors(tensors))
    write_file(directory / CONFIG_FILE, dump_json(config))


def load_translator(directory: Path, device: torch.device) -> Translator:
    """Reads what `save_translator` wrote, a network in evaluation mode.

    Raises:
        CheckpointError: if a file cannot be read, or is not of a translator.
    """
    path, weights = directory / CONFIG_FILE, directory / WEIGHTS_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from error
    config: TranslationConfig = parse_config(path, content, TranslationConfig)
    network = Translator(config.translator)
    try:
        network.load_state_dict(read_tensors(weights)[0])
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(weights, str(error)) from error
    return network.to(device).eval()
