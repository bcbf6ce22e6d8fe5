"""What a trained translator is measured by: translations of the test sentences, BLEU and chrF."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.progress import Bar
from training.translation.batches import sort_batches
from training.translation.beam import search
from training.translation.network import Translator, collate
from training.translation.run import TranslationRun, Validation

BATCH = 3_000
"""Most symbols of the sources that are translated at once."""


@dataclass(frozen=True)
class Beam:
    """Settings of the search."""

    width: int = 5
    """Number of hypotheses."""
    alpha: float = 0.6
    """Exponent of the penalty of lengths."""


@dataclass(frozen=True)
class Score:
    """A score of all test sentences, from 0 to 100."""

    value: float
    signature: str
    """What sacrebleu computed, by sacrebleu."""


@dataclass(frozen=True)
class TranslationMetrics:
    """The content of `metrics.json`."""

    cell: str
    parameters: int
    pairs: dict[str, int]
    """Number of pairs by their use."""
    updates: int
    seconds: float
    """How long all updates took."""
    symbols_per_second: float
    """Symbols of sources and targets that were learned from."""
    validation_nats: float
    """Least mean over the symbols of the validation targets, with their ends."""
    validation_nats_per_character: float
    """The same nats, divided by the number of characters, with one for each end."""
    best_update: int
    """Number of updates of the network that is kept, which has the least nats."""
    bleu: Score
    chrf: Score
    exact: float
    """Share of the test sentences whose translation is the reference."""
    beam: Beam
    validations: list[Validation]


def translate_texts(network: Translator, texts: Sequence[str], beam: Beam) -> list[str]:
    """Translations of texts by a network in evaluation mode."""
    config, device = network.config, network.readout.weight.device
    sources = [config.source.encode(text) for text in texts]
    translations = [""] * len(texts)
    with Bar("translating", "sentence", len(texts)) as bar:
        for chosen in sort_batches([(len(symbols) + 1, 0) for symbols in sources], BATCH):
            found = search(network, collate([sources[index] for index in chosen], device), beam.width, beam.alpha)
            for index, symbols in zip(chosen, found, strict=True):
                translations[index] = config.target.decode(symbols)
            bar.update(len(chosen))
    return translations


def measure_translations(run: TranslationRun, translations: Sequence[str], beam: Beam) -> TranslationMetrics:
    """Metrics of a finished run.

    Args:
        run: the run.
        translations: of the test sentences, by its best network.
        beam: the settings of the search that found them.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    corpus, best = run.corpus, run.best_validation
    references = [target for _, target in corpus.test]
    scores = []
    for metric in (BLEU(), CHRF()):
        value = metric.corpus_score(translations, [references]).score
        scores.append(Score(value, str(metric.get_signature())))
    texts = [target for _, target in corpus.validation]
    symbols = sum(len(run.config.target.encode(text)) + 1 for text in texts)
    return TranslationMetrics(
        cell=run.config.cell,
        parameters=sum(parameter.numel() for parameter in run.best.parameters()),
        pairs={"train": len(corpus.train), "validation": len(corpus.validation), "test": len(corpus.test)},
        updates=run.updates,
        seconds=run.seconds,
        symbols_per_second=run.symbols / run.seconds,
        validation_nats=best.nats,
        validation_nats_per_character=best.nats * symbols / sum(len(text) + 1 for text in texts),
        best_update=best.update,
        bleu=scores[0],
        chrf=scores[1],
        exact=sum(map(str.__eq__, translations, references)) / len(references),
        beam=beam,
        validations=run.validations,
    )
