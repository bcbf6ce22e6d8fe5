"""A user's own table: which column is what, and the rows as examples in splits.

Shapes: N rows, C columns.
"""

import hashlib
import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

import numpy as np
import polars as pl
import torch
from torch import Tensor

from models.inputs.columns import CategoryColumn, Column, DateColumn, NumberColumn
from models.inputs.spec import InputSpec
from models.inputs.table import TableSpec
from models.tasks.classification import Classification
from models.tasks.regression import Regression
from models.tasks.task import Task
from training.data.dataset import Dataset, DatasetError, Examples
from training.data.image_folders import SHARES, Split, divide
from training.data.image_tree import show
from training.data.table_file import TextTable, read_table_file
from training.progress import track

TaskName = Literal["classification", "regression"]

MOST_CATEGORIES, LEAST_ROWS = 50, 5
"""Most categories of a column, and fewest training rows of one. All others count as one more category."""

IDENTIFYING = 0.5
"""A column of text with more different values than this share of its rows identifies rows, and is left out."""

FEW_NUMBERS = 10
"""Most different whole numbers that a target may have to be taken for classes."""

MIXED = 0.5
"""Share of numbers in a column from which on its other values are taken for mistakes."""

LEAST_DEVIATION, MOST_DEVIATION, FINEST = 1e-15, 1e15, 1e-6
"""Least and largest standard deviation of a target, and the least in units of its mean: float32 holds no others."""

MOST_HELD_OUT = 10_000
"""Most rows of a split that does not train. More would take long and tell little."""

EQUAL = "it has the same value everywhere"
"""Why a column is left out."""

LISTED = 5


@dataclass(frozen=True)
class Table:
    """A table, or vectors with labels, read and divided into splits."""

    name: str
    """Name of the file, the target and a digest of rows and splits."""
    target: str
    dataset: Dataset
    left_out: Mapping[str, str]
    """Why columns were left out, by name."""
    unlabelled: int
    """Number of rows that were left out because they lack the target."""

    @property
    def kinds(self) -> dict[str, str]:
        """Kinds of the columns, by name. Numbers of a vector are none."""
        spec = self.dataset.input
        return {column.name: column.kind for column in spec.columns} if isinstance(spec, TableSpec) else {}

    @property
    def spec(self) -> TableSpec:
        """The kinds of columns."""
        assert isinstance(self.dataset.input, TableSpec)
        return self.dataset.input


def load_table(
    path: Path,
    target: str,
    task: TaskName | None = None,
    ignored: Collection[str] = (),
    categories: Collection[str] = (),
    division: int = 0,
) -> Table:
    """Reads a table and divides its rows among the splits, each class by itself.

    A column is numbers, dates or categories by what its values are. Means, deviations and categories are those of the
    training split.

    Args:
        path: a CSV, TSV or Parquet file with the columns' names.
        target: name of the column to predict.
        task: the kind of target; if not given, text and few different whole numbers are classes.
        ignored: columns to leave out.
        categories: columns whose numbers are codes of categories.
        division: number of the random division into splits. Models that are served have the first one, 0.

    Raises:
        DatasetError: if the file cannot be used. The message names the column.
    """
    labelled, unlabelled = _read_labelled(path, target, (*ignored, *categories))
    answers, labels = _read_target(labelled, target, task)
    splits = split_rows(path, target, labels, answers, division)
    columns: list[Column] = []
    left_out = dict.fromkeys(ignored, "as asked")
    for name in track(labelled.frame.columns, "looking at columns", "column"):
        if name == target or name in ignored:
            continue
        column = _describe_column(labelled, name, splits["train"], name in categories)
        if isinstance(column, str):
            left_out[name] = column
        else:
            columns.append(column)
    if not columns:
        listed = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise DatasetError(f"{show(path)} has no column to predict {target!r} from ({listed})")
    name, dataset = _encode_table(path, target, labelled, TableSpec(tuple(columns)), answers, labels, splits)
    return Table(name, target, dataset, left_out, unlabelled)


