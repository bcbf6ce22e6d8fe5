"""The command line of training: `hyperdraw-train`, also `python -m training`."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from models.checkpoint import CheckpointError, dump_json, load_checkpoint, write_file
from models.device import DeviceError, choose_device
from models.inputs.image import ImageSpec
from models.predictions.perturbation import Norm
from training.data.dataset import DatasetError
from training.data.image_folders import LEAST_SIZE, OWN_SIZE, USUAL_SIZE, load_image_folder
from training.data.published import default_data_folder
from training.evaluation.attack_report import Budget
from training.evaluation.metrics import ClassificationMetrics, load_metrics
from training.objectives.objectives import Measure
from training.progress import announce, be_quiet, warn
from training.recipes.all import RECIPES
from training.recipes.mnist import mnist_hypergan_small
from training.recipes.own_images import Method, own_images
from training.recipes.recipe import Part, Recipe
from training.recipes.variation import vary
from training.report.own_images import FILE as REPORT_FILE
from training.report.own_images import describe_images, describe_omissions, describe_report, make_report
from training.runs.checkpoints import attack_directory, calibrate_directory, evaluate_directory
from training.runs.run import TrainingError
from training.runs.session import Session, check_output, train
from training.studies.ablation import ablate
from training.studies.comparison import compare_directories
from training.studies.figures import draw_figures

app = typer.Typer(
    name="hyperdraw-train",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help=(
        "Train a sampler of neural networks and write it as a checkpoint that `hyperdraw-serve` loads.\n\n"
        "A first try, without any download: `hyperdraw-train digits-hypergan --out checkpoints/digits`\n\n"
        "Ctrl-C ends a training after its current step and leaves a checkpoint that can be served; the same command "
        "with `--resume` goes on to the very result that an uninterrupted training has."
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hyperdraw-train {version('hyperdraw-server')}")
        raise typer.Exit


@app.callback()
def train_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Takes the flags that stand before a command."""


INTERRUPTED = "interrupted, so not evaluated on the test set. Go on with --resume."

DATA_FOLDER = default_data_folder()
DataOption = Annotated[
    Path, typer.Option(help="Folder that holds the datasets' files; what is missing is downloaded into it.")
]
CheckpointArgument = Annotated[Path, typer.Argument(help="Directory of the checkpoint.")]
OutliersOption = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of images that the models were not trained on, besides the usual; may be repeated."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show results and warnings alone, no progress.")]
JSONOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document; everything else goes to stderr.")
]
SeedOption = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, show_default="0")]
MinutesOption = Annotated[
    float | None, typer.Option(min=0.01, help="Length in minutes: steps from this machine's measured speed.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the training that --out holds.")]
WithoutOption = Annotated[
    list[Part] | None, typer.Option(help="A part to leave out, to see what it does; may be repeated.")
]
OutOption = Annotated[Path, typer.Option(help="Directory of the checkpoint, made if missing.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda where there is one, else cpu.")]


def _add_recipe(recipe: Recipe, description: str) -> None:
    def command(
        out: OutOption,
        data: DataOption = DATA_FOLDER,
        device: DeviceOption = "auto",
        seed: SeedOption = None,
        steps: Annotated[int | None, typer.Option(min=1, help="Length.", show_default=f"{recipe.steps}")] = None,
        minutes: MinutesOption = None,
        resume: ResumeOption = False,
        without: WithoutOption = None,
        extras: Annotated[list[Part] | None, typer.Option("--with", help="A part to add; may be repeated.")] = None,
        accuracy_weight: Annotated[
            float | None,
            typer.Option(
                help="λ, the weight of accuracy against the diversity of the sampled weights.",
                show_default=f"{recipe.diversity.accuracy_weight:g}" if recipe.diversity else "no diversity",
            ),
        ] = None,
        diversity: Annotated[
            Measure | None,
            typer.Option(
                help="How the diversity of the sampled weights is measured.",
                show_default=recipe.diversity.measure if recipe.diversity else "none",
            ),
        ] = None,
        moment_matching: Annotated[
            float | None,
            typer.Option(
                help="Weight of matching the moments of the mixed codes to their prior's.",
                show_default=f"{recipe.moment_matching_weight:g}",
            ),
        ] = None,
        quiet: QuietOption = False,
        as_json: JSONOption = False,
    ) -> None:
        _check_length(steps, minutes, resume)
        try:
            varied = vary(recipe, without or (), accuracy_weight, diversity, moment_matching, extras or ())
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        with _explain_errors(), be_quiet(quiet):
            finished = train(Session(varied, out, data, choose_device(device), seed, steps, minutes, resume))
        if not finished:
            warn(INTERRUPTED)
        _conclude(f"Wrote {out}. Serve it: hyperdraw-serve --checkpoints {out}", out / "metrics.json", as_json)

    app.command(recipe.name, help=description, rich_help_panel="Recipes")(command)


