"""Recipes for sequences.

The published ones are those of the paper (Ha, Dai & Le 2016, section 4 and appendix A.3), at sizes that a CPU trains in
minutes or hours. Those for the Penn Treebank have small batches and no dropout: so they learn most from the few
characters that they see. `--hidden 1000 --hyper 128 --batch 128 --dropout 0.1` restores the paper's. Unlike there, the
learning rate begins three times as high and falls along a cosine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.sequences.network import NO_DROPOUT, CellSize, Dropout, HyperLSTMSize, LSTMSize
from models.stored_tensors import Storage


@dataclass(frozen=True)
class SequenceRecipe:
    """A training run: Adam with a cosine schedule, on windows of sequences whose state is carried from one to the next.

    Raises:
        ValueError: if the sequences of a step cannot be divided among the modes.
    """

    name: str
    dataset: str
    size: CellSize
    updates: int
    modes: int = 1
    """Networks that share their large matrices. Each learns from its own part of every batch."""
    latent_size: int = 0
    """Numbers of z, which moves a network around its mode."""
    batch: int = 128
    """Sequences of a step."""
    window: int = 100
    """Steps through which gradients flow, or the most points of a drawing."""
    learning_rate: float = 3e-3
    warmup_updates: int = 100
    final_learning_rate_fraction: float = 0.02
    gradient_norm_limit: float = 1.0
    dropout: Dropout = NO_DROPOUT
    storage: Storage = "bfloat16"
    options: str = ""
    """Command-line options that changed this recipe from what its function returns."""

    def __post_init__(self) -> None:
        if self.batch % self.modes:
            raise ValueError(f"{self.batch} sequences cannot be divided among {self.modes} modes")


def ptb_hyperlstm() -> SequenceRecipe:
    """HyperLSTM on the characters of the Penn Treebank."""
    size = HyperLSTMSize(256, hyper_size=32, embedding_size=4)
    return SequenceRecipe("ptb-hyperlstm", "ptb", size, updates=4_000, batch=32)


def ptb_lstm() -> SequenceRecipe:
    """LSTM on the characters of the Penn Treebank, to compare with."""
    return SequenceRecipe("ptb-lstm", "ptb", LSTMSize(256), updates=4_000, batch=32)


def shakespeare_hyperlstm() -> SequenceRecipe:
    """HyperLSTMs on Shakespeare's plays, for a quick start: eight modes."""
    return _write("shakespeare-hyperlstm", "tiny-shakespeare")


def own_text() -> SequenceRecipe:
    """HyperLSTMs on a text of your own."""
    return _write("text", "")


def _write(name: str, dataset: str) -> SequenceRecipe:
    return SequenceRecipe(
        name,
        dataset,
        HyperLSTMSize(256, hyper_size=32, embedding_size=4),
        updates=2_000,
        modes=8,
        latent_size=4,
        dropout=Dropout(recurrent=0.1, output=0.1),
    )


def kanji_hyperlstm() -> SequenceRecipe:
    """HyperLSTM on the pen strokes of kanji."""
    return _draw("kanji-hyperlstm", "kanji", updates=4_000)


def omniglot_hyperlstm() -> SequenceRecipe:
    """HyperLSTM on the pen strokes of 50 alphabets."""
    return _draw("omniglot-hyperlstm", "omniglot", updates=6_000)


def own_drawings() -> SequenceRecipe:
    """HyperLSTM on drawings of your own."""
    return _draw("drawings", "", updates=2_000)


def _draw(name: str, dataset: str, updates: int) -> SequenceRecipe:
    """As the paper draws: without layer normalisation, which hurts here."""
    return SequenceRecipe(
        name,
        dataset,
        HyperLSTMSize(256, hyper_size=32, embedding_size=4, layer_norm=False),
        updates,
        batch=64,
        learning_rate=1e-3,
        gradient_norm_limit=5.0,
        dropout=Dropout(recurrent=0.05, output=0.05),
    )


SEQUENCE_RECIPES: Sequence[Callable[[], SequenceRecipe]] = (
    ptb_hyperlstm,
    ptb_lstm,
    shakespeare_hyperlstm,
    kanji_hyperlstm,
    omniglot_hyperlstm,
)
"""Recipes on published data, each of which is a command."""