def load_table_again(name: str, path: Path, spec: InputSpec, task: Task) -> Dataset:
    """Loads the dataset that a checkpoint was trained on from its file.

    Args:
        name: name of the dataset, with its target and digest.
        path: where the file is now.
        spec: the checkpoint's input.
        task: the checkpoint's task.

    Raises:
        DatasetError: if it is another file, or if its rows have changed.
    """
    assert isinstance(spec, TableSpec)
    original, target = name.rsplit("@", 1)[0].rsplit(":", 1)
    target = unquote(target)
    hint = f"The model was trained on the file {original}; pass it with --data"
    if not path.is_file():
        raise DatasetError(f"{show(path)} is not a file. {hint}")
    labelled, _ = _read_labelled(path, target, spec.column_names, hint)
    kind: TaskName = "classification" if task.has_classes else "regression"
    answers, labels = _read_target(labelled, target, kind)
    splits = split_rows(path, target, labels, answers)
    found, dataset = _encode_table(path, target, labelled, spec, answers, labels, splits)
    if found.rsplit("@", 1)[1] != name.rsplit("@", 1)[1]:
        raise DatasetError(explain_change(path, original, "rows"))
    return dataset


def explain_change(path: Path, original: str, what: str) -> str:
    """Says that a file does not hold the rows or vectors that a model was trained on."""
    return (
        f"{show(path)} is not the file {original} that the model was trained on, or its {what} have changed. The model "
        f"may have been trained on some of its test {what}"
    )


def _encode_table(
    path: Path,
    target: str,
    table: TextTable,
    spec: TableSpec,
    classes: tuple[str, ...] | None,
    labels: Tensor,
    splits: Mapping[Split, Tensor],
) -> tuple[str, Dataset]:
    inputs = torch.stack([_encode(table, column) for column in spec.columns], 1)
    return make_dataset((show(Path(path.name)), quote(target)), target, spec, inputs, labels, classes, splits)


def _read_labelled(path: Path, target: str, others: Collection[str], hint: str | None = None) -> tuple[TextTable, int]:
    """The rows that have the target, and the number of those without it. By default the hint lists the columns."""
    table = read_table_file(path)
    hint = hint or f"Its columns are {', '.join(table.frame.columns)}"
    for name in (target, *others):
        if name not in table.frame.columns:
            raise DatasetError(f"{show(path)} has no column {name!r}. {hint}")
    labelled = table.frame.filter(pl.col(target).is_not_null())
    return TextTable(labelled, table.decimal_comma), len(table.frame) - len(labelled)


def make_dataset(
    names: tuple[str, ...],
    target: str,
    spec: InputSpec,
    inputs: Tensor,
    labels: Tensor,
    classes: tuple[str, ...] | None,
    splits: Mapping[Split, Tensor],
) -> tuple[str, Dataset]:
    """The dataset of labelled rows, and its name with a digest.

    Args:
        names: the name of the file, as it is shown, and what of it is used.
        target: what is predicted.
        spec: the kind of rows.
        inputs: rows [N, columns].
        labels: classes by number, int64 [N], or numbers, float64 [N].
        classes: names of the classes, or None for numbers.
        splits: indices of the rows of each split.
    """
    digest = hashlib.sha256()
    for tensor in (inputs, labels, *splits.values()):
        digest.update(tensor.numpy().tobytes())
    task: Task
    if classes is None:
        own = labels[splits["train"]]
        task = Regression((target,), (float(own.mean()),), (float(own.std()) or 1.0,), None)
        labels = labels[:, None].float()
    else:
        task = Classification(classes)
    examples = {split: Examples(inputs[rows], labels[rows]) for split, rows in splits.items()}
    name = f"{':'.join(names)}@{digest.hexdigest()[:12]}"
    return name, Dataset(spec, task, *(examples[split] for split in SHARES))