def _check_length(steps: int | None, minutes: float | None, resume: bool) -> None:
    if steps is not None and minutes is not None:
        raise typer.BadParameter("give --steps or --minutes, not both")
    if resume and minutes is not None:
        raise typer.BadParameter("a resumed training keeps the steps it was planned with; leave --minutes out")


@app.command("images", rich_help_panel="Your own data")
def images_command(
    folder: Annotated[Path, typer.Argument(help="Holds a folder for each class, as DIR/cat/1.jpg.", metavar="DIR")],
    out: OutOption,
    size: Annotated[
        int | None,
        typer.Option(
            min=LEAST_SIZE,
            max=128,
            help="Width and height that images are resized to.",
            show_default=f"their own, if all have one, of at most {OWN_SIZE} × {OWN_SIZE}; else {USUAL_SIZE}",
        ),
    ] = None,
    grey: Annotated[
        bool | None, typer.Option("--grey/--colour", show_default="grey, if all images are stored without colours")
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Mirrored images are of the same class, so learn from them too; not letters.")
    ] = False,
    balance: Annotated[
        bool, typer.Option("--balance", help="Let rare classes weigh as much as frequent ones in the loss.")
    ] = False,
    method: Annotated[Method, typer.Option(help="That networks are sampled with.")] = Method.HYPERDRAW,
    without: WithoutOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length.", show_default="1500")] = None,
    minutes: MinutesOption = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Your own images, in a folder for each class: train, calibrate, evaluate, and report; minutes on 2 cores.

    PNG, JPEG and WebP files, DIR/cat/1.jpg and so on. Of each class 60 % are trained on, 10 % choose the temperature,
    15 % calibrate flags and 15 % test. DIR may hold `train`, with `test`, `val` or both, in place of the classes, which
    are in them then; what is to be tested on is the former, or the latter if it is alone.
    """
    _check_length(steps, minutes, resume)
    if out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve()):
        raise typer.BadParameter(f"--out {out} and the images' folder {folder} must not hold each other")
    with _explain_errors(), be_quiet(quiet):
        check_output(out, resume)
        images = load_image_folder(folder, size, grey)
        for text in describe_omissions(images):
            warn(text)
        dataset = images.dataset
        assert isinstance(dataset.input, ImageSpec)
        shape, counts = dataset.input.shape, images.count()
        announce(describe_images(images))
        recipe = own_images(images.name, shape, len(counts), len(dataset.train), method, flip, balance)
        try:
            recipe = vary(recipe, without or ())
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        options = f" --method {method}" if method is not Method.HYPERDRAW else ""
        options += f" --size {size}" if size else ""
        options += "" if grey is None else " --grey" if grey else " --colour"
        options += " --flip" if flip else ""
        options += " --balance" if balance else ""
        recipe = replace(recipe, options=options + recipe.options)
        finished = train(Session(recipe, out, folder, choose_device(device), seed, steps, minutes, resume), dataset)
        report = None
        if finished:
            checkpoint = load_checkpoint(out, choose_device(device))
            metrics = load_metrics(checkpoint)
            assert isinstance(metrics, ClassificationMetrics)
            report = make_report(out, folder, images, checkpoint, metrics)
            write_file(out / REPORT_FILE, dump_json(report))
    if report is None:
        warn(INTERRUPTED)
        typer.echo("null" if as_json else f"Wrote {out}. Serve it: hyperdraw-serve --checkpoints {out}")
    else:
        typer.echo(dump_json(report).decode().rstrip() if as_json else describe_report(report))


@app.command("calibrate", rich_help_panel="Checkpoints")
def calibrate_command(
    checkpoint: CheckpointArgument,
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Measure a checkpoint's thresholds again, on the calibration split; `evaluate` then writes its figures."""
    file = checkpoint / "calibration.json"
    with _explain_errors(), be_quiet(quiet):
        calibrate_directory(checkpoint, data, choose_device(device))
    _conclude(f"Wrote {file}. Its figures are gone: hyperdraw-train evaluate {checkpoint}", file, as_json)


@app.command("evaluate", rich_help_panel="Checkpoints")
def evaluate_command(
    checkpoint: CheckpointArgument,
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    outliers: OutliersOption = None,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Measure a checkpoint on its test set, and write its `metrics.json` and model card."""
    file = checkpoint / "metrics.json"
    with _explain_errors(), be_quiet(quiet):
        evaluate_directory(checkpoint, data, choose_device(device), outliers or ())
    _conclude(f"Wrote {file} and {checkpoint / 'README.md'}.", file, as_json)


@app.command("attack", rich_help_panel="Checkpoints")
def attack_command(
    checkpoint: CheckpointArgument,
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    surrogate: Annotated[
        Path | None, typer.Option(help="Directory of another model for the same images, to transfer attacks from.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Of the test set, the first ones.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Of an attack.")] = 500,
    restarts: Annotated[int, typer.Option(min=1, help="Of which the best counts.")] = 5,
    linf: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            max=1,
            help="ε, of the pixels' range; may be repeated.",
            show_default="0.1 0.2 0.3 in grey, 2, 4 and 8 / 255 in colour",
        ),
    ] = None,
    l2: Annotated[
        list[float] | None, typer.Option(min=0, help="ε likewise.", show_default="1 2 3 in grey, 0.25 0.5 1 in colour")
    ] = None,
    networks: Annotated[
        int | None,
        typer.Option(min=1, help="Of the ensemble that answers.", show_default="the largest that is evaluated"),
    ] = None,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Attack a classifier and its flags, adaptively, and write how often that succeeds to its model card.

    This takes hours on a CPU. What is finished is kept: the same command goes on after an interrupt.
    """
    epsilons: dict[Norm, tuple[float, ...]] = {"linf": tuple(linf or ()), "l2": tuple(l2 or ())}
    file = checkpoint / "attack.json"
    with _explain_errors(), be_quiet(quiet):
        budget = Budget(images, steps, restarts)
        attack_directory(checkpoint, data, choose_device(device), surrogate, budget, epsilons, announce, networks)
    _conclude(f"Wrote {file}; {checkpoint / 'README.md'} has the table.", file, as_json)


@app.command("compare", rich_help_panel="Checkpoints")
def compare_command(
    checkpoints: Annotated[list[Path], typer.Argument(help="Directories, of several methods, each with some seeds.")],
    out: Annotated[Path, typer.Option(help="Directory of the table and the figure.")],
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    outliers: OutliersOption = None,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Compare checkpoints of one dataset on equal terms, in one table; the first one's method is the yardstick."""
    with _explain_errors(), be_quiet(quiet):
        compare_directories(checkpoints, out, data, choose_device(device), outliers or (), announce)
    _conclude(f"Wrote {out / 'README.md'}.", out / "comparison.json", as_json)


@app.command("figures", rich_help_panel="Checkpoints")
def figures_command(
    checkpoint: CheckpointArgument,
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    networks: Annotated[int, typer.Option(min=100, max=100_000, help="How many are sampled.")] = 1000,
    quiet: QuietOption = False,
) -> None:
    """Draw a checkpoint's figures, the papers' own, into its `figures` folder, and show them in its model card."""
    with _explain_errors(), be_quiet(quiet):
        draw_figures(checkpoint, data, choose_device(device), networks, announce)
    typer.echo(f"Wrote {checkpoint / 'figures'}; {checkpoint / 'README.md'} shows them.")


@app.command("ablate", rich_help_panel="Experiments")
def ablate_command(
    out: Annotated[Path, typer.Option(help="Directory of the table, and of a checkpoint for each run.")],
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    seed: Annotated[
        list[int] | None, typer.Option(min=0, max=2**63 - 1, help="May be repeated.", show_default="0, 1 and 2")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of each run.", show_default="the recipe's")] = None,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Train mnist-hypergan-small without some of its parts, with several seeds each, and make a table of them.

    What is finished is kept: the same command goes on after an interrupt.
    """
    with _explain_errors(), be_quiet(quiet):
        session = Session(mnist_hypergan_small(), out, data, choose_device(device), None, steps, None, False)
        finished = ablate(session, seed or (0, 1, 2))
    if not finished:
        warn("interrupted. Go on with the same command.")
    _conclude(f"Wrote {out / 'README.md'}." if finished else "", out / "ablation.json", as_json)


def _conclude(text: str, document: Path, as_json: bool) -> None:
    """The last word on stdout: the text, or the document that was written, null if none was."""
    if as_json:
        typer.echo(document.read_text().rstrip() if document.exists() else "null")
    elif text:
        typer.echo(text)


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Errors that a user can mend end the command with their message alone."""
    try:
        yield
    except (DatasetError, TrainingError, CheckpointError, DeviceError) as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


for _make_recipe in RECIPES:
    _add_recipe(_make_recipe(), inspect.getdoc(_make_recipe) or "")

if __name__ == "__main__":
    app()
