"""The commands that train on sequences: published texts, and a user's own."""

import inspect
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from models.device import choose_device
from models.memory import keep_freed_memory
from models.precision import Precision
from models.sequences.network import Dropout, HyperLSTMSize, LSTMSize
from training.data.strokes import DRAWINGS, load_own_drawings
from training.data.text import TEXTS, load_text
from training.endings import INTERRUPTED, conclude, explain_errors
from training.options import (
    DATA_FOLDER,
    DataOption,
    DeviceOption,
    JSONOption,
    MinutesOption,
    OutOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    check_length,
)
from training.progress import be_quiet, warn
from training.sequences.drawings import DrawingsProblem
from training.sequences.problem import SequenceProblem
from training.sequences.recipe import SEQUENCE_RECIPES, SequenceRecipe, own_drawings, own_text
from training.sequences.session import SequenceSession, train_sequences
from training.sequences.text import TextProblem

CellOption = Annotated[
    Literal["hyper-lstm", "lstm"] | None, typer.Option(help="Kind of cell.", show_default="the recipe's")
]
HiddenOption = Annotated[int | None, typer.Option(min=1, max=65_536, help="Units of a layer.", show_default="256")]
LayersOption = Annotated[int | None, typer.Option(min=1, max=16, help="Number of layers.", show_default="1")]
HyperOption = Annotated[
    int | None, typer.Option(min=1, max=65_536, help="Units of the small LSTM of a HyperLSTM.", show_default="32")
]
EmbeddingOption = Annotated[
    int | None,
    typer.Option(min=1, max=65_536, help="Numbers from which a gate's scales are made.", show_default="4"),
]
NormOption = Annotated[
    bool | None, typer.Option("--norm/--no-norm", help="Layer normalisation.", show_default="the recipe's")
]
ModesOption = Annotated[
    int | None,
    typer.Option(min=1, max=1_000, help="Networks that share their large matrices.", show_default="the recipe's"),
]
LatentOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=1_000,
        help="Numbers that move a drawn network around its mode; without any, the modes are all networks.",
        show_default="the recipe's",
    ),
]
BatchOption = Annotated[int | None, typer.Option(min=1, help="Sequences of an update.", show_default="128")]
DropoutOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.99,
        help="Share of the inputs, of each step's candidates and of the outputs that is zeroed in training.",
        show_default="the recipe's",
    ),
]
UpdatesOption = Annotated[int | None, typer.Option(min=1, help="Number of updates.", show_default="the recipe's")]
PrecisionOption = Annotated[
    Precision | None, typer.Option(help="Precision of products.", show_default="what is fastest on the device")
]

Load = Callable[[torch.device], SequenceProblem]
"""Makes a problem on a device."""

Posed = tuple[SequenceRecipe, Load]


def _add_recipe(recipe: SequenceRecipe, description: str, app: typer.Typer) -> None:
    def command(
        out: OutOption,
        data: DataOption = DATA_FOLDER,
        cell: CellOption = None,
        hidden: HiddenOption = None,
        layers: LayersOption = None,
        hyper: HyperOption = None,
        embedding: EmbeddingOption = None,
        norm: NormOption = None,
        modes: ModesOption = None,
        latent: LatentOption = None,
        batch: BatchOption = None,
        dropout: DropoutOption = None,
        device: DeviceOption = "auto",
        precision: PrecisionOption = None,
        seed: SeedOption = None,
        updates: UpdatesOption = None,
        minutes: MinutesOption = None,
        resume: ResumeOption = False,
        quiet: QuietOption = False,
        as_json: JSONOption = False,
    ) -> None:
        varied = _vary(recipe, cell, hidden, layers, hyper, embedding, norm, modes, latent, batch, dropout)
        load = partial(_load_problem, recipe.dataset, data)
        _train(varied, load, out, device, precision, seed, updates, minutes, resume, quiet, as_json)

    app.command(recipe.name, help=description, rich_help_panel="Recipes for sequences")(command)


def _add_own(name: str, file_help: str, pose: Callable[[Path], Posed], app: typer.Typer) -> None:
    """Adds a command for a user's own file.

    Args:
        name: name of the command.
        file_help: what the file must be.
        pose: makes the recipe, and what makes the problem, of a file; its docstring describes the command.
        app: where to add it.
    """

    def command(
        file: Annotated[Path, typer.Argument(help=file_help, metavar="FILE")],
        out: OutOption,
        cell: CellOption = None,
        hidden: HiddenOption = None,
        layers: LayersOption = None,
        hyper: HyperOption = None,
        embedding: EmbeddingOption = None,
        norm: NormOption = None,
        modes: ModesOption = None,
        latent: LatentOption = None,
        batch: BatchOption = None,
        dropout: DropoutOption = None,
        device: DeviceOption = "auto",
        precision: PrecisionOption = None,
        seed: SeedOption = None,
        updates: UpdatesOption = None,
        minutes: MinutesOption = None,
        resume: ResumeOption = False,
        quiet: QuietOption = False,
        as_json: JSONOption = False,
    ) -> None:
        with explain_errors():
            recipe, load = pose(file)
        varied = _vary(recipe, cell, hidden, layers, hyper, embedding, norm, modes, latent, batch, dropout)
        argument = shlex.quote(str(file))
        _train(varied, load, out, device, precision, seed, updates, minutes, resume, quiet, as_json, argument)

    app.command(name, help=inspect.getdoc(pose), rich_help_panel="Your own data")(command)


