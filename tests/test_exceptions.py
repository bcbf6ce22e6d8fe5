"""Exceptions pass from process to process, as those of a pool's workers do, with all that they say."""

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import hyperdraw.errors
import pytest

import models.checkpoint_files
import models.device
import models.inputs.pixels
import models.tasks.probabilities
import service.admission
import service.api.multipart
import service.catalog
import service.errors
import service.operation.access
import training.data.dataset
import training.imports.network
import training.runs.run
from tests.raising import fail

ARGUMENTS: dict[type[Exception], tuple[object, ...]] = {
    hyperdraw.errors.HyperdrawError: ("It was so.", "Do otherwise."),
    hyperdraw.errors.ServiceError: (429, "overloaded", "It was so.", "Do otherwise.", 1.5),
    models.checkpoint_files.CheckpointError: (Path("digits/config.json"), "damaged"),
    models.inputs.pixels.ImageError: ("invalid", "It was so.", "Do otherwise."),
    service.admission.OverloadedError: (1.5,),
    service.errors.ServiceError: (429, "overloaded", "It was so.", "Do otherwise.", {"Retry-After": "2"}),
}
"""Of the constructors that take more than a message."""

MODULES: tuple[ModuleType, ...] = (
    hyperdraw.errors,
    models.checkpoint,
    models.device,
    models.inputs.pixels,
    models.tasks.probabilities,
    service.operation.access,
    service.catalog,
    service.admission,
    service.api.multipart,
    service.errors,
    training.data.dataset,
    training.imports.network,
    training.runs.run,
)

KINDS = [
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == module.__name__
]


def make(kind: type[Exception]) -> Exception:
    known = [base for base in kind.__mro__ if base in ARGUMENTS]
    error = kind(*ARGUMENTS[known[0]] if known else ("It was so.",))
    error.add_note("at night")
    return error


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_copies_say_the_same(kind: type[Exception]) -> None:
    error = make(kind)
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    for other in (copy.copy(error), copy.deepcopy(error), *(pickle.loads(pickle.dumps(error, p)) for p in protocols)):
        assert type(other) is kind
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_refusals_come_out_of_a_pool_of_processes() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(hyperdraw.Overloaded) as caught:
        pool.submit(fail, make(hyperdraw.Overloaded)).result()
    assert (caught.value.status, caught.value.retry_after) == (429, 1.5)
