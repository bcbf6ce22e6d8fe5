"""The database behind a store of feedback: its tables, and how it is reached."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from models.feedback.labels import FeedbackError

SECONDS = 10
"""Seconds to wait for a connection, or for another process that writes."""

SQLITE = b"SQLite format 3\0"
"""First bytes of a file of SQLite that is not empty."""

_ID = BigInteger().with_variant(Integer, "sqlite")
_metadata = MetaData()

MODELS = Table(
    "hyperdraw_models",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("version", String, nullable=False),
    Column("description", JSON, nullable=False),
    Column("labels", Integer, nullable=False),
    UniqueConstraint("name", "version"),
)
ANSWERS = Table(
    "hyperdraw_answers",
    _metadata,
    Column("id", _ID, primary_key=True),
    Column("client", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("position", Integer, nullable=False),
    Column("model_id", ForeignKey(MODELS.c.id), nullable=False),
    Column("time", Double, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("ensemble_size", Integer, nullable=False),
    Column("calibrated_size", Integer),
    Column("confidence", Double),
    Column("scores", JSON, nullable=False),
    Column("flagged", JSON, nullable=False),
    Column("answered", LargeBinary, nullable=False),
    Column("judged", LargeBinary, nullable=False),
    Column("allowed", LargeBinary, nullable=False),
    Column("repeated", Boolean, nullable=False),
    Column("number", Integer),
    Column("labelled", Double),
    Column("label", JSON(none_as_null=True)),
    Column("observation", LargeBinary),
    UniqueConstraint("client", "request_id", "position"),
    UniqueConstraint("model_id", "number"),
)


class Database:
    """A file of SQLite or a database of PostgreSQL. The first transaction creates the tables if there are none."""

    def __init__(self, place: str) -> None:
        """Prepares to connect.

        Args:
            place: path of a file for SQLite, or a URL such as postgresql://user@host/database.

        Raises:
            FeedbackError: if it is another URL, its driver is not installed, the folder of the file is missing, or
                there is something else than a file of SQLite.
        """
        self._path = None if "://" in place else Path(place)
        if self._path is not None:
            _check_file(self._path)
        self._engine = _prepare_server(place) if self._path is None else _prepare_file(self._path)
        self._opening = threading.Lock()
        self._open = False
        self._file: tuple[int, int] | None = None
        """Device and number of the open file, which another file under the same name does not have."""

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def insert(self, table: Table) -> Any:
        """An insertion that can say what happens to a row that is there already."""
        return (sqlite if self._path is not None else postgresql).insert(table)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Begins a transaction, which ends with the context.

        Raises:
            FeedbackError: if it fails, the file was removed or replaced, or what is read there cannot be understood.
        """
        try:
            self._create_tables()
            with self._engine.begin() as connection:
                yield connection
        except OSError as error:
            raise FeedbackError(f"the feedback store cannot be used: {error.strerror}") from error
        except (ValueError, LookupError) as error:
            raise FeedbackError("the feedback store holds what no service of this version wrote") from error
        except SQLAlchemyError as error:
            cause = str(error.orig).strip() if isinstance(error, DBAPIError) else type(error).__name__
            raise FeedbackError(f"the feedback store cannot be used: {cause.partition(chr(10))[0]}") from error

    def _create_tables(self) -> None:
        with self._opening:
            if self._open and self._path is not None and _identify(self._path) != self._file:
                self._engine.dispose()  # whatever is written to the open file is lost
                self._open = False
                raise FeedbackError(f"the feedback store {self._path} was removed or replaced")
            if self._open:
                return
            if self._path is not None:
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # readable for nobody else
            _metadata.create_all(self._engine)
            self._file = None if self._path is None else _identify(self._path)
            self._open = True


def _check_file(path: Path) -> None:
    """Finds out before the first use that a file of SQLite can neither be nor be made there."""
    if not path.absolute().parent.is_dir():
        raise FeedbackError(f"the folder of the feedback store {path} does not exist")
    if not path.exists():
        return
    try:
        if not path.is_file():
            raise FeedbackError(f"the feedback store {path} is not a file; name one, which is made if there is none")
        with path.open("rb") as file:
            beginning = file.read(len(SQLITE))
    except OSError as error:
        raise FeedbackError(f"the feedback store {path} cannot be read: {error.strerror}") from error
    if beginning not in (b"", SQLITE):
        raise FeedbackError(f"the feedback store {path} is not a file of SQLite; name another, which is then made")


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _prepare_file(path: Path) -> Engine:
    arguments = {"timeout": SECONDS}
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args=arguments, hide_parameters=True)
    event.listen(engine, "connect", _set_pragmas)
    return engine


def _prepare_server(place: str) -> Engine:
    try:
        url = make_url(place)
        if url.get_backend_name() != "postgresql":
            raise FeedbackError("the feedback store must be a file's path, or a URL that begins with postgresql://")
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        options = f"-c lock_timeout={SECONDS}s -c statement_timeout={6 * SECONDS}s"
        return create_engine(
            url,
            connect_args={"connect_timeout": SECONDS, "tcp_user_timeout": 1000 * SECONDS, "options": options},
            pool_pre_ping=True,
            pool_timeout=SECONDS,
            hide_parameters=True,
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        hint = "pip install 'hyperdraw-server[postgres]'"
        raise FeedbackError(f"the feedback store needs a driver that is not installed: {hint}") from error
    except (ArgumentError, ValueError):
        raise FeedbackError("the feedback store's URL is not valid") from None  # the cause may hold a password


def _set_pragmas(connection: Any, _: object) -> None:
    """Lets readers and one writer work at the same time."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