def _read_target(table: TextTable, target: str, task: TaskName | None) -> tuple[tuple[str, ...] | None, Tensor]:
    """Classes, or None for numbers, and labels: int64 [N], or float64 [N].

    Raises:
        DatasetError: if the target cannot be predicted. The message names it.
    """
    column = table.frame[target]
    numbers = _cast_numbers(table, target)
    numeric = numbers.null_count() == 0
    if task is None:
        whole = numeric and bool((numbers == numbers.round()).all())
        task = "regression" if numeric and not (whole and column.n_unique() <= FEW_NUMBERS) else "classification"
    if column.n_unique() < 2:
        raise DatasetError(
            f"the target {target!r} has {column.n_unique()} different value(s), but at least 2 are needed"
        )
    if task == "regression":
        if not numeric:
            raise DatasetError(_explain_mixture(table, target, numbers) + ", so it cannot be predicted as a number")
        labels = torch.from_numpy(numbers.to_numpy().copy())
        _check_target(target, labels)
        return None, labels
    names = sorted(column.unique().to_list(), key=lambda text: (0, float(text), text) if numeric else (1, 0.0, text))
    if len(names) > MOST_CATEGORIES:
        if numeric:
            hint = "Use --task regression"
        elif numbers.null_count() < len(numbers):
            hint = f"They are not all numbers: {_explain_mixture(table, target, numbers)}"
        else:
            hint = f"They are not numbers, such as {names[0][:100]!r}. Mend the file, or choose another target"
        raise DatasetError(f"the target {target!r} has {len(names)} different values, too many for classes. {hint}")
    index = column.replace_strict(names, list(range(len(names))), return_dtype=pl.Int64)
    return tuple(names), torch.from_numpy(index.to_numpy().copy())


