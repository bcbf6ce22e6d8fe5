"""The README.md of a translator."""

from collections.abc import Sequence
from pathlib import Path

from models.checkpoint_files import write_file
from training.translation.measures import TranslationMetrics
from training.translation.pairs import Pair
from training.translation.translator_files import TranslationConfig

SAMPLES = 10


def save_card(
    directory: Path,
    config: TranslationConfig,
    metrics: TranslationMetrics | None = None,
    test: Sequence[Pair] = (),
    translations: Sequence[str] = (),
) -> None:
    """Writes the README.md.

    Args:
        directory: directory of the translator.
        config: its config.
        metrics: what was measured, if the training is finished.
        test: the test pairs.
        translations: of their sources.
    """
    sections = [_describe(directory.name, config)]
    sections += [_list_metrics(metrics), _show_samples(test, translations)] if metrics else [_explain_lack(config)]
    sections.append('## Use\n\n```sh\nhyperdraw-train translate-text DIR "TEXT"\n```')
    write_file(directory / "README.md", "\n\n".join(sections).encode() + b"\n")


def _describe(name: str, config: TranslationConfig) -> str:
    sizes, origin = config.translator, config.training
    cells = f"{sizes.cell} cells of {sizes.hidden} units"
    if sizes.cell == "hyper-lstm":
        cells += f", a small cell of {sizes.hyper} units and embeddings of {sizes.embedding} numbers"
    return f"""# {name}

A translator for hyperdraw's training; the service does not serve it. Encoder and decoder have {cells}, with layer
normalisation and attention. Symbols are {sizes.source.level}: {sizes.source.size:,} of the sources and
{sizes.target.size:,} of the targets.

## Training

`{origin.command}`: {origin.updates:,} updates on `{origin.pairs}` with seed {origin.seed}. The SHA-256 of the pairs is
`{origin.sha256}`."""


def _explain_lack(config: TranslationConfig) -> str:
    origin = config.training
    return f"""## Metrics

Not measured, because the training was interrupted after {origin.updates:,} of {origin.planned_updates:,} updates. The
test pairs were not used. Continue with `--resume`."""


def _list_metrics(metrics: TranslationMetrics) -> str:
    pairs = metrics.pairs
    return f"""## Metrics

Measured on {pairs["test"]:,} test pairs. {pairs["train"]:,} pairs trained, and {pairs["validation"]:,} chose the best
of {len(metrics.validations)} networks on the way, that of update {metrics.best_update:,}. Beam search has
{metrics.beam.width} hypotheses and the penalty exponent {metrics.beam.alpha:g}.

| metric | value |
| --- | --- |
| BLEU | {metrics.bleu.value:.2f} (`{metrics.bleu.signature}`) |
| chrF | {metrics.chrf.value:.2f} (`{metrics.chrf.signature}`) |
| translations that are the reference | {metrics.exact:.1%} |
| nats per symbol of the validation targets | {metrics.validation_nats:.4f} |
| nats per character of the same | {metrics.validation_nats_per_character:.4f} |
| parameters | {metrics.parameters:,} |
| seconds of training | {metrics.seconds:,.0f} |
| symbols trained on in a second | {metrics.symbols_per_second:,.0f} |"""


def _show_samples(test: Sequence[Pair], translations: Sequence[str]) -> str:
    step = max(1, len(test) // SAMPLES)
    chosen = list(zip(test, translations, strict=True))[::step][:SAMPLES]
    lines = [f"| {_escape(s)} | {_escape(t)} | {_escape(translation)} |" for (s, t), translation in chosen]
    table = "\n".join(["| source | reference | translation |", "| --- | --- | --- |", *lines])
    return f"## Translations\n\nEvery {step:,}th test pair, not chosen by hand. `translations.tsv` has all.\n\n{table}"


def _escape(text: str) -> str:
    """A text within a table of Markdown."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
