"""Small translators for tests, of characters, and a language with a known answer."""

from pathlib import Path

import torch

from training.translation.network import CellKind, Translator, TranslatorConfig
from training.translation.pairs import Corpus, load_corpus
from training.translation.run import Settings, TranslationRun
from training.translation.vocabulary import Characters, Level, learn_vocabulary

LETTERS = "abcdefghij"


def spell(number: int) -> str:
    """A language with a known answer: a letter for each digit, the last one first."""
    return "".join(LETTERS[int(digit)] for digit in reversed(str(number)))


def write_pairs(path: Path) -> Path:
    """Numbers below 1000 in both languages."""
    path.write_text("".join(f"{number}\t{spell(number)}\n" for number in range(1, 1000)))
    return path


def make_config(
    cell: CellKind, source: str = "abcde", target: str = "vwxyz", longest: int = 12, hidden: int = 10
) -> TranslatorConfig:
    return TranslatorConfig(
        cell=cell,
        hidden=hidden,
        hyper=hidden // 3,
        embedding=3,
        symbol=hidden // 2,
        dropout=0.0,
        recurrent_dropout=0.0,
        longest=longest,
        source=Characters(source),
        target=Characters(target),
    )


def make_network(config: TranslatorConfig) -> Translator:
    """A network in evaluation mode, whose parameters are all random and far from their start."""
    network = Translator(config).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return network


def start_run(
    pairs: Path, cell: CellKind, updates: int, hidden: int, batch: int = 500, dropout: float = 0.0, rate: float = 0.02
) -> TranslationRun:
    corpus = load_corpus(pairs, 120)
    source, target = learn_alphabets(corpus)
    config = make_config(cell, source, target, hidden=hidden)
    config = TranslatorConfig(**(vars(config) | {"dropout": dropout, "recurrent_dropout": dropout}))
    return TranslationRun(config, corpus, Settings(updates, 0, batch, rate, 0.0), torch.device("cpu"))


def learn_alphabets(corpus: Corpus) -> list[str]:
    found = [learn_vocabulary(texts, Level.CHARACTERS, 0) for texts in zip(*corpus.train, strict=True)]
    return [vocabulary.characters for vocabulary in found if isinstance(vocabulary, Characters)]
