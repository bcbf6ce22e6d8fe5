"""The report on a model of a user's own table, beside what simpler models reach on the same rows.

Shapes: S sampled networks, B test rows, K classes or numbers.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.checkpoint import Checkpoint
from models.predictions.detection import conformal_quantile
from models.predictions.prediction import Prediction, interpret
from training.data.dataset import Dataset, Examples
from training.data.table import Table
from training.denormals import flush_denormals
from training.evaluation.evaluation import evaluate_split
from training.evaluation.measures import measure_accuracy, measure_nll
from training.evaluation.regression import measure_intervals, measure_regression_nll
from training.progress import track
from training.report.dependence import Dependence, describe_dependence, measure_dependence
from training.report.own_images import describe_folds

COVERAGE = 0.9
"""Nominal coverage of the intervals and sets that the report compares."""

LEAST_PROBABILITY = 1e-6
"""Probabilities of other models below this one count as this one, because one that is 0 makes the NLL infinite."""

PENALTIES = tuple(10.0**power for power in range(-4, 5))
"""Inverse weights of the linear models' L2 penalty, among which the best is chosen; for classes by validation rows."""

MOST_CHOOSING = 20_000
"""Most training rows by which the penalty of a logistic regression is chosen. All rows fit the chosen one."""

MOST_COMPARED = 100_000_000
"""Most numbers, times outputs, of more rows than these that other models are trained on: some minutes' work. Where
there are more, they are trained on the first rows, and the report says on how many."""

ITERATIONS, PARTS = 100, 4
"""Iterations of gradient boosting, and in how many parts they are made."""

IMPORTANCE_SEED = 0

LEAST_MIXED, MOST_MIXED = 100, 200_000
"""Fewest test rows by which importances are measured, and most rows times columns if there are more."""

MOST_DEPENDENCES, SHOWN_DEPENDENCES = 10, 3
"""Most columns whose partial dependence is measured, and is shown as text."""


@dataclass(frozen=True)
class Quality:
    """How good a model is on the test rows."""

    model: str
    accuracy: float | None
    """Share of rows whose class is answered correctly; None for numbers."""
    error: float | None
    """Root mean square error, in the target's unit; None for classes."""
    nll: float
    """In nats a row."""
    covered: float | None
    """Share of intervals at `COVERAGE` that hold the number, or of sets that hold the class, if there are any."""
    width: float | None
    """Mean width of these intervals, in the target's unit, or mean number of classes of these sets."""


@dataclass(frozen=True)
class Importance:
    """How much worse single networks become when a column's values change rows, on average over networks."""

    column: str
    mean: float
    """In nats for classes, otherwise as root mean square error in the target's unit."""
    std: float
    """Standard deviation over the networks."""


@dataclass(frozen=True)
class TableReport:
    """The report at the end of `hyperdraw-train table`, and the contents of `report.json`."""

    checkpoint: str
    version: str
    dataset: str
    target: str
    outputs: tuple[str, ...]
    """The classes, or the target."""
    rows: dict[str, int]
    """Numbers of rows by split."""
    folds: int | None
    """Number of folds of the training rows that calibrated the model, if no rows were held out for that."""
    unlabelled: int
    columns: dict[str, str]
    """Kinds of the columns that are used, by name."""
    left_out: dict[str, str]
    """Why other columns are not used, by name."""
    networks: int
    qualities: tuple[Quality, ...]
    """The ensemble's, then those of simpler models on the same rows."""
    importances: tuple[Importance, ...]
    """The most important column first. There are none for vectors."""
    importance_rows: int
    """Number of test rows by which they are measured."""
    dependences: tuple[Dependence, ...]
    """How answers depend on the most important columns, in the same order."""
    commands: tuple[str, ...]
    """Commands that serve the model and request a prediction."""


