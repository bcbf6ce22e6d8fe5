"""The store of answers and labels: a file of SQLite, or a database of PostgreSQL that several services share.

An answer is named by its client, the id of its request, and the input's number there. If the same name comes again, it
is not known which of the answers a label is for. So the first answer stays, and takes no more labels.

The first label of an answer stays, too: what was learned from a sequence of labels holds only if nobody changes the
past. Labels of a version are numbered in their order, from 1, in all processes alike.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, delete, func, select, tuple_, update

from models.feedback.answers import RequestAnswers
from models.feedback.database import ANSWERS, MODELS, Database
from models.feedback.labels import STORED, AnsweringModel, GivenLabel, LabelledAnswers, Outcome, StoredModel, observe

DAY = 86400.0
"""Seconds."""


class Store:
    """Answers and labels. Threads and processes may share it. Every method raises `FeedbackError` if it fails."""

    def __init__(self, place: str) -> None:
        """Prepares the store. The first use connects.

        Args:
            place: path of a file for SQLite, or a URL such as postgresql://user@host/database.

        Raises:
            FeedbackError: if it is another URL, its driver is not installed, the folder of the file is missing, or
                there is something else than a file of SQLite.
        """
        self._database = Database(place)

    def close(self) -> None:
        """Closes all connections."""
        self._database.close()

    def add(self, answers: Sequence[RequestAnswers]) -> None:
        """Adds answers. One whose name is known already is left out, and the known one takes no more labels."""
        with self._database.begin() as connection:
            models = dict.fromkeys(request.model for request in answers)
            ids = {model: self._find_id(connection, model) for model in models}
            rows = [row for request in answers for row in _make_rows(request, ids[request.model])]
            adding = self._database.insert(ANSWERS)
            name = ("client", "request_id", "position")
            connection.execute(adding.on_conflict_do_update(index_elements=name, set_={"repeated": True}), rows)

    def label(self, client: str, labels: Sequence[GivenLabel]) -> list[tuple[Outcome, str]]:
        """Labels a client's answers.

        Returns:
            What became of each label, and why.
        """
        names = {(label.request_id, label.position) for label in labels}
        with self._database.begin() as connection:
            connection.execute(update(MODELS).values(labels=MODELS.c.labels))  # locks out others who label
            wanted = tuple_(ANSWERS.c.request_id, ANSWERS.c.position).in_(list(names))
            query = select(ANSWERS).where(ANSWERS.c.client == client, wanted)
            rows = {(row.request_id, row.position): row for row in connection.execute(query)}
            known = {stored.id: stored for stored in _list_models(connection)}
            counts = {model_id: stored.labels for model_id, stored in known.items()}
            given: dict[int, Any] = {}
            outcomes: list[tuple[Outcome, str]] = []
            for label in labels:
                row = rows.get((label.request_id, label.position))
                outcome, reason, change = _judge_label(row, known, given, label.label)
                outcomes.append((outcome, reason))
                if row is not None and change is not None:
                    counts[row.model_id] += 1
                    given[row.id] = {"number": counts[row.model_id], "labelled": time.time(), **change}
            for answer_id, change in given.items():
                connection.execute(update(ANSWERS).where(ANSWERS.c.id == answer_id).values(change))
            for model_id, count in counts.items():
                connection.execute(update(MODELS).where(MODELS.c.id == model_id).values(labels=count))
        return outcomes

    def list_models(self) -> list[StoredModel]:
        """All versions of models whose answers were ever kept, in the order of their first answers."""
        with self._database.begin() as connection:
            return _list_models(connection)

    def read(self, stored: StoredModel) -> LabelledAnswers:
        """The observations of a version."""
        of_model = ANSWERS.c.model_id == stored.id
        with self._database.begin() as connection:
            kept, confidence = connection.execute(
                select(func.count(), func.avg(ANSWERS.c.confidence)).where(of_model)
            ).one()
            query = select(ANSWERS.c.number, ANSWERS.c.observation).where(of_model, ANSWERS.c.number.is_not(None))
            found = connection.execute(query.order_by(ANSWERS.c.number)).all()
            content = np.frombuffer(b"".join(row.observation for row in found), np.float64)
            observations = content.reshape(len(found), stored.model.observed)
        return LabelledAnswers(kept, confidence, found[0].number if found else stored.labels + 1, observations)

    def read_labelled(self, version: str) -> list[Row[Any]]:
        """The labelled answers of a version of a checkpoint whose ensembles did not grow:
        `calibrated_size`, `judged`, `scores`, `label` and `time`, in the order of their times."""
        columns = (ANSWERS.c[name] for name in ("calibrated_size", "judged", "scores", "label", "time"))
        query = select(*columns).join(MODELS).where(MODELS.c.version == version, ANSWERS.c.number.is_not(None))
        query = query.where(ANSWERS.c.calibrated_size.is_not(None))
        with self._database.begin() as connection:
            return list(connection.execute(query.order_by(ANSWERS.c.time, ANSWERS.c.id)))

    def trim(self, most: int, days: float) -> int:
        """Drops what is too old or too much: the oldest answers without labels first, then the oldest labels.

        Args:
            most: number of answers that may stay.
            days: days that an answer waits for its label, and is kept after that.

        Returns:
            The number of answers that were dropped because there were too many.
        """
        number, labelled = ANSWERS.c.number, ANSWERS.c.labelled
        with self._database.begin() as connection:
            start = time.time() - days * DAY
            connection.execute(delete(ANSWERS).where(number.is_(None), ANSWERS.c.time < start))
            _drop_labelled(connection, start)
            excess = max(0, connection.execute(select(func.count()).select_from(ANSWERS)).scalar_one() - most)
            if not excess:
                return 0
            waiting = select(ANSWERS.c.id).where(number.is_(None)).order_by(ANSWERS.c.id).limit(excess)
            dropped = connection.execute(delete(ANSWERS).where(ANSWERS.c.id.in_(waiting))).rowcount
            if dropped < excess:
                later = select(labelled).where(number.is_not(None)).order_by(labelled).offset(excess - dropped)
                _drop_labelled(connection, connection.execute(later.limit(1)).scalar_one_or_none() or time.time())
            return excess

    def _find_id(self, connection: Connection, model: AnsweringModel) -> int:
        """The id of a model's row, which is added if there is none."""
        query = select(MODELS.c.id).where(MODELS.c.name == model.name, MODELS.c.version == model.version)
        if (found := connection.execute(query).scalar_one_or_none()) is not None:
            return int(found)
        row = {"name": model.name, "version": model.version, "description": asdict(model), "labels": 0}
        connection.execute(self._database.insert(MODELS).on_conflict_do_nothing(), row)
        return int(connection.execute(query).scalar_one())


