"""The command line of training: `hyperdraw-train` or `python -m training`."""

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer

from models.device import choose_device
from models.precision import Precision
from models.predictions.perturbation import Norm
from models.processors import choose_threads
from models.sequences.checkpoint import is_sequence_checkpoint
from training.backbone_command import backbone_command
from training.certify_command import certify_command
from training.drift_command import drift_command
from training.endings import INTERRUPTED, conclude, explain_errors
from training.evaluation.attack_report import Budget
from training.images_command import images_command
from training.import_command import import_command
from training.near_foreign_command import near_foreign_command
from training.objectives.objectives import Measure
from training.options import (
    DATA_FOLDER,
    SEEDS,
    CheckpointArgument,
    DataOption,
    DeviceOption,
    JSONOption,
    MinutesOption,
    OutliersOption,
    OutOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    SeedsOption,
    TrainingDataOption,
    WithoutOption,
    check_length,
)
from training.progress import be_quiet, warn
from training.recipes.all import RECIPES
from training.recipes.mnist import mnist_hypergan_small
from training.recipes.recipe import Part, Recipe
from training.recipes.variation import vary
from training.runs.checkpoints import attack_directory, calibrate_directory, evaluate_directory
from training.runs.ranks import is_one_of_several, join_ranks
from training.runs.session import Session, train
from training.runs.state import TrainingError
from training.sequence_checks import (
    add_sequence_checks,
    calibrate_sequence_directory,
    evaluate_sequence_directory,
)
from training.sequence_command import add_sequence_commands
from training.studies.ablation import ablate
from training.studies.labelling import FILE as LABELLING_FILE
from training.studies.labelling import RARITY, describe_labelling, study_labelling
from training.table_command import divisions_command, table_command, vectors_command
from training.translate_command import translate_command, translate_text_command

DIVISIBLE = (*(recipe().name for recipe in RECIPES), "images", "table", "vectors")
"""Commands whose training several processes can share."""

