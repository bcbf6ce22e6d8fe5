"""A table in many random divisions: the customary comparison on small tables (Hernández-Lobato & Adams, ICML 2015).

Each division trains anew: our sampler, a deep ensemble of five perceptrons of the same target (Lakshminarayanan et al.,
NIPS 2017), a linear model and gradient boosting, all on the same rows.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.checkpoint import Checkpoint, load_checkpoint
from models.checkpoint_files import dump_json, write_file
from models.inputs.columns import NumberColumn
from models.predictions.prediction import interpret
from models.samplers.deep_ensemble import DeepEnsembleConfig
from training.data.table import Table, TaskName, load_table
from training.evaluation.evaluation import evaluate_split
from training.progress import announce
from training.recipes.own_table import MODES, own_table
from training.recipes.recipe import Recipe
from training.report.own_table import COVERAGE, Quality, measure_ensemble, measure_others
from training.runs.session import Session, train
from training.runs.state import TrainingError

MEMBERS = 5
"""Networks of the deep ensemble."""

BUDGET = 0.05
"""Budget of false alarms at which flags are compared."""

FLAGGED = {"usual": "usual rows", "zeros": "all numbers 0", "tenfold": "all numbers × 10"}
"""Heads of the table of `Flagged`, by its fields."""

FILE = "divisions.json"


@dataclass(frozen=True)
class Flagged:
    """Shares of test rows that are flagged as out of distribution at `BUDGET`."""

    model: str
    usual: float
    """Of the rows as they are."""
    zeros: float
    """If all their numbers are 0. Categories and dates stay."""
    tenfold: float
    """If all their numbers are ten times as large."""


@dataclass(frozen=True)
class Divisions:
    """The contents of `divisions.json`."""

    table: str
    target: str
    qualities: tuple[tuple[Quality, ...], ...]
    """Of each division, the quality of each model."""
    flags: tuple[tuple[Flagged, ...], ...]
    """Of each division, what each sampler flags."""
    folds: int | None = None
    """Number of folds that calibrated the models, if nothing was held out for that."""


def study_divisions(
    path: Path, target: str, task: TaskName | None, out: Path, divisions: int, folds: int | None = None
) -> Divisions:
    """Trains on each division of a table, and writes a table of means and their standard errors.

    Finished divisions are kept, so the same call continues after an interrupt. If there are folds, all models are
    calibrated in them, and trained on all rows but the test rows.

    Raises:
        DatasetError: if the table cannot be used.
        TrainingError: if a training fails or is interrupted.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts: list[Divisions] = []
    for division in range(divisions):
        file = out / (f"division-{division}.json" if folds is None else f"division-{division}-in-{folds}-folds.json")
        if not file.exists():
            write_file(file, dump_json(_study_division(path, target, task, division, folds)))
        parts.append(TypeAdapter(Divisions).validate_json(file.read_bytes()))
        announce(f"division {division + 1} of {divisions} is done")
    qualities, flags = (tuple(own for part in parts for own in getattr(part, name)) for name in ("qualities", "flags"))
    study = Divisions(path.name, target, qualities, flags, folds)
    write_file(out / FILE, dump_json(study))
    write_file(out / "README.md", describe_divisions(study).encode())
    return study


def _study_division(path: Path, target: str, task: TaskName | None, division: int, folds: int | None) -> Divisions:
    table = load_table(path, target, task, division=division)
    table = replace(table, dataset=table.dataset.in_folds(folds))
    recipe = own_table(table)
    ensemble = replace(
        recipe,
        method=DeepEnsembleConfig(MEMBERS),
        learning_rates={"all": recipe.learning_rates["modes"]},
        weight_decays={"all": recipe.weight_decays["modes"] * MODES / MEMBERS},
        networks_per_step=MEMBERS,
    )
    models = {"hyperdraw": recipe, f"deep ensemble of {MEMBERS}": ensemble}
    found = [_train_and_measure(name, own, path, table) for name, own in models.items()]
    qualities, flags = zip(*found, strict=True)
    return Divisions(path.name, target, ((*qualities, *measure_others(table.dataset)),), (flags,), folds)


def _train_and_measure(name: str, recipe: Recipe, path: Path, table: Table) -> tuple[Quality, Flagged]:
    dataset = table.dataset
    inputs = dataset.test.inputs
    with TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        if not train(Session(recipe, out, path, torch.device("cpu"), None, None, None, resume=False), dataset):
            raise TrainingError("the training was interrupted. The same command continues with this division")
        checkpoint = load_checkpoint(out)
        prediction = interpret(dataset.task, evaluate_split(checkpoint, inputs))
        quality = replace(measure_ensemble(checkpoint, prediction, dataset.test), model=name)
        numbers = torch.tensor([isinstance(column, NumberColumn) for column in table.spec.columns])
        zeros, tenfold = (torch.where(numbers, factor * inputs, inputs) for factor in (0, 10))
        return quality, Flagged(name, *(_measure_flagged(checkpoint, rows) for rows in (inputs, zeros, tenfold)))


def _measure_flagged(checkpoint: Checkpoint, inputs: Tensor) -> float:
    """Share of rows that are flagged as out of distribution."""
    assert checkpoint.calibration is not None
    prediction = interpret(checkpoint.config.task, evaluate_split(checkpoint, inputs))
    return checkpoint.calibration.judge(prediction, BUDGET)["out_of_distribution"].flagged.double().mean().item()


def describe_divisions(study: Divisions) -> str:
    """A table of the means over the divisions, with their standard errors, in Markdown."""
    columns = {
        "accuracy": "accuracy",
        "error": "root mean square error",
        "nll": "NLL",
        "covered": f"in the {COVERAGE:.0%} interval",
        "width": "its width",
    }
    if study.qualities[0][0].accuracy is not None:
        columns |= {"covered": f"in the {COVERAGE:.0%} set", "width": "its classes"}
    shown = {name: head for name, head in columns.items() if getattr(study.qualities[0][0], name) is not None}
    rows = "rows" if study.folds is None else f"rows, calibrated in {study.folds} folds"
    return "\n".join(
        [
            f"# {study.table}: {study.target}",
            "",
            f"Means over {len(study.qualities)} random divisions of the {rows}, ± their standard error, on test rows.",
            "",
            *_tabulate(study.qualities, shown),
            "",
            f"Shares of rows that are flagged as out of distribution, at a false-alarm budget of {BUDGET:.0%}:",
            "",
            *_tabulate(study.flags, FLAGGED),
            "",
        ]
    )


def _tabulate(parts: Sequence[Sequence[Quality | Flagged]], columns: Mapping[str, str]) -> list[str]:
    """Lines of a table of each model's means over the divisions, from the values with these names."""
    lines = [f"| | {' | '.join(columns.values())} |", f"| --- |{' --- |' * len(columns)}"]
    for models in zip(*parts, strict=True):
        known = [[getattr(own, name) for own in models] for name in columns]
        cells = ["–" if None in values else _summarize(values) for values in known]
        lines.append(f"| {models[0].model} | {' | '.join(cells)} |")
    return lines


def _summarize(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.4g} ± {error:.2g}"