def _list_models(connection: Connection) -> list[StoredModel]:
    rows = connection.execute(select(MODELS).order_by(MODELS.c.id))
    return [StoredModel(row.id, STORED.validate_python(row.description), row.labels) for row in rows]


def _make_rows(request: RequestAnswers, model_id: int) -> Iterator[dict[str, Any]]:
    for part in request.parts:
        confidences = part.confidences
        for i, position in enumerate(part.positions):
            yield {
                "client": request.client,
                "request_id": request.request_id,
                "position": position,
                "model_id": model_id,
                "time": request.time,
                "seed": request.seed,
                "ensemble_size": part.ensemble_size,
                "calibrated_size": part.calibrated_size,
                "confidence": confidences and confidences[i],
                "scores": {flag: scores[i] for flag, scores in part.scores.items()},
                "flagged": [flag for flag, flagged in part.flagged.items() if flagged[i]],
                "answered": part.answered[i].tobytes(),
                "judged": part.judged[i].tobytes(),
                "allowed": part.allowed[i].tobytes(),
                "repeated": False,
            }


def _judge_label(
    row: Row[Any] | None, known: dict[int, StoredModel], given: dict[int, Any], label: object
) -> tuple[Outcome, str, dict[str, Any] | None]:
    """What becomes of a label, why, and what changes in its row, if anything does."""
    if row is None:
        reason = "no answer to this client is kept under this id and index; it may have been dropped for age or space"
        return "unknown_answer", reason, None
    if row.repeated:
        return "ambiguous_answer", "several requests had this id, so the label may be for either", None
    model = known[row.model_id].model
    try:
        read = model.read_label(label)
    except ValueError as error:
        return "invalid_label", str(error), None
    earlier = given[row.id]["label"] if row.id in given else row.label
    if earlier is not None:
        same = earlier == read
        return ("repeated", "", None) if same else ("other_label", "the answer has another label, which stays", None)
    observation = observe(model, row.answered, row.judged, row.allowed, read).tobytes()
    return "recorded", "", {"label": read, "observation": observation}


def _drop_labelled(connection: Connection, before: float) -> None:
    """Drops the first labels of each version, up to the last one that was given before a time. What is left of a
    version are its last labels without a gap."""
    number, of_model = ANSWERS.c.number, ANSWERS.c.model_id
    last = select(of_model, func.max(number)).where(ANSWERS.c.labelled < before).group_by(of_model)
    for model_id, greatest in connection.execute(last).all():
        connection.execute(delete(ANSWERS).where(of_model == model_id, number <= greatest))
