"""Runs: predictions of any number of inputs, written to a file. What was answered before an interrupt is kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperdraw.answers import Prediction
from hyperdraw.asking import choose_seed
from hyperdraw.client import Client
from hyperdraw.journal import Journal
from hyperdraw.predictions import Failure
from hyperdraw.sources import Source
from hyperdraw.tables import make_refusal, make_row, write_table

Progress = Callable[[int, int], None]
"""Called with the number of inputs that are done, and with that of all."""


@dataclass(frozen=True)
class Run:
    """What a run has written."""

    path: str
    model: str
    version: str
    seed: int
    answered: int
    """Number of inputs with an answer."""
    refused: int


def predict_to_file(
    client: Client,
    out: str,
    sources: Sequence[tuple[str, Source]],
    *,
    progress: Progress,
    interrupted: Callable[[str], None],
    model: str | None = None,
    version: str | None = None,
    seed: int | None = None,
    **parameters: Any,
) -> Run:
    """Predicts all inputs and writes a table of their answers, in their order.

    A journal beside the file keeps the answers until all are there. If there is one of the same model, version and
    parameters, the run goes on where that one ended. Inputs that were refused are asked again.

    Args:
        client: the client that asks.
        out: the file; `tables.check_format` accepts it.
        sources: the inputs and their names. An input that is named twice is asked once, and has two rows.
        progress: told about each input that is done.
        interrupted: told, before an exception leaves, how many answers are kept, and where.
        model: name of the model.
        version: version of the model, as for `Client.predict`.
        seed: seed of the networks; by default that of the journal, or a fresh one.
        parameters: those of `Client.predict_each`.

    Raises:
        FileExistsError: if there is the journal of another run.
        OSError: if a file cannot be written.
        HyperdrawError: if the service fails.
    """
    described = client.model(model, version=version)
    asked = {"model": described.name, "version": described.version, **parameters}
    if seed is not None:
        asked["seed"] = seed
    names = [name for name, _ in sources]
    with Journal(Path(out), asked, choose_seed(seed)) as journal:
        open_inputs = {name: source for name, source in sources if name not in journal.answered}
        open_names, all_names = list(open_inputs), len(set(names))
        done = all_names - len(open_names)
        progress(done, all_names)

        def keep(index: int, answer: Prediction | Failure) -> None:
            nonlocal done
            name = open_names[index]
            if isinstance(answer, Exception):
                row = make_refusal(name, answer, described.name, described.version, journal.seed)
            else:
                row = make_row(name, answer)
            journal.add(row)
            done += 1
            progress(done, all_names)

        try:
            client.predict_each(
                open_inputs.values(),
                keep,
                model=described.name,
                version=described.version,
                seed=journal.seed,
                **parameters,
            )
            write_table(Path(out), journal.example, journal.read(names))
        except BaseException:
            if kept := len(journal.answered):
                interrupted(f"{kept} of {all_names} answers are kept in {journal.path}.")
            raise
        journal.remove()
        answered = sum(name in journal.answered for name in names)
        return Run(out, described.name, described.version, journal.seed, answered, len(names) - answered)
