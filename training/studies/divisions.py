"""A table in many random divisions: the customary comparison on small tables (Hernández-Lobato & Adams, ICML 2015).

Each division trains anew: our sampler, a deep ensemble of five perceptrons of the same target (Lakshminarayanan et al.,
NIPS 2017), a linear model and gradient boosting, all on the same rows.
"""

import math
import statistics
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from models.checkpoint import dump_json, load_checkpoint, write_file
from models.predictions.prediction import interpret
from models.samplers.deep_ensemble import DeepEnsembleConfig
from training.data.dataset import Dataset
from training.data.table import TaskName, load_table
from training.evaluation.evaluation import evaluate_split
from training.progress import announce
from training.recipes.own_table import own_table
from training.recipes.recipe import Recipe
from training.report.own_table import COVERAGE, Quality, measure_ensemble, measure_others
from training.runs.session import Session, train

MEMBERS = 5
"""Networks of the deep ensemble."""

FILE = "divisions.json"


@dataclass(frozen=True)
class Divisions:
    """The contents of `divisions.json`."""

    table: str
    target: str
    qualities: tuple[tuple[Quality, ...], ...]
    """Of each division, the quality of each model."""


def study_divisions(path: Path, target: str, task: TaskName | None, out: Path, divisions: int) -> Divisions:
    """Trains on each division of a table, and writes a table of means and their standard errors.

    Finished divisions are kept, so the same call continues after an interrupt.

    Raises:
        DatasetError: if the table cannot be used.
        TrainingError: if a training fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    found: list[tuple[Quality, ...]] = []
    for division in range(divisions):
        file = out / f"division-{division}.json"
        if not file.exists():
            write_file(file, dump_json(Divisions(path.name, target, (_study_division(path, target, task, division),))))
        found += _read(file).qualities
        announce(f"division {division + 1} of {divisions} is done")
    study = Divisions(path.name, target, tuple(found))
    write_file(out / FILE, dump_json(study))
    write_file(out / "README.md", describe_divisions(study).encode())
    return study


def _study_division(path: Path, target: str, task: TaskName | None, division: int) -> tuple[Quality, ...]:
    table = load_table(path, target, task, division=division)
    recipe = own_table(table)
    ensemble = replace(
        recipe,
        method=DeepEnsembleConfig(MEMBERS),
        learning_rates={"all": recipe.learning_rates["modes"]},
        weight_decays={"all": recipe.weight_decays["modes"]},
        networks_per_step=MEMBERS,
    )
    ours = _train_and_measure("hyperdraw", recipe, path, table.dataset)
    theirs = _train_and_measure(f"deep ensemble of {MEMBERS}", ensemble, path, table.dataset)
    return ours, theirs, *measure_others(table.dataset)


def _train_and_measure(name: str, recipe: Recipe, path: Path, dataset: Dataset) -> Quality:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        train(Session(recipe, out, path, torch.device("cpu"), None, None, None, resume=False), dataset)
        checkpoint = load_checkpoint(out)
        prediction = interpret(dataset.task, evaluate_split(checkpoint, dataset.test.inputs))
        return replace(measure_ensemble(checkpoint, prediction, dataset.test), model=name)


def describe_divisions(study: Divisions) -> str:
    """A table of the means over the divisions, with their standard errors, in Markdown."""
    columns = {
        "accuracy": "accuracy",
        "error": "root mean square error",
        "nll": "NLL",
        "covered": f"in the {COVERAGE:.0%} interval",
        "width": "its width",
    }
    first = study.qualities[0]
    shown = {name: head for name, head in columns.items() if getattr(first[0], name) is not None}
    rows = [
        f"| {first[number].model} | "
        + " | ".join(_summarize([getattr(own[number], name) for own in study.qualities]) for name in shown)
        + " |"
        for number in range(len(first))
    ]
    return "\n".join(
        [
            f"# {study.table}: {study.target}",
            "",
            f"Means over {len(study.qualities)} random divisions of the rows, ± their standard error, on test rows.",
            "",
            f"| | {' | '.join(shown.values())} |",
            f"| --- |{' --- |' * len(shown)}",
            *rows,
            "",
        ]
    )


def _summarize(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.4g} ± {error:.2g}"


def _read(file: Path) -> Divisions:
    return TypeAdapter(Divisions).validate_json(file.read_bytes())