@flush_denormals()
def make_table_report(out: Path, table: Table, checkpoint: Checkpoint) -> TableReport:
    """Makes the report of a checkpoint that was just trained, calibrated and evaluated.

    Args:
        out: directory of the checkpoint.
        table: the table that it was trained on.
        checkpoint: the checkpoint in `out`.
    """
    dataset = table.dataset
    splits = ("train", "validation", "calibration", "test") if dataset.folds is None else ("train", "test")
    prediction = interpret(dataset.task, evaluate_split(checkpoint, dataset.test.inputs))
    name = shlex.quote(checkpoint.name)
    mixed = dataset.test[: max(LEAST_MIXED, MOST_MIXED // max(1, len(table.kinds)))]
    importances = _measure_importances(checkpoint, dataset, mixed) if table.kinds else []
    return TableReport(
        checkpoint=str(out),
        version=checkpoint.version,
        dataset=table.name,
        target=table.target,
        rows={split: len(getattr(dataset, split)) for split in splits},
        folds=dataset.folds,
        unlabelled=table.unlabelled,
        columns=table.kinds,
        left_out=dict(table.left_out),
        networks=prediction.size,
        qualities=(measure_ensemble(checkpoint, prediction, dataset.test), *measure_others(dataset)),
        importances=tuple(importances),
        importance_rows=len(mixed),
        outputs=dataset.task.outputs,
        dependences=tuple(_measure_dependences(checkpoint, table, [i.column for i in importances[:MOST_DEPENDENCES]])),
        commands=(
            f"hyperdraw-serve --checkpoints {shlex.quote(str(out))}",
            f"curl --json @rows.json 'localhost:8000/v1/models/{name}/predict?coverage=0.9'",
        ),
    )


def measure_ensemble(checkpoint: Checkpoint, prediction: Prediction, test: Examples) -> Quality:
    """Quality of a calibrated checkpoint by its prediction of the test rows."""
    calibration, labels = checkpoint.calibration, test.labels
    assert calibration is not None
    name = f"ensemble of {prediction.size} networks"
    covered = width = None
    calibrated = calibration.rates[0] <= 1 - COVERAGE
    if prediction.task.has_classes:
        logs = calibration.temper(prediction.log_probabilities, prediction.size)
        if calibrated:
            members = calibration.choose_sets(prediction, COVERAGE).members
            covered = members.gather(1, labels[:, None]).double().mean().item()
            width = members.sum(1).double().mean().item()
        return Quality(name, measure_accuracy(logs, labels), None, measure_nll(logs, labels), covered, width)
    nll = measure_regression_nll(prediction, labels)
    mean = prediction.score("mean")
    if calibrated:
        intervals = calibration.choose_intervals(prediction, COVERAGE)
        covered, width = measure_intervals(labels, intervals.lower, intervals.upper)
    return Quality(name, None, _measure_error(mean, labels), nll, covered, width)


def measure_others(dataset: Dataset) -> list[Quality]:
    """A linear model and gradient boosting, from scikit-learn, on the same features and training rows.

    Their names say how many rows they were trained on, if not on all. In folds, they are calibrated as the ensemble is,
    by models that were trained without a fold.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, RidgeCV

    (features,), outputs, fits = dataset.input.prepared_shape, len(dataset.task.outputs), 1 + (dataset.folds or 0)
    most = max(MOST_CHOOSING, MOST_COMPARED // (features * max(2, outputs) * fits))
    rows = f", {most:,} rows" if most < len(dataset.train) else ""
    if dataset.task.has_classes:
        candidates = [LogisticRegression(C=c, max_iter=1_000) for c in PENALTIES]
        tracked = track(candidates, "logistic regression", "fit")
        linear = min(tracked, key=lambda model: _measure_misfit(model, dataset))
        boosting = HistGradientBoostingClassifier(random_state=0)
        return [
            _measure_classifier(f"logistic regression{rows}", linear, dataset, most),
            _measure_classifier(f"gradient boosting{rows}", boosting, dataset, most),
        ]
    ridge = RidgeCV([1 / c for c in PENALTIES])
    boosting = HistGradientBoostingRegressor(random_state=0)
    return [
        _measure_regressor(f"ridge regression{rows}", ridge, dataset, most),
        _measure_regressor(f"gradient boosting{rows}", boosting, dataset, most),
    ]


def _fit(model: Any, dataset: Dataset, most: int) -> Any:
    """A model like this one, fitted to the first training rows."""
    from sklearn.base import clone
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    train, own = dataset.train[:most], clone(model)
    inputs, labels = _prepare(dataset, train), train.labels if dataset.task.has_classes else train.labels[:, 0]
    boosts = isinstance(own, HistGradientBoostingClassifier | HistGradientBoostingRegressor)
    return _boost(own, inputs, labels.numpy()) if boosts else own.fit(inputs, labels.numpy())


def _boost(model: Any, inputs: object, labels: object) -> Any:
    """Fits scikit-learn's gradient boosting in parts, each of which continues the last, so that progress is seen."""
    model.set_params(warm_start=True)
    for part in track(range(PARTS), "gradient boosting", "part"):
        iterations = (part + 1) * ITERATIONS // PARTS
        if model.set_params(max_iter=iterations).fit(inputs, labels).n_iter_ < iterations:
            break  # more do not help
    return model


def _prepare(dataset: Dataset, split: Examples) -> NDArray[np.float64]:
    return dataset.input.prepare(split.inputs).double().numpy()


def _measure_misfit(model: Any, dataset: Dataset) -> float:
    """NLL of a classifier on the validation rows, or on those of each fold, in nats a row."""
    found = [
        (_predict_logs(_fit(model, part, MOST_CHOOSING), part, part.validation), part.validation.labels)
        for part in dataset.list_parts()
    ]
    logs, labels = map(torch.cat, zip(*found, strict=True))
    return measure_nll(logs, labels)


def _predict_logs(model: Any, dataset: Dataset, split: Examples) -> Tensor:
    return torch.as_tensor(model.predict_proba(_prepare(dataset, split))).clamp(min=LEAST_PROBABILITY).log()


def _measure_classifier(name: str, model: Any, dataset: Dataset, most: int) -> Quality:
    """Quality of a model of class probabilities, trained on the first rows."""
    logs, labels = _predict_logs(_fit(model, dataset, most), dataset, dataset.test), dataset.test.labels
    return Quality(name, measure_accuracy(logs, labels), None, measure_nll(logs, labels), None, None)


def _measure_regressor(name: str, model: Any, dataset: Dataset, most: int) -> Quality:
    """Quality of a model of expectations alone, trained on the first rows: its noise is that of its errors on the
    validation rows."""
    errors: dict[str, list[Tensor]] = {"validation": [], "calibration": []}
    for part in dataset.list_parts():
        fitted = _fit(model, part, most)
        for split, own in errors.items():
            examples: Examples = getattr(part, split)
            own.append(torch.as_tensor(fitted.predict(_prepare(part, examples)))[:, None] - examples.labels)
    noise = torch.cat(errors["validation"]).square().mean().sqrt()
    reach = conformal_quantile(torch.cat(errors["calibration"]).abs()[:, 0], 1 - COVERAGE)
    if dataset.folds is not None:
        fitted = _fit(model, dataset, most)
    labels, means = dataset.test.labels, torch.as_tensor(fitted.predict(_prepare(dataset, dataset.test)))[:, None]
    nll = -torch.distributions.Normal(means, noise).log_prob(labels).mean().item()
    covered, width = measure_intervals(labels, means - reach, means + reach)
    return Quality(name, None, _measure_error(means, labels), nll, covered, width)


def _measure_error(means: Tensor, labels: Tensor) -> float:
    return (means - labels).square().mean().sqrt().item()


def _measure_importances(checkpoint: Checkpoint, dataset: Dataset, test: Examples) -> list[Importance]:
    """Permutation importance of each column for each network (Breiman 2001), by test rows."""
    generator = torch.Generator().manual_seed(IMPORTANCE_SEED)
    before = _measure_members(interpret(dataset.task, evaluate_split(checkpoint, test.inputs)), test.labels)
    importances = []
    for number, column in enumerate(track(dataset.input.column_names, "measuring importances", "column")):
        inputs = test.inputs.clone()
        inputs[:, number] = inputs[torch.randperm(len(inputs), generator=generator), number]
        mixed = interpret(dataset.task, evaluate_split(checkpoint, inputs))
        worse = _measure_members(mixed, test.labels) - before
        importances.append(Importance(column, worse.mean().item(), worse.std().item()))
    return sorted(importances, key=lambda importance: -importance.mean)


def _measure_dependences(checkpoint: Checkpoint, table: Table, names: Sequence[str]) -> Iterator[Dependence]:
    columns = {column.name: (column, number) for number, column in enumerate(table.spec.columns)} if names else {}
    for name in track(names, "measuring dependences", "column"):
        found = measure_dependence(checkpoint, *columns[name], table.dataset.test.inputs)
        if found is not None:
            yield found


def _measure_members(prediction: Prediction, labels: Tensor) -> Tensor:
    """How wrong each network is, [S]: its NLL, or its root mean square error."""
    members = prediction.members.double()
    if prediction.task.has_classes:
        return -prediction.outputs.plain.double().log_softmax(-1)[:, torch.arange(len(labels)), labels].mean(1)
    return (members - labels).square().mean((1, 2)).sqrt()


def describe_table(table: Table) -> str:
    """The columns that are used and those that are not, as text."""
    dataset = table.dataset
    width = max(map(len, (*(kinds := table.kinds), *table.left_out)), default=0)
    kind = "a class" if dataset.task.has_classes else "a number"
    what = f"{len(kinds)} columns:" if kinds else f"vectors of {dataset.input.shape[0]:,} numbers."
    lines = [f"{table.target} is predicted as {kind} from {what}"]
    lines += [f"  {name:{width}}  {own}" for name, own in kinds.items()]
    lines += [f"  {name:{width}}  left out: {reason}" for name, reason in table.left_out.items()]
    held_out = f" {len(dataset.validation):,} to validate, {len(dataset.calibration):,} to calibrate,"
    lines.append(
        f"Rows: {len(dataset.train):,} to train,{'' if dataset.folds else held_out} {len(dataset.test):,} to test"
        + (f"; {table.unlabelled:,} without {table.target} left out." if table.unlabelled else ".")
    )
    return "\n".join([*lines, *describe_folds(dataset.folds, len(dataset.train), "rows")])


def describe_table_report(report: TableReport) -> str:
    """A report as plain text."""
    classes = report.qualities[0].accuracy is not None
    width = max(len(quality.model) for quality in report.qualities)
    heads = ("accuracy", "NLL") if classes else ("error", "NLL", "in interval", "width")
    lines = [
        *describe_folds(report.folds, report.rows["train"], "rows"),
        f"On {report.rows['test']:,} test rows" + ("" if classes else f", with intervals for {COVERAGE:.0%}") + ":",
        f"  {'':{width}}" + "".join(f"{head:>13}" for head in heads),
    ]
    for q in report.qualities:
        cells = (q.accuracy, q.nll) if classes else (q.error, q.nll, q.covered, q.width)
        lines.append(f"  {q.model:{width}}" + "".join(f"{'–' if c is None else f'{c:.4g}':>13}" for c in cells))
    unit = "nats" if classes else "error"
    if report.importances:
        on = "" if report.importance_rows == report.rows["test"] else f", by {report.importance_rows:,} of them"
        lines.append(f"Columns by importance{on} ({unit} added when their values change rows; ± over the networks):")
    names = max((len(importance.column) for importance in report.importances), default=0)
    lines += [f"  {i.column:{names}}  {i.mean:.4g} ± {i.std:.2g}" for i in report.importances]
    if shown := report.dependences[:SHOWN_DEPENDENCES]:
        lines.append("Mean answer if all test rows had this value (± over the networks):")
        lines += [f"  {describe_dependence(dependence, report.outputs)}" for dependence in shown]
    lines += ["", "Serve the model, and request a prediction:", *(f"  {command}" for command in report.commands)]
    return "\n".join(lines)
