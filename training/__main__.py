"""The command line of training: `hyperdraw-train`, also `python -m training`."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from models.checkpoint import CheckpointError
from models.device import DeviceError, choose_device
from models.perturbation import Norm
from training.ablation import ablate
from training.attack import EPSILONS, Budget
from training.comparison import compare_directories
from training.datasets import DatasetError, default_data_folder
from training.evaluation import NETWORKS
from training.objectives import Measure
from training.recipes import RECIPES, Part, Recipe, mnist_hypergan_small, vary
from training.run import TrainingError
from training.session import Session, attack_directory, calibrate_checkpoint, draw_figures, evaluate_directory, train

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

DATA_FOLDER = default_data_folder()
DataOption = Annotated[
    Path, typer.Option(help="Folder that holds the datasets' files; what is missing is downloaded into it.")
]
CheckpointArgument = Annotated[Path, typer.Argument(help="Directory of the checkpoint.")]
OutliersOption = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of images that the models were not trained on, besides the usual; may be repeated."),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda where there is one, else cpu.")]


def _add_recipe(recipe: Recipe, description: str) -> None:
    def command(
        out: Annotated[Path, typer.Option(help="Directory of the checkpoint, made if missing.")],
        data: DataOption = DATA_FOLDER,
        device: DeviceOption = "auto",
        seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, show_default="0")] = None,
        steps: Annotated[int | None, typer.Option(min=1, help="Length.", show_default=f"{recipe.steps}")] = None,
        minutes: Annotated[
            float | None, typer.Option(min=0.01, help="Length in minutes: steps from this machine's measured speed.")
        ] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Go on with the training that --out holds.")] = False,
        without: Annotated[
            list[Part] | None, typer.Option(help="A part to leave out, to see what it does; may be repeated.")
        ] = None,
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
    ) -> None:
        if steps is not None and minutes is not None:
            raise typer.BadParameter("give --steps or --minutes, not both")
        if resume and minutes is not None:
            raise typer.BadParameter("a resumed training keeps the steps it was planned with; leave --minutes out")
        try:
            varied = vary(recipe, without or (), accuracy_weight, diversity, moment_matching, extras or ())
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        with _explain_errors():
            finished = train(Session(varied, out, data, choose_device(device), seed, steps, minutes, resume))
        typer.echo(f"Wrote {out}. Serve it: hyperdraw-serve --checkpoints {out}")
        if not finished:
            typer.echo("Interrupted: not evaluated on the test set. Go on with --resume.")

    app.command(recipe.name, help=description, rich_help_panel="Recipes")(command)


@app.command("calibrate", rich_help_panel="Checkpoints")
def calibrate_command(
    checkpoint: CheckpointArgument,
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
) -> None:
    """Measure a checkpoint's thresholds again, on the calibration split; `evaluate` then writes its figures."""
    with _explain_errors():
        calibrate_checkpoint(checkpoint, data, choose_device(device))
    typer.echo(f"Wrote {checkpoint / 'calibration.json'}. Its figures are gone: hyperdraw-train evaluate {checkpoint}")


@app.command("evaluate", rich_help_panel="Checkpoints")
def evaluate_command(
    checkpoint: CheckpointArgument,
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    outliers: OutliersOption = None,
) -> None:
    """Measure a checkpoint on its test set, and write its `metrics.json` and model card."""
    with _explain_errors():
        evaluate_directory(checkpoint, data, choose_device(device), outliers or ())
    typer.echo(f"Wrote {checkpoint / 'metrics.json'} and {checkpoint / 'README.md'}.")


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
        typer.Option(min=0, max=1, help="ε, of the pixels' range; may be repeated.", show_default="0.1 0.2 0.3"),
    ] = None,
    l2: Annotated[list[float] | None, typer.Option(min=0, help="ε likewise.", show_default="1 2 3")] = None,
    networks: Annotated[
        int, typer.Option(min=1, help="Of the ensemble that answers; at most all there are.")
    ] = NETWORKS,
) -> None:
    """Attack a classifier and its flags, adaptively, and write how often that succeeds to its model card.

    This takes hours on a CPU. What is finished is kept: the same command goes on after an interrupt.
    """
    epsilons: dict[Norm, tuple[float, ...]] = dict(EPSILONS)
    if linf or l2:
        epsilons = {"linf": tuple(linf or ()), "l2": tuple(l2 or ())}
    with _explain_errors():
        budget = Budget(images, steps, restarts)
        attack_directory(checkpoint, data, choose_device(device), surrogate, budget, epsilons, typer.echo, networks)
    typer.echo(f"Wrote {checkpoint / 'attack.json'}; {checkpoint / 'README.md'} has the table.")


@app.command("compare", rich_help_panel="Checkpoints")
def compare_command(
    checkpoints: Annotated[list[Path], typer.Argument(help="Directories, of several methods, each with some seeds.")],
    out: Annotated[Path, typer.Option(help="Directory of the table and the figure.")],
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    outliers: OutliersOption = None,
) -> None:
    """Compare checkpoints of one dataset on equal terms, in one table; the first one's method is the yardstick."""
    with _explain_errors():
        compare_directories(checkpoints, out, data, choose_device(device), outliers or (), typer.echo)
    typer.echo(f"Wrote {out / 'README.md'}.")


@app.command("figures", rich_help_panel="Checkpoints")
def figures_command(
    checkpoint: CheckpointArgument,
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    networks: Annotated[int, typer.Option(min=100, max=100_000, help="How many are sampled.")] = 1000,
) -> None:
    """Draw a checkpoint's figures, the papers' own, into its `figures` folder, and show them in its model card."""
    with _explain_errors():
        draw_figures(checkpoint, data, choose_device(device), networks, typer.echo)
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
) -> None:
    """Train mnist-hypergan-small without some of its parts, with several seeds each, and make a table of them.

    What is finished is kept: the same command goes on after an interrupt.
    """
    with _explain_errors():
        session = Session(mnist_hypergan_small(), out, data, choose_device(device), None, steps, None, False)
        finished = ablate(session, seed or (0, 1, 2))
    typer.echo(f"Wrote {out / 'README.md'}." if finished else "Interrupted. Go on with the same command.")


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
