"""Cards of models for sequences: a checkpoint's README.md, made from its config and metrics."""

from collections.abc import Mapping
from pathlib import Path

from models.checkpoint_files import write_file
from models.sequences.checkpoint import SequenceConfig
from models.sequences.network import HyperLSTMSize
from models.sequences.text import TextSpec


def save_sequence_card(directory: Path, config: SequenceConfig, metrics: Mapping[str, float | str] | None) -> None:
    """Writes the checkpoint's README.md. Without metrics, it says that the checkpoint was not evaluated."""
    sections = [_describe_model(directory.name, config), _describe_training(config)]
    if metrics:
        sections.append(_describe_metrics(metrics))
    else:
        training = config.training
        sections.append(
            f"The training ended after {training.updates:,} of {training.planned_updates:,} updates, so the model was "
            "not evaluated. Continue it with the same command and `--resume`."
        )
    sections.append(_describe_use(directory.name, config))
    write_file(directory / "README.md", "\n\n".join(sections).encode() + b"\n")


def _describe_model(name: str, config: SequenceConfig) -> str:
    sampler, size = config.sampler, config.sampler.target.size
    cell = "HyperLSTM" if isinstance(size, HyperLSTMSize) else "LSTM"
    units = f"{size.hidden_size} units" + (f" in each of {size.num_layers} layers" if size.num_layers > 1 else "")
    units += f", scaled by {size.hyper_size}" if isinstance(size, HyperLSTMSize) else ""
    norm = "with" if size.layer_norm else "without"
    if sampler.modes == 1 and not sampler.latent_size:
        kind = f"one {cell}"
    else:
        kind = f"{sampler.modes} {cell}s that share their large matrices"
        kind += ", and networks around each of them" if sampler.latent_size else ""
    does = "writes and scores text" if isinstance(config.input, TextSpec) else "draws with a pen"
    known = (
        f"It knows {len(config.input.symbols)} characters, of which one stands for all others."
        if isinstance(config.input, TextSpec) and config.input.has_other
        else f"It knows {len(config.input.symbols)} characters."
        if isinstance(config.input, TextSpec)
        else f"A drawing has at most {config.input.max_points} points."
    )
    return f"# {name}\n\nA model for hyperdraw that {does}: {kind} of {units}, {norm} layer normalisation. {known}"


def _describe_training(config: SequenceConfig) -> str:
    training = config.training
    licence = f"\n\nLicence of the data: {training.licence}" if training.licence else ""
    return f"""## Training

Data: `{training.dataset}`. {training.updates:,} updates, seed {training.seed}.{licence}

```
{training.command}
```"""


def _describe_metrics(metrics: Mapping[str, float | str]) -> str:
    rows = [f"| {name} | {_format(value)} |" for name, value in metrics.items()]
    return "\n".join(["## Metrics", "", "| | |", "| --- | --- |", *rows])


def _format(value: float | str) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def _describe_use(name: str, config: SequenceConfig) -> str:
    body = '{"prompt": "The ", "max_tokens": 200}' if isinstance(config.input, TextSpec) else '{"format": "svg"}'
    return f"""## Use

```
hyperdraw-serve --checkpoints {name}
curl -s http://localhost:8000/v1/models/{name}/generate --json '{body}'
```"""
