"""A user's own vectors, such as embeddings, with a class or a number for each: arrays in an npz file of NumPy.

Shapes: N vectors, D numbers.
"""

import zipfile
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import torch
from numpy.typing import NDArray

from models.inputs.spec import InputSpec
from models.inputs.vector import VectorSpec
from models.tasks.task import Task
from training.data.dataset import Dataset, DatasetError
from training.data.image_tree import show
from training.data.table import Table, TaskName, explain_change, make_dataset, split_rows

INPUTS, LABELS = "inputs", "labels"
"""Usual names of the two arrays."""

LEAST_DEVIATION = 1e-6
"""Least standard deviation of a number, in units of the largest magnitude of its mean or of 1."""


def load_vectors(path: Path, inputs: str = INPUTS, labels: str = LABELS, task: TaskName | None = None) -> Table:
    """Reads vectors and divides them among the splits, each class by itself.

    Args:
        path: an npz file that holds both arrays.
        inputs: name of the array of vectors, numbers [N, D].
        labels: name of the array of labels, [N]: integers or text for classes, or real numbers.
        task: the kind of labels; if not given, integers and text are classes.

    Raises:
        DatasetError: if the file cannot be used. The message names the array.
    """
    vectors, found = _read_arrays(path, inputs, labels)
    if task == "classification" or (task is None and found.dtype.kind != "f"):
        values, index = np.unique(found, return_inverse=True)
        if len(values) < 2:
            raise DatasetError(f"the array {labels!r} has {len(values)} different value(s), but at least 2 are needed")
        classes: tuple[str, ...] | None = tuple(map(str, values.tolist()))
        answers = torch.from_numpy(index.reshape(-1).astype(np.int64))
    else:
        if found.dtype.kind not in "fiu":
            raise DatasetError(f"the array {labels!r} holds {found.dtype}, so it cannot be predicted as numbers")
        if not np.isfinite(found).all() or found.std() == 0:
            raise DatasetError(f"the array {labels!r} must hold finite numbers that differ")
        classes, answers = None, torch.from_numpy(found.astype(np.float64))
    splits = split_rows(path, labels, answers, classes)
    rows = torch.from_numpy(vectors)
    own = rows[splits["train"]].double()
    mean, std = own.mean(0), own.std(0, correction=0)
    std = std.maximum(LEAST_DEVIATION * mean.abs().clamp(min=1))
    spec = VectorSpec(tuple(map(str, range(rows.shape[1]))), tuple(mean.tolist()), tuple(std.tolist()))
    names = show(Path(path.name)), quote(inputs), quote(labels)
    name, dataset = make_dataset(names, labels, spec, rows, answers, classes, splits)
    return Table(name, labels, dataset, {}, 0)


def load_vectors_again(name: str, path: Path, spec: InputSpec, task: Task) -> Dataset:
    """Loads the dataset that a checkpoint was trained on from its file.

    Args:
        name: name of the dataset, with its arrays and digest.
        path: where the file is now.
        spec: the checkpoint's input.
        task: the checkpoint's task.

    Raises:
        DatasetError: if it is another file, or if its vectors have changed.
    """
    original, inputs, labels = name.rsplit("@", 1)[0].rsplit(":", 2)
    if not path.is_file():
        raise DatasetError(
            f"{show(path)} is not a file. The model was trained on the file {original}; pass it with --data"
        )
    kind: TaskName = "classification" if task.has_classes else "regression"
    table = load_vectors(path, unquote(inputs), unquote(labels), kind)
    if table.name.rsplit("@", 1)[1] != name.rsplit("@", 1)[1] or table.dataset.input != spec:
        raise DatasetError(explain_change(path, original, "vectors"))
    return table.dataset


def _read_arrays(path: Path, inputs: str, labels: str) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise DatasetError(f"{show(path)} is no npz file. Write both arrays to one: numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in (inputs, labels):
                if name not in file.files:
                    raise DatasetError(f"{show(path)} has no array {name!r}. Its arrays are {', '.join(file.files)}")
            vectors, found = file[inputs], file[labels]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{show(path)} cannot be read as an npz file of arrays: {error}") from error
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind not in "fiu":
        raise DatasetError(
            f"the array {inputs!r} is {vectors.dtype} of shape {vectors.shape}, but it must hold vectors of numbers, "
            "one in each row"
        )
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1 or found.dtype.kind not in "fiubUS" or len(found) != len(vectors):
        raise DatasetError(
            f"the array {labels!r} is {found.dtype} of shape {found.shape}, but it must hold an integer, a text or a "
            f"number for each of {len(vectors):,} vectors"
        )
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        row, number = np.argwhere(~np.isfinite(vectors))[0].tolist()
        raise DatasetError(
            f"the array {inputs!r} holds {vectors[row, number]} at [{row}, {number}]; leave such vectors out"
        )
    return vectors, np.char.decode(found, "utf-8", "replace") if found.dtype.kind == "S" else found
