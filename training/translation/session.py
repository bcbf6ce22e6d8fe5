"""One command of translation: trains, shows progress, saves, measures, and writes the translator."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from models.checkpoint_files import dump_json, write_file
from training.denormals import flush_denormals
from training.progress import Bar, announce
from training.runs.loop import SAVE_EVERY_SECONDS, VALIDATIONS, catch_interrupt
from training.runs.output import STATE_FILE, check_output, make_output
from training.runs.state import read_identity
from training.translation.card import save_card
from training.translation.measures import Beam, TranslationMetrics, measure_translations, translate_texts
from training.translation.network import CellKind, TranslatorConfig
from training.translation.pairs import Corpus, load_corpus
from training.translation.run import Settings, TranslationRun
from training.translation.translator_files import Origin, TranslationConfig, save_translator
from training.translation.vocabulary import Level, learn_vocabulary, require_package

METRICS_FILE, TRANSLATIONS_FILE = "metrics.json", "translations.tsv"

USUAL_UPDATES = 4_000

WARM_UPDATES, TIMED_UPDATES = 3, 12
"""Updates that measure the speed of a machine; the first ones are slower."""


@dataclass(frozen=True)
class TranslationSession:
    """One command: what the user asked for."""

    pairs: Path
    out: Path
    seed: int | None = None
    updates: int | None = None
    minutes: float | None = None
    resume: bool = False
    cell: CellKind = CellKind.HYPER_LSTM
    hidden: int = 256
    hyper: int = 32
    embedding: int = 4
    symbol: int = 128
    dropout: float = 0.2
    recurrent_dropout: float = 0.1
    level: Level = Level.BYTE_PAIRS
    merges: int = 2_000
    longest: int = 120
    """Most characters of a source."""
    batch: int = 4_000
    rate: float = 2e-3
    label_smoothing: float = 0.1
    beam: Beam = field(default_factory=Beam)

    @property
    def state_file(self) -> Path:
        """File of an unfinished training."""
        return self.out / STATE_FILE


@flush_denormals()
def train_translator(session: TranslationSession, device: torch.device) -> TranslationMetrics | None:
    """Trains a translator, measures it on the test pairs, and writes it with its metrics and card.

    An interrupt stops the training after its current update; the translator of then is written, but not measured.

    Returns:
        The metrics, or None if the training was interrupted.

    Raises:
        DatasetError: if the pairs cannot be used.
        TrainingError: if there is nothing to resume, if something would be overwritten, if a package is missing, or if
            the loss is not finite.
    """
    require_package("sacrebleu")
    check_output(session.out, session.resume)
    corpus = load_corpus(session.pairs, session.longest)
    run = _begin(session, corpus, device)
    make_output(session.out)
    size = sum(parameter.numel() for parameter in run.network.parameters())
    announce(
        f"{session.pairs.name}: {len(corpus.train):,} pairs train, {len(corpus.validation):,} validate and "
        f"{len(corpus.test):,} test. The network has {size:,} parameters."
    )
    complete = _run_updates(run, f"translate, {session.cell}", session.state_file)
    if not run.validations:
        run.validate()
    config = TranslationConfig(run.config, _describe_origin(session, run))
    save_translator(session.out, config, run.best)
    if not complete:
        save_card(session.out, config)
        return None
    translations = translate_texts(run.best.eval(), [source for source, _ in corpus.test], session.beam)
    metrics = measure_translations(run, translations, session.beam)
    rows = [
        f"{source}\t{target}\t{' '.join(found.split())}\n"
        for (source, target), found in zip(corpus.test, translations, strict=True)
    ]
    write_file(session.out / TRANSLATIONS_FILE, "".join(rows).encode())
    write_file(session.out / METRICS_FILE, dump_json(metrics))
    save_card(session.out, config, metrics, corpus.test, translations)
    session.state_file.unlink()
    return metrics


def describe_metrics(metrics: TranslationMetrics) -> str:
    """The most important metrics, as text."""
    return (
        f"BLEU {metrics.bleu.value:.2f}, chrF {metrics.chrf.value:.2f} and {metrics.exact:.1%} exact on "
        f"{metrics.pairs['test']:,} test pairs; {metrics.validation_nats:.4f} nats per symbol of the validation targets"
    )


def _begin(session: TranslationSession, corpus: Corpus, device: torch.device) -> TranslationRun:
    """Starts a new run, or loads the saved one, whose seed and updates are then the defaults."""
    config = _make_config(session, corpus)
    saved = read_identity(session.state_file) if session.resume else {}
    seed = saved.get("seed", 0) if session.seed is None else session.seed
    updates = saved.get("updates") if session.updates is None else session.updates

    def start(count: int) -> TranslationRun:
        settings = Settings(count, seed, session.batch, session.rate, session.label_smoothing)
        return TranslationRun(config, corpus, settings, device)

    if updates is None:
        updates = USUAL_UPDATES if session.minutes is None else _count_updates(start, session.minutes)
    run = start(updates)
    if session.resume:
        run.load(session.state_file)
    return run


def _make_config(session: TranslationSession, corpus: Corpus) -> TranslatorConfig:
    source, target = (
        learn_vocabulary(texts, session.level, session.merges) for texts in zip(*corpus.train, strict=True)
    )
    return TranslatorConfig(
        cell=session.cell,
        hidden=session.hidden,
        hyper=session.hyper,
        embedding=session.embedding,
        symbol=session.symbol,
        dropout=session.dropout,
        recurrent_dropout=session.recurrent_dropout,
        longest=1 + max(len(target.encode(text)) for _, text in corpus.train),
        source=source,
        target=target,
    )


def _count_updates(start: Callable[[int], TranslationRun], minutes: float) -> int:
    """How many updates fit into the minutes, measured on a few of a throw-away run."""
    run = start(USUAL_UPDATES)
    for _ in range(WARM_UPDATES):
        run.step()
    before = run.seconds
    for _ in range(TIMED_UPDATES):
        run.step()
    return max(1, round(60 * minutes * TIMED_UPDATES / (run.seconds - before)))


def _run_updates(run: TranslationRun, title: str, state: Path) -> bool:
    """Makes updates until the run is finished or interrupted; returns whether it was not interrupted."""
    planned = run.settings.updates
    validate_every = max(1, planned // VALIDATIONS)
    saved = time.monotonic()
    with Bar(title, "update", planned, run.updates) as bar, catch_interrupt() as interrupted:
        while not run.finished and not interrupted():
            loss = run.step()
            bar.update()
            bar.note(f"loss {loss:.3f}")
            if run.updates % validate_every == 0 or run.finished:
                found = run.validate()
                announce(f"{title}, update {found.update}: validation {found.nats:.4f} nats per symbol")
            if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                run.save(state)
                saved = time.monotonic()
        complete = not interrupted()
    run.save(state)
    return complete


def _describe_origin(session: TranslationSession, run: TranslationRun) -> Origin:
    options: dict[str, object] = {"cell": session.cell, "hidden": session.hidden}
    if session.cell is CellKind.HYPER_LSTM:
        options |= {"hyper": session.hyper, "embedding": session.embedding}
    options |= {"symbol": session.symbol, "dropout": session.dropout, "recurrent-dropout": session.recurrent_dropout}
    options |= {"level": session.level}
    if session.level is Level.BYTE_PAIRS:
        options |= {"merges": session.merges}
    settings = run.settings
    options |= {"longest": session.longest, "batch": settings.batch, "rate": settings.rate}
    options |= {"label-smoothing": settings.label_smoothing, "beam": session.beam.width, "alpha": session.beam.alpha}
    options |= {"updates": settings.updates, "seed": settings.seed}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = f"hyperdraw-train translate {shlex.quote(session.pairs.name)} --out DIR {shlex.join(words)}"
    corpus = run.corpus
    return Origin(command, corpus.name, corpus.sha256, settings.seed, run.updates, settings.updates)
