"""The commands that train a translator and use it."""

from pathlib import Path
from typing import Annotated

import typer

from models.device import choose_device
from training.endings import INTERRUPTED, conclude, explain_errors
from training.options import (
    DeviceOption,
    JSONOption,
    OutOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    check_length,
)
from training.progress import be_quiet, warn
from training.translation.measures import Beam, translate_texts
from training.translation.network import CellKind
from training.translation.session import (
    METRICS_FILE,
    USUAL_UPDATES,
    TranslationSession,
    describe_metrics,
    train_translator,
)
from training.translation.translator_files import load_translator
from training.translation.vocabulary import Level

USUAL = TranslationSession
"""Its defaults are those of the options."""

BeamOption = Annotated[int, typer.Option(min=1, max=100, help="Number of hypotheses of the beam search.")]
AlphaOption = Annotated[
    float, typer.Option(min=0, max=5, help="Exponent of the beam search's penalty. Larger ones prefer longer texts.")
]


def translate_command(
    pairs: Annotated[
        Path,
        typer.Argument(
            help="UTF-8 text, or the same gzipped: a sentence, a tab and its translation in each line.",
            metavar="PAIRS.tsv",
        ),
    ],
    out: OutOption,
    cell: Annotated[CellKind, typer.Option(help="Recurrent cells, with layer normalisation.")] = USUAL.cell,
    hidden: Annotated[int, typer.Option(min=1, max=4096, help="Units of a cell.")] = USUAL.hidden,
    hyper: Annotated[int, typer.Option(min=1, max=4096, help="Units of the small cell of a hyper-lstm.")] = USUAL.hyper,
    embedding: Annotated[
        int, typer.Option(min=1, max=1024, help="Numbers of the embeddings that make the weights of a hyper-lstm.")
    ] = USUAL.embedding,
    symbol: Annotated[int, typer.Option(min=1, max=4096, help="Numbers that a symbol is embedded in.")] = USUAL.symbol,
    dropout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Dropout of symbols' embeddings and of the output.")
    ] = USUAL.dropout,
    recurrent_dropout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Dropout of the candidates of the cells' recurrence.")
    ] = USUAL.recurrent_dropout,
    level: Annotated[Level, typer.Option(help="What symbols are.")] = USUAL.level,
    merges: Annotated[
        int, typer.Option(min=0, max=50_000, help="Most merges of byte pairs of each language.")
    ] = USUAL.merges,
    longest: Annotated[
        int, typer.Option(min=1, max=10_000, help="Most characters of a sentence; longer pairs are left out.")
    ] = USUAL.longest,
    batch: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Most symbols of a batch, both languages and padding together.")
    ] = USUAL.batch,
    rate: Annotated[float, typer.Option(min=1e-6, max=1, help="Largest learning rate of Adam.")] = USUAL.rate,
    label_smoothing: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of each symbol's probability to spread over all symbols.")
    ] = USUAL.label_smoothing,
    beam: BeamOption = Beam.width,
    alpha: AlphaOption = Beam.alpha,
    device: DeviceOption = "auto",
    seed: SeedOption = None,
    updates: Annotated[
        int | None, typer.Option(min=1, help="Number of updates.", show_default=f"{USUAL_UPDATES}")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Length in minutes, instead of --updates. The speed of this machine is measured first."
        ),
    ] = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Train a translator on pairs of sentences, an encoder and a decoder with attention, and measure its BLEU.

    A tenth of the sentences tests and a twentieth validates. A sentence's part depends on its text alone, so all runs
    have the same parts. The service does not serve translators; `translate-text` uses them.
    """
    check_length(updates, minutes, resume, "--updates")
    session = TranslationSession(
        pairs=pairs,
        out=out,
        seed=seed,
        updates=updates,
        minutes=minutes,
        resume=resume,
        cell=cell,
        hidden=hidden,
        hyper=hyper,
        embedding=embedding,
        symbol=symbol,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        level=level,
        merges=merges,
        longest=longest,
        batch=batch,
        rate=rate,
        label_smoothing=label_smoothing,
        beam=Beam(beam, alpha),
    )
    with explain_errors(), be_quiet(quiet):
        metrics = train_translator(session, choose_device(device))
    if metrics is None:
        warn(INTERRUPTED)
    text = f"Wrote {out}." + (f" {describe_metrics(metrics)}." if metrics else "")
    conclude(text, out / METRICS_FILE, as_json)


def translate_text_command(
    translator: Annotated[Path, typer.Argument(help="Directory that `translate` wrote.", metavar="DIR")],
    texts: Annotated[list[str], typer.Argument(help="Sentences to translate.", metavar="TEXT…")],
    beam: BeamOption = Beam.width,
    alpha: AlphaOption = Beam.alpha,
    device: DeviceOption = "auto",
) -> None:
    """Translate sentences, and print a line for each."""
    with explain_errors(), be_quiet():
        network = load_translator(translator, choose_device(device))
        for text in translate_texts(network, texts, Beam(beam, alpha)):
            typer.echo(text)