def split_rows(
    path: Path, target: str, labels: Tensor, classes: tuple[str, ...] | None, division: int = 0
) -> dict[Split, Tensor]:
    """Indices of the rows of each split, which are the same in every run, whatever its seed.

    Raises:
        DatasetError: if a class has too few rows, or all rows together, if there are no classes.
    """
    generator = torch.Generator().manual_seed(division)
    groups = [labels.isnan().logical_not()] if classes is None else [labels == k for k in range(len(classes))]
    chosen: dict[Split, list[Tensor]] = {split: [] for split in SHARES}
    for number, group in enumerate(groups):
        rows = group.nonzero()[:, 0]
        sizes = divide(len(rows), len(groups), tuple(SHARES))
        if sizes is None:
            needed = next(n for n in itertools.count(1) if divide(n, len(groups), tuple(SHARES)))
            what = f"{show(path)}" if classes is None else f"{target} = {classes[number]}"
            raise DatasetError(f"{what} has {len(rows)} rows, but at least {needed} are needed")
        for split in SHARES:
            if split != "train":
                most = max(1, MOST_HELD_OUT * len(rows) // len(labels))
                sizes["train"] += max(0, sizes[split] - most)
                sizes[split] = min(sizes[split], most)
        order = rows[torch.randperm(len(rows), generator=generator)]
        for split, part in zip(sizes, order.split(list(sizes.values())), strict=True):
            chosen[split].append(part)
    whole = {split: torch.cat(parts) for split, parts in chosen.items()}
    # Parts of a split are judged by different draws, so the classes are mixed.
    return {split: rows[torch.randperm(len(rows), generator=generator)] for split, rows in whole.items()}


def _describe_column(table: TextTable, name: str, train: Tensor, coded: bool) -> Column | str:
    """What a column is, by its training rows, or why it is left out.

    Raises:
        DatasetError: if it mixes numbers with other text.
    """
    if not name:
        return "it has no name"
    column = table.frame[name]
    own = column.gather(train.tolist()).drop_nulls()
    missing = column.null_count() > 0
    if own.n_unique() < 2:
        return EQUAL if len(own) else "it has no values"
    if not coded:
        numbers = _cast_numbers(table, name)
        numeric = int((numbers.is_not_null()).sum()) / (len(column) - column.null_count())
        if numeric == 1:
            summary = _summarize(name, numbers, train)
            return NumberColumn(name, missing, *summary) if summary else EQUAL
        if numeric >= MIXED:
            raise DatasetError(
                f"{_explain_mixture(table, name, numbers)}. Mend the file, or name the column with --categories or "
                "--ignore"
            )
        dates = _cast_dates(column)
        if dates.null_count() == column.null_count():
            summary = _summarize(name, dates, train)
            return DateColumn(name, missing, *summary, bool((dates % 1 != 0).any())) if summary else EQUAL
    counts = own.value_counts(sort=True)
    if len(counts) > IDENTIFYING * len(own) and len(counts) > LEAST_ROWS:
        return f"it has {len(counts)} different texts in {len(own)} rows"
    frequent = [value for value, count in counts.iter_rows() if count >= LEAST_ROWS][:MOST_CATEGORIES]
    kept = sorted(frequent)
    if not kept:
        return "none of its values is frequent"
    others = column.drop_nulls().is_in(kept).not_().any()
    return CategoryColumn(name, missing, tuple(kept), bool(others))


def _encode(table: TextTable, column: Column) -> Tensor:
    """The numbers that stand for a column's values, float64 [N], as the service reads them."""
    text = table.frame[column.name]
    match column:
        case NumberColumn():
            numbers = _cast_numbers(table, column.name)
        case DateColumn():
            numbers = _cast_dates(text)
        case CategoryColumn(categories=categories, others=others):
            other = len(categories) if others else None
            index = {value: float(number) for number, value in enumerate(categories)}
            numbers = text.replace_strict(index, default=other, return_dtype=pl.Float64)
            numbers = pl.select(pl.when(text.is_null()).then(None).otherwise(numbers)).to_series()
    unknown = numbers.is_null() & text.is_not_null()
    absent = text.is_null() if not column.missing else unknown
    if bad := next(iter((unknown | absent).arg_true().to_list()), None):
        raise DatasetError(f"{column.name} in row {bad} is {text[bad]!r}. {column.describe()}")
    return torch.from_numpy(numbers.fill_null(math.nan).to_numpy().astype(np.float64))


def _cast_numbers(table: TextTable, name: str) -> pl.Series:
    """A column as float64; null where it is not a finite number."""
    text = table.frame[name]
    if table.decimal_comma:
        text = text.str.replace(",", ".", literal=True)
    numbers = text.cast(pl.Float64, strict=False)
    return pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series()


def _cast_dates(text: pl.Series) -> pl.Series:
    """A column of ISO 8601 texts as days since 1970 in UTC; null where it is not a date."""
    forms = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")
    plain = text.str.replace(" ", "T", literal=True).str.replace(r"(Z|\+00:00)$", "")
    parsed = pl.coalesce([pl.lit(plain).str.to_datetime(form, strict=False, time_unit="us") for form in forms])
    return pl.select(parsed.dt.epoch("us").cast(pl.Float64) / 86_400e6).to_series()


def _summarize(name: str, numbers: pl.Series, train: Tensor) -> tuple[float, float, float, float] | None:
    """Mean, standard deviation, least and greatest of the training rows' numbers, or None if they do not differ.

    Raises:
        DatasetError: if they are too large to be squared.
    """
    own = torch.from_numpy(numbers.gather(train.tolist()).drop_nulls().to_numpy().copy())
    mean, std, greatest = float(own.mean()), float(own.std()), float(own.abs().max())
    if not math.isfinite(std):
        raise DatasetError(
            f"column {name!r} has numbers as large as {greatest:g}. Mend the file, or name the column with "
            "--categories or --ignore"
        )
    return (mean, std, float(own.min()), float(own.max())) if std > 0 else None


def _check_target(target: str, labels: Tensor) -> None:
    """Raises a `DatasetError` if numbers are so large, small or alike that float32 does not hold them."""
    mean, std = float(labels.mean()), float(labels.std())
    if not max(LEAST_DEVIATION, FINEST * abs(mean)) <= std <= MOST_DEVIATION:
        raise DatasetError(
            f"the target {target!r} has a mean of {mean:g} and a standard deviation of {std:g}. The deviation must be "
            f"from {LEAST_DEVIATION:g} to {MOST_DEVIATION:g}, and at least {FINEST:g} of the mean. Change the unit, or "
            "subtract a constant"
        )


def _explain_mixture(table: TextTable, name: str, numbers: pl.Series) -> str:
    text = table.frame[name]
    wrong = (numbers.is_null() & text.is_not_null()).arg_true().to_list()
    shown = ", ".join(f"{text[row]!r} in row {row + 1}" for row in wrong[:LISTED])
    return f"column {name!r} has {len(text.drop_nulls()) - len(wrong)} numbers and {len(wrong)} other values ({shown})"
