"""The store of feedback, in a file and on a server alike."""

import os
import sqlite3
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from models.feedback.database import SQLITE
from models.feedback.labels import FeedbackError, GivenLabel, Outcome
from models.feedback.store import DAY, Store
from tests.feedback import CLASSES, NUMBERS, make_answers


def label(store: Store, request_id: str, value: object, position: int = 0, client: str = "") -> Outcome:
    ((outcome, reason),) = store.label(client, [GivenLabel(request_id, position, value)])
    assert bool(reason) == (outcome not in ("recorded", "repeated"))
    return outcome


def read(store: Store, number: int = 0) -> list[list[float]]:
    found: list[list[float]] = store.read(store.list_models()[number]).observations.round(6).tolist()
    return found


def test_a_label_is_measured_by_what_was_answered(store: Store) -> None:
    store.add([make_answers("one", 3), make_answers("other")])
    assert label(store, "one", "owl") == "recorded"
    assert label(store, "one", 1, position=2) == "recorded"
    assert label(store, "other", "wren") == "recorded"
    losses = [-round(float(np.log(p)), 6) for p in (0.7, 0.2, 0.1)]
    assert read(store) == [
        [pytest.approx(losses[0], abs=1e-5), 1.0, 1.0, 1.0, 0.7],
        [pytest.approx(losses[1], abs=1e-5), 1.0, 0.0, 0.0, 0.7],
        [pytest.approx(losses[2], abs=1e-5), 0.0, 0.0, 0.0, 0.7],
    ]
    (stored,) = store.list_models()
    assert (stored.model, stored.labels) == (CLASSES, 3)
    known = store.read(stored)
    assert (known.kept, known.first) == (4, 1)
    assert known.confidence == pytest.approx(0.7)


def test_numbers_have_labels_too(store: Store) -> None:
    store.add([make_answers("one", 2, model=NUMBERS)])
    assert label(store, "one", 3.0) == "invalid_label"
    assert label(store, "one", [23, 8.0]) == "recorded"
    loss = np.log(2 * 1 * 2 * np.pi) + (1.5**2 + 3**2) / 2
    assert read(store) == [[pytest.approx(loss), 0.5, 9.0, 9.0]]


def test_only_the_same_client_labels_an_answer(store: Store) -> None:
    store.add([make_answers("one", client="alice"), make_answers("one", client="bob")])
    assert label(store, "one", "owl") == "unknown_answer"
    assert label(store, "one", "owl", client="carol") == "unknown_answer"
    assert label(store, "one", "tit", client="alice") == "recorded"
    assert label(store, "one", "owl", client="bob") == "recorded"
    assert [row[3] for row in read(store)] == [0.0, 1.0]


def test_the_first_label_stays(store: Store) -> None:
    store.add([make_answers("one")])
    given = [GivenLabel("one", 0, value) for value in ("bat", "owl", 0, "tit")]
    outcomes = [outcome for outcome, _ in store.label("", given)]
    assert outcomes == ["invalid_label", "recorded", "repeated", "other_label"]
    assert [label(store, "one", value) for value in ("owl", "tit")] == ["repeated", "other_label"]
    assert len(read(store)) == 1


def test_an_id_that_comes_again_takes_no_label(store: Store) -> None:
    store.add([make_answers("one"), make_answers("two")])
    store.add([make_answers("one", 2)])
    assert label(store, "one", "owl") == "ambiguous_answer"
    assert label(store, "one", "owl", position=1) == "recorded"  # which only the later request had
    assert label(store, "two", "owl") == "recorded"


def test_versions_are_kept_apart(store: Store) -> None:
    store.add([make_answers("one"), make_answers("two", model=NUMBERS)])
    label(store, "two", [20, 5])
    label(store, "one", "owl")
    assert [stored.model.name for stored in store.list_models()] == ["birds", "weights"]
    assert [len(row) for number in (0, 1) for row in read(store, number)] == [5, 4]
    (row,) = store.read_labelled(CLASSES.version)
    assert (row.calibrated_size, row.label, row.scores) == (100, 0, {"out_of_distribution": 0.5})
    assert np.frombuffer(row.judged, np.float32) == pytest.approx(np.log([0.7, 0.2, 0.1]))


