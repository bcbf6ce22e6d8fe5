"""Learning to predict the next character of a text.

Shapes: T steps, S networks, B streams of each, P symbols, V known symbols.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.noise import uniform
from models.sequences.checkpoint import SequenceCheckpoint, save_passage_calibration
from models.sequences.sampler import SequenceSampler
from models.sequences.scores import SymbolScores, join_scores, score_symbols
from models.sequences.text import TextSpec
from training.data.text import Text
from training.progress import track
from training.sequences.calibration import calibrate_passages, measure_false_alarms
from training.sequences.problem import Batch, SequenceProblem

PHASE_STREAM = 21
"""Stream of the random numbers that say where in the text a training begins."""

STREAMS = 64
"""Parts of a long text that are evaluated side by side."""

LEAD = 250
"""Symbols before each part, other than the first, that are read to reach its state. More do not change the result."""

EVALUATED_WINDOW = 100
VALIDATED = 25_000
"""Symbols of the validation split that a quick look reads."""


class TextProblem(SequenceProblem):
    """A text, which each network reads in streams that never end: after the last symbol comes the first."""

    spec: TextSpec
    unit = "bits per character"

    def __init__(self, text: Text, device: torch.device) -> None:
        self.text = text
        self.spec = text.spec
        self.licence = text.licence
        self._train = text.train.to(device)

    def make_batch(self, seed: int, step: int, networks: int, sequences: int, window: int) -> Batch:
        size, streams = len(self._train), networks * sequences
        phase = int(size * (uniform(seed, [0], 1, PHASE_STREAM).item() + 1) / 2)
        starts = torch.arange(streams, device=self._train.device) * size // streams
        starts = starts.view(sequences, networks).T.flatten()  # the streams of a network lie far apart
        ahead = torch.arange(window + 1, device=starts.device)[:, None]
        symbols = self._train[(phase + starts + step * window + ahead) % size].long()
        return Batch(symbols[:-1], symbols[1:], carries=step > 0)

    def measure_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten())

    def validate(self, sampler: SequenceSampler, latents: Tensor) -> dict[str, float]:
        scores = score_text(sampler, latents, self.spec.start_number, self.text.validation[:VALIDATED], "validating")
        return {self.unit: scores.surprisal.mean().item() / math.log(2)}

    def measure(self, checkpoint: SequenceCheckpoint, latents: Tensor) -> Mapping[str, float]:
        metrics, sampler = dict[str, float](), checkpoint.sampler
        for name, split in (("validation", self.text.validation), ("test", self.text.test)):
            scores = score_text(sampler, latents, self.spec.start_number, split, f"evaluating the {name} split")
            metrics[f"{name} bits per character"] = scores.surprisal.mean().item() / math.log(2)
            if len(latents) > 1:
                alone = scores.member_surprisal.mean().item() / math.log(2)
                metrics[f"{name} bits per character, one network"] = alone
                metrics[f"{name} entropy, bits"] = scores.entropy.mean().item() / math.log(2)
                metrics[f"{name} disagreement, bits"] = scores.disagreement.mean().item() / math.log(2)
        if checkpoint.calibration is not None:
            budget = f"{checkpoint.calibration.default_rate:.0%}"
            flagged = measure_false_alarms(checkpoint, checkpoint.calibration, self.text)
            metrics[f"share of test passages flagged as foreign, budget {budget}"] = flagged
        return metrics

    def calibrate(self, directory: Path, checkpoint: SequenceCheckpoint) -> bool:
        save_passage_calibration(directory, calibrate_passages(directory, checkpoint, self.text))
        return True


@torch.no_grad()
def score_text(sampler: SequenceSampler, latents: Tensor, start: int, text: Tensor, title: str) -> SymbolScores:
    """Scores all symbols of a text by an ensemble, as one stream.

    The text is read in parts side by side. Each is led up to by the symbols before it, so that the state is that of one
    long pass, up to what networks remember for longer.

    Args:
        sampler: in evaluation mode.
        latents: latents of the networks, [S, …].
        start: the symbol before the text.
        text: numbers of symbols, [P].
        title: what to call the progress.
    """
    streams = max(1, min(STREAMS, len(text) // LEAD))
    length = -(-len(text) // streams)
    whole = F.pad(text.long(), (LEAD + 1, streams * length - len(text)), value=start).to(latents.device)
    rows = whole.unfold(0, LEAD + length + 1, length).mT  # [LEAD + length + 1, streams]
    network, networks = sampler.assemble(latents), len(latents)
    state = network(rows[:LEAD].repeat(1, networks))[1]
    for part in state:
        part.unflatten(1, (networks, streams))[:, :, 0] = 0  # nothing comes before the first part
    inputs, targets = rows[LEAD:-1].split(EVALUATED_WINDOW), rows[LEAD + 1 :].split(EVALUATED_WINDOW)
    parts = []
    for window, following in track(list(zip(inputs, targets, strict=True)), title, "window"):
        logits, state = network(window.repeat(1, networks), state)
        logits = logits.unflatten(1, (networks, streams)).transpose(0, 1).flatten(1, 2)
        parts.append(score_symbols(logits, following.flatten()))
    return _order(join_scores(parts), streams, len(text))


def _order(scores: SymbolScores, streams: int, length: int) -> SymbolScores:
    """Scores in the order of the text, from those of all streams step by step."""

    def order(values: Tensor) -> Tensor:
        by_stream: Tensor = values.unflatten(-1, (-1, streams)).mT
        return by_stream.flatten(-2)[..., :length]

    return SymbolScores(
        order(scores.surprisal), order(scores.member_surprisal), order(scores.entropy), order(scores.disagreement)
    )