def _pose_text(file: Path) -> Posed:
    """Train networks that predict and write text, on a text of your own: at least 10,000 characters.

    The last 15 % of the text are held out: to watch the training, to calibrate flags, and to test.
    """
    return replace(own_text(), dataset=file.name), lambda place: TextProblem(load_text(file), place)


def _pose_drawings(file: Path) -> Posed:
    """Train networks that draw with a pen, on drawings of your own.

    A tenth of the drawings is held out to watch the training, and another tenth to test.
    """
    drawings = load_own_drawings(file)
    return replace(own_drawings(), dataset=drawings.name), lambda place: DrawingsProblem(drawings, place)


def _load_problem(dataset: str, data: Path, device: torch.device) -> SequenceProblem:
    if dataset in TEXTS:
        return TextProblem(TEXTS[dataset](data), device)
    return DrawingsProblem(DRAWINGS[dataset](data), device)


def _vary(
    recipe: SequenceRecipe,
    cell: Literal["hyper-lstm", "lstm"] | None,
    hidden: int | None,
    layers: int | None,
    hyper: int | None,
    embedding: int | None,
    norm: bool | None,
    modes: int | None,
    latent: int | None,
    batch: int | None,
    dropout: float | None,
) -> SequenceRecipe:
    """A recipe with other sizes, and the options that say so.

    Raises:
        typer.BadParameter: if they contradict each other.
    """
    named = {
        "cell": cell,
        "hidden": hidden,
        "layers": layers,
        "hyper": hyper,
        "embedding": embedding,
        "modes": modes,
        "latent": latent,
        "batch": batch,
        "dropout": dropout,
    }
    options = "".join(f" --{name} {value}" for name, value in named.items() if value is not None)
    options += "" if norm is None else " --norm" if norm else " --no-norm"
    old = recipe.size
    is_lstm = isinstance(old, LSTMSize) if cell is None else cell == "lstm"
    common = hidden or old.hidden_size, layers or old.num_layers
    normed = old.layer_norm if norm is None else norm
    if is_lstm:
        if hyper or embedding or (modes or 1) > 1 or latent:
            raise typer.BadParameter("an LSTM has no --hyper, --embedding, --modes or --latent")
        size: LSTMSize | HyperLSTMSize = LSTMSize(*common, layer_norm=normed)
        modes, latent = 1, 0
    else:
        before = old if isinstance(old, HyperLSTMSize) else HyperLSTMSize(256, hyper_size=32)
        size = HyperLSTMSize(
            *common,
            hyper_size=hyper or before.hyper_size,
            embedding_size=embedding or before.embedding_size,
            layer_norm=normed,
        )
    try:
        return replace(
            recipe,
            size=size,
            modes=modes or recipe.modes,
            latent_size=recipe.latent_size if latent is None else latent,
            batch=batch or recipe.batch,
            dropout=recipe.dropout if dropout is None else Dropout(dropout, dropout, dropout),
            options=options,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _train(
    recipe: SequenceRecipe,
    load: Load,
    out: Path,
    device: str,
    precision: Precision | None,
    seed: int | None,
    updates: int | None,
    minutes: float | None,
    resume: bool,
    quiet: bool,
    as_json: bool,
    argument: str = "",
) -> None:
    check_length(updates, minutes, resume)
    keep_freed_memory()
    with explain_errors(), be_quiet(quiet):
        place = choose_device(device)
        session = SequenceSession(recipe, out, place, seed, updates, minutes, precision, resume, argument)
        finished = train_sequences(session, load(place))
    if not finished:
        warn(INTERRUPTED)
    conclude(f"Wrote {out}. Serve it: hyperdraw-serve --checkpoints {out}", out / "metrics.json", as_json)


def add_sequence_commands(app: typer.Typer) -> None:
    """Adds all commands of this file."""
    for make in SEQUENCE_RECIPES:
        _add_recipe(make(), inspect.getdoc(make) or "", app)
    _add_own("text", "Text file in UTF-8.", _pose_text, app)
    points = "a JSON list of points [Δx, Δy, pen lifted after this point]"
    _add_own("drawings", f"Text file with a drawing on each line: {points}.", _pose_drawings, app)
