"""A training of a translator: its steps, what it measures meanwhile, and its state on disk."""

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.runs.noise import fork_noise
from training.runs.state import TrainingError, load_state, save_state
from training.translation.batches import sort_batches, stream_batches
from training.translation.network import Batch, Translator, TranslatorConfig, collate
from training.translation.pairs import Corpus, Pair

CLIPPING = 1.0
"""Largest norm of a gradient."""

WARM_UP = 0.05
"""Share of the updates in which the learning rate rises, before it falls as a cosine to 0."""


@dataclass(frozen=True)
class Settings:
    """Settings of a training, beside those of its network."""

    updates: int
    seed: int
    batch: int
    """Most symbols of a batch, of sources and targets together, with padding."""
    rate: float
    """Largest learning rate of Adam."""
    label_smoothing: float
    """Share of the probability of each symbol that the loss wants to be spread over all symbols."""


@dataclass(frozen=True)
class Validation:
    """What was measured between two updates."""

    update: int
    nats: float
    """Mean over the symbols of the validation targets, with their ends."""
    seconds: float
    """How long the training had taken, without measuring."""


class TranslationRun:
    """A training, which depends on its arguments alone: a run that was saved and loaded goes on unchanged."""

    def __init__(self, config: TranslatorConfig, corpus: Corpus, settings: Settings, device: torch.device) -> None:
        self.config = config
        self.corpus = corpus
        self.settings = settings
        self.device = device
        self.updates = 0
        self.seconds = 0.0
        self.symbols = 0
        """Symbols of sources and targets that were learned from."""
        self.validations: list[Validation] = []
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            self.network = Translator(config)
        self.best = copy.deepcopy(self.network.to(device))
        """The network with the least nats of all validations."""
        self._optimizer = torch.optim.Adam(self.network.parameters())
        self._pairs = self._encode(corpus.train)
        self._validation_pairs = self._encode(corpus.validation)
        self._lengths = _measure_lengths(self._pairs)
        self._batches = stream_batches(self._lengths, settings.batch, settings.seed)

    @property
    def finished(self) -> bool:
        return self.updates >= self.settings.updates

    @property
    def best_validation(self) -> Validation:
        """The validation with the least nats."""
        return min(self.validations, key=lambda validation: validation.nats)

    def step(self) -> float:
        """Makes an update, and returns the loss.

        Raises:
            TrainingError: if the loss is not finite.
        """
        started = time.perf_counter()
        batch = self._collate([self._pairs[index] for index in next(self._batches)])
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.rate * _schedule(self.updates, self.settings.updates)
        number = int(np.random.SeedSequence((self.settings.seed, self.updates)).generate_state(1)[0])
        with fork_noise(number, self.device):
            logits = self.network.train()(batch)
        loss = F.cross_entropy(logits, _flatten(batch), label_smoothing=self.settings.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss became {value} at update {self.updates + 1}. Choose a lower --rate")
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIPPING)
        self._optimizer.step()
        self.updates += 1
        self.symbols += batch.num_symbols
        self.seconds += time.perf_counter() - started
        return value

    @torch.inference_mode()
    def validate(self) -> Validation:
        """Measures the network on the validation pairs, and keeps it if it is the best so far."""
        self.network.eval()
        nats, symbols = 0.0, 0
        for chosen in sort_batches(_measure_lengths(self._validation_pairs), self.settings.batch):
            batch = self._collate([self._validation_pairs[index] for index in chosen])
            targets = _flatten(batch)
            nats += float(F.cross_entropy(self.network(batch), targets, reduction="sum"))
            symbols += len(targets)
        found = Validation(self.updates, nats / symbols, self.seconds)
        self.validations.append(found)
        if found == self.best_validation:
            self.best.load_state_dict(self.network.state_dict())
        return found

    def save(self, path: Path) -> None:
        """Writes everything that `load` needs, atomically."""
        counters = {
            "updates": str(self.updates),
            "seconds": str(self.seconds),
            "symbols": str(self.symbols),
            "validations": json.dumps([asdict(validation) for validation in self.validations]),
        }
        save_state(path, self._modules, {"optimizer": self._optimizer}, self._identity(), counters)

    def load(self, path: Path) -> None:
        """Restores what `save` wrote.

        Raises:
            TrainingError: if the file cannot be read or belongs to another run.
        """
        counters, _ = load_state(path, self._modules, {"optimizer": self._optimizer}, self._identity())
        self.updates, self.symbols = int(counters["updates"]), int(counters["symbols"])
        self.seconds = float(counters["seconds"])
        self.validations = [Validation(**validation) for validation in json.loads(counters["validations"])]
        self._batches = stream_batches(self._lengths, self.settings.batch, self.settings.seed, self.updates)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "best": self.best}

    def _identity(self) -> dict[str, Any]:
        sizes = {name: value for name, value in vars(self.config).items() if name not in ("source", "target")}
        level = self.config.source.level
        vocabulary = {"level": level, "symbols": [self.config.source.size, self.config.target.size]}
        return {**sizes, **vocabulary, **asdict(self.settings), "pairs": self.corpus.sha256}

    def _encode(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
        return [(self.config.source.encode(source), self.config.target.encode(target)) for source, target in pairs]

    def _collate(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Batch:
        sources, targets = zip(*pairs, strict=True)
        return Batch(collate(list(sources), self.device), collate(list(targets), self.device))


def _measure_lengths(pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[int, int]]:
    return [(len(source) + 1, len(target) + 1) for source, target in pairs]


def _flatten(batch: Batch) -> Tensor:
    """The symbols of the targets [n], in the order of the network's logits."""
    return batch.targets.symbols[batch.targets.real]


def _schedule(update: int, updates: int) -> float:
    """Share of the largest learning rate that an update has."""
    rising = max(1, round(WARM_UP * updates))
    if update < rising:
        return (update + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (update - rising) / max(1, updates - rising)))