app = typer.Typer(
    name="hyperdraw-train",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help=(
        "Train a sampler of neural networks and write it as a checkpoint that `hyperdraw-serve` loads.\n\n"
        "Try this first; it downloads nothing: `hyperdraw-train digits-hypergan --out checkpoints/digits`\n\n"
        "Ctrl-C stops a training after its current step and leaves a checkpoint that can be served. The same command "
        "with `--resume` continues it, with exactly the result of an uninterrupted training."
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hyperdraw-train {version('hyperdraw-server')}")
        raise typer.Exit


@app.callback()
def train_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Takes the flags that stand before a command."""
    choose_threads()
    if is_one_of_several() and context.invoked_subcommand not in DIVISIBLE:
        with explain_errors():
            raise TrainingError(
                f"{context.invoked_subcommand} runs in one process. Start it without torchrun, which can divide the "
                "training of a recipe for images or numbers, and that of images, table and vectors."
            )


def _add_recipe(recipe: Recipe, description: str) -> None:
    def command(
        out: OutOption,
        data: DataOption = DATA_FOLDER,
        device: DeviceOption = "auto",
        seed: SeedOption = None,
        steps: Annotated[
            int | None, typer.Option(min=1, help="Number of training steps.", show_default=f"{recipe.steps}")
        ] = None,
        minutes: MinutesOption = None,
        resume: ResumeOption = False,
        without: WithoutOption = None,
        extras: Annotated[list[Part] | None, typer.Option("--with", help="A part to add. Can be repeated.")] = None,
        accuracy_weight: Annotated[
            float | None,
            typer.Option(
                help="λ, the weight of accuracy relative to the diversity of the sampled weights.",
                show_default=f"{recipe.diversity.accuracy_weight:g}" if recipe.diversity else "no diversity",
            ),
        ] = None,
        diversity: Annotated[
            Measure | None,
            typer.Option(
                help="Measure of the diversity of the sampled weights.",
                show_default=recipe.diversity.measure if recipe.diversity else "none",
            ),
        ] = None,
        moment_matching: Annotated[
            float | None,
            typer.Option(
                help="Weight of matching the moments of mixed codes to those of their prior.",
                show_default=f"{recipe.moment_matching_weight:g}",
            ),
        ] = None,
        precision: Annotated[
            Precision, typer.Option(help="Precision of the networks of a step, if they take images.")
        ] = "float32",
        networks: Annotated[
            int | None,
            typer.Option(
                min=1,
                max=1000,
                help="Number of networks of a deep ensemble.",
                show_default=str(getattr(recipe.method, "networks", "no deep ensemble")),
            ),
        ] = None,
        quiet: QuietOption = False,
        as_json: JSONOption = False,
    ) -> None:
        check_length(steps, minutes, resume)
        try:
            varied = vary(
                recipe, without or (), accuracy_weight, diversity, moment_matching, extras or (), precision, networks
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        with explain_errors(), be_quiet(quiet):
            ranks, chosen = join_ranks(device)
            finished = train(Session(varied, out, data, chosen, seed, steps, minutes, resume, ranks))
        if not finished:
            warn(INTERRUPTED)
        conclude(f"Wrote {out}. Serve it: hyperdraw-serve --checkpoints {out}", out / "metrics.json", as_json)

    app.command(recipe.name, help=description, rich_help_panel="Recipes")(command)


app.command("images", rich_help_panel="Your own data")(images_command)
app.command("table", rich_help_panel="Your own data")(table_command)
app.command("vectors", rich_help_panel="Your own data")(vectors_command)
app.command("import", rich_help_panel="Your own data")(import_command)
app.command("backbone", rich_help_panel="Your own data")(backbone_command)
app.command("translate", rich_help_panel="Your own data")(translate_command)
app.command("translate-text", rich_help_panel="Your own data")(translate_text_command)


@app.command("calibrate", rich_help_panel="Checkpoints")
def calibrate_command(
    checkpoint: CheckpointArgument,
    data: TrainingDataOption = DATA_FOLDER,
    feedback: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FEEDBACK",
            help="Measure them on the labelled answers that services kept with --feedback, instead: the same file or "
            "URL. The checkpoint must be the version that answered.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Measure a checkpoint's thresholds again on the calibration split. Run `evaluate` afterwards."""
    file, sequences = checkpoint / "calibration.json", is_sequence_checkpoint(checkpoint)
    if sequences and feedback is not None:
        raise typer.BadParameter("models of sequences take no feedback")
    with explain_errors(), be_quiet(quiet):
        if feedback is not None:
            from training.runs.recalibration import recalibrate_directory  # takes long to import

            recalibrate_directory(checkpoint, feedback, choose_device(device))
        else:
            calibrate = calibrate_sequence_directory if sequences else calibrate_directory
            calibrate(checkpoint, data, choose_device(device))
    conclude(
        f"Wrote {file} and removed the old metrics. Measure them again: hyperdraw-train evaluate {checkpoint}",
        file,
        as_json,
    )


@app.command("evaluate", rich_help_panel="Checkpoints")
def evaluate_command(
    checkpoint: CheckpointArgument,
    data: TrainingDataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    outliers: OutliersOption = None,
    precision: Annotated[
        Precision, typer.Option(help="Tell also what this precision changes, in which a service may answer.")
    ] = "float32",
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Measure a checkpoint on its test set, and write its `metrics.json` and model card."""
    file = checkpoint / "metrics.json"
    with explain_errors(), be_quiet(quiet):
        if is_sequence_checkpoint(checkpoint):
            evaluate_sequence_directory(checkpoint, data, choose_device(device))
        else:
            evaluate_directory(checkpoint, data, choose_device(device), outliers or (), precision)
    conclude(f"Wrote {file} and {checkpoint / 'README.md'}.", file, as_json)


@app.command("attack", rich_help_panel="Checkpoints")
def attack_command(
    checkpoint: CheckpointArgument,
    data: TrainingDataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    surrogate: Annotated[
        Path | None, typer.Option(help="Directory of another model for the same images, whose attacks are transferred.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Number of test images to attack, from the first on.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each attack.")] = 500,
    restarts: Annotated[int, typer.Option(min=1, help="Restarts of each attack. The best one counts.")] = 5,
    linf: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            max=1,
            help="ε in the maximum norm, as a share of the pixels' range. Can be repeated.",
            show_default="0.1, 0.2, 0.3 for grey images; 2/255, 4/255, 8/255 for colour",
        ),
    ] = None,
    l2: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            help="ε in the Euclidean norm, in the same unit. Can be repeated.",
            show_default="1, 2, 3 for grey images; 0.25, 0.5, 1 for colour",
        ),
    ] = None,
    networks: Annotated[
        int | None,
        typer.Option(min=1, help="Size of the ensemble that answers.", show_default="the largest that is evaluated"),
    ] = None,
    most_networks: Annotated[
        int | None,
        typer.Option(min=1, help="Leave out attackers who draw more networks in a step.", show_default="none"),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Precision of the networks, of those that are attacked and of those that answer.")
    ] = "float32",
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Attack a classifier and its flags with adaptive attacks, and write to its model card how often they succeed.

    This takes hours on a CPU. Finished attacks are kept, so the same command continues after an interrupt.
    """
    epsilons: dict[Norm, tuple[float, ...]] = {"linf": tuple(linf or ()), "l2": tuple(l2 or ())}
    file = checkpoint / "attack.json"
    with explain_errors(), be_quiet(quiet):
        budget = Budget(images, steps, restarts, precision)
        attack_directory(checkpoint, data, choose_device(device), surrogate, budget, epsilons, networks, most_networks)
    conclude(f"Wrote {file}, and the table in {checkpoint / 'README.md'}.", file, as_json)


app.command("certify", rich_help_panel="Checkpoints")(certify_command)


@app.command("compare", rich_help_panel="Checkpoints")
def compare_command(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Directories of checkpoints: several methods, each with one or more seeds.")
    ],
    out: Annotated[Path, typer.Option(help="Directory for the table and the figure.")],
    data: TrainingDataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    outliers: OutliersOption = None,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Compare checkpoints of one dataset in one table. Differences are taken from the first checkpoint's method."""
    with explain_errors(), be_quiet(quiet):
        from training.studies.comparison import compare_directories  # takes long to import

        compare_directories(checkpoints, out, data, choose_device(device), outliers or ())
    conclude(f"Wrote {out / 'README.md'}.", out / "comparison.json", as_json)


@app.command("figures", rich_help_panel="Checkpoints")
def figures_command(
    checkpoint: CheckpointArgument,
    data: TrainingDataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    networks: Annotated[int, typer.Option(min=100, max=100_000, help="Number of networks to sample.")] = 1000,
    quiet: QuietOption = False,
) -> None:
    """Draw a checkpoint's figures, like those of the papers, into its `figures` folder, and add them to its card."""
    with explain_errors(), be_quiet(quiet):
        from training.studies.figures import draw_figures  # takes long to import

        draw_figures(checkpoint, data, choose_device(device), networks)
    typer.echo(f"Wrote {checkpoint / 'figures'}, and added the figures to {checkpoint / 'README.md'}.")


app.command("divisions", rich_help_panel="Experiments")(divisions_command)
app.command("drift", rich_help_panel="Experiments")(drift_command)
app.command("near-foreign", rich_help_panel="Experiments")(near_foreign_command)


@app.command("ablate", rich_help_panel="Experiments")
def ablate_command(
    out: Annotated[Path, typer.Option(help="Directory for the table, and for a checkpoint of each run.")],
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    seed: SeedsOption = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of steps of each run.", show_default="the recipe's")
    ] = None,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Train mnist-hypergan-small without some of its parts, with several seeds each, and make a table.

    Finished runs are kept, so the same command continues after an interrupt.
    """
    with explain_errors(), be_quiet(quiet):
        session = Session(mnist_hypergan_small(), out, data, choose_device(device), None, steps, None, False)
        finished = ablate(session, seed or SEEDS)
    if not finished:
        warn("the ablation was interrupted. Continue with the same command.")
    conclude(f"Wrote {out / 'README.md'}." if finished else "", out / "ablation.json", as_json)


@app.command("labelling", rich_help_panel="Experiments")
def labelling_command(
    out: Annotated[Path, typer.Option(help="Directory for the table, and for the outcomes of each seed.")],
    dataset: Annotated[
        str, typer.Option(help="Dataset of images: digits, which needs no download, or mnist.")
    ] = "digits",
    data: DataOption = DATA_FOLDER,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, max=2**63 - 1, help="Seed of the runs. Can be repeated.", show_default="0 to 4"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of steps of each training.", show_default="the recipe's")
    ] = None,
    rarity: Annotated[
        float,
        typer.Option(min=0, max=1, help="How often images of half of the classes come, compared with those of others."),
    ] = RARITY,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Compare labels that are asked for where networks disagree with labels of random images.

    Finished seeds are kept, so the same command continues after an interrupt.
    """
    torch.set_num_threads(1)  # more threads would wait for one another, as the images are small and few
    with explain_errors(), be_quiet(quiet):
        study = study_labelling(dataset, data, out, seed or range(5), steps, rarity)
    conclude(describe_labelling(study), out / LABELLING_FILE, as_json)


add_sequence_checks(app)
add_sequence_commands(app)
for _make_recipe in RECIPES:
    _add_recipe(_make_recipe(), inspect.getdoc(_make_recipe) or "")

if __name__ == "__main__":
    app()
