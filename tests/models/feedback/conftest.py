from collections.abc import Iterator
from pathlib import Path

import pytest

from models.feedback.store import Store
from tests.postgres import PostgresServer, serve_postgres

SERVER = pytest.param("postgresql", marks=pytest.mark.needs("initdb"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with serve_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", SERVER])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A file, and then a database of a real server."""
    if request.param == "sqlite":
        return str(tmp_path / "answers.sqlite")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    store = Store(place)
    yield store
    store.close()