def test_unlabelled_answers_go_first_and_then_the_first_labels(store: Store) -> None:
    store.add([make_answers(f"{i}") for i in range(6)])
    for i in (4, 0, 5):
        label(store, f"{i}", "owl")
    assert store.trim(4, days=1) == 2
    assert label(store, "1", "owl") == label(store, "2", "owl") == "unknown_answer"
    assert label(store, "3", "tit") == "recorded"
    assert store.trim(2, days=1) == 2  # the labels of 4 and 0
    known = store.read(store.list_models()[0])
    assert (known.kept, known.first, len(known.observations)) == (2, 3, 2)
    assert label(store, "4", "owl") == "unknown_answer"
    assert store.trim(2, days=1) == 0


def test_old_answers_go(store: Store) -> None:
    store.add([make_answers("old", age=3 * DAY), make_answers("late", age=3 * DAY), make_answers("new")])
    label(store, "late", "owl")
    assert store.trim(100, days=2) == 0  # what is old is not too much
    assert label(store, "old", "owl") == "unknown_answer"
    assert label(store, "late", "owl") == "repeated"  # its label is new
    assert store.trim(100, days=1e-9) == 0
    assert store.read(store.list_models()[0]).kept == 0
    assert store.list_models()[0].labels == 1


def test_threads_and_processes_share_one_order(place: str) -> None:
    """Two stores on one database, as two services have them, each with two threads that add and label."""
    stores, failures = [Store(place), Store(place)], list[BaseException]()
    stores[0].list_models()  # the tables

    def work(store: Store, name: str) -> None:
        try:
            for i in range(15):
                store.add([make_answers(f"{name}{i}")])
                assert label(store, f"{name}{i}", "owl") == "recorded"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(stores[i % 2], f"{i}-")) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    (stored,) = stores[1].list_models()
    known = stores[0].read(stored)
    assert (stored.labels, known.first, len(known.observations)) == (60, 1, 60)
    for store in stores:
        store.close()


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path, mask = tmp_path / "answers.sqlite", os.umask(0)
    try:
        store = Store(str(path))
        store.add([make_answers("one")])
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        with sqlite3.connect(path) as reader:
            assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        reader.close()
        store.close()
    finally:
        os.umask(mask)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nowhere/answers.sqlite", "the folder of the feedback store nowhere/answers.sqlite does not exist"),
        ("mysql://root:secret@host/x", "needs a driver that is not installed|begins with postgresql://"),
        ("sqlite:///answers.sqlite", "begins with postgresql://"),
        ("postgresql+nothing://root:secret@host/x", "needs a driver that is not installed"),
        ("://root:secret@host", "the feedback store's URL is not valid"),
    ],
)
def test_places_that_cannot_be(place: str, reason: str) -> None:
    with pytest.raises(FeedbackError, match=reason) as error:
        Store(place)
    assert "secret" not in str(error.value)


def test_a_server_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    store = Store(f"postgresql://root:secret@/x?host={tmp_path}")
    with pytest.raises(FeedbackError, match="cannot be used: connection") as error:
        store.list_models()
    chain: BaseException | None = error.value
    while chain is not None:
        assert "secret" not in str(chain)
        chain = chain.__cause__
    store.close()


def test_a_file_that_is_something_else_is_told(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(FeedbackError, match="is not a file of SQLite; name another"):
        Store(str(path))
    with pytest.raises(FeedbackError, match="is not a file; name one"):
        Store(str(tmp_path))
    path.write_bytes(SQLITE + b"damaged" * 1000)
    store = Store(str(path))
    with pytest.raises(FeedbackError, match="cannot be used: file is not a database"):
        store.add([make_answers("one")])
    store.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_or_replaced_is_told_once_and_opened_anew(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "answers.sqlite"
    store = Store(str(path))
    store.add([make_answers("one")])
    path.rename(tmp_path / "moved.sqlite")
    if replaced:
        path.touch()
    with pytest.raises(FeedbackError, match="was removed or replaced"):
        store.add([make_answers("two")])
    store.add([make_answers("three")])
    assert label(store, "three", "owl") == "recorded"
    assert label(store, "one", "owl") == "unknown_answer"
    store.close()


def test_what_no_service_wrote_is_told(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    store = Store(str(path))
    store.add([make_answers("one", 2)])
    label(store, "one", "owl")
    with sqlite3.connect(path) as writer:
        writer.execute("UPDATE hyperdraw_answers SET observation = x'00', answered = x'00'")
    writer.close()
    with pytest.raises(FeedbackError, match="holds what no service of this version wrote"):
        store.read(store.list_models()[0])
    with pytest.raises(FeedbackError, match="holds what no service of this version wrote"):
        label(store, "one", "owl", position=1)
    store.close()
