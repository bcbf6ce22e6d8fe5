"""The catalog of the models in a directory, which are loaded and replaced while the service runs."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoint_files import CheckpointError
from models.foreign_files import Stamp, is_settled
from models.model import Model
from models.sequences.checkpoint import is_sequence_checkpoint
from models.sequences.model import SequenceModel
from models.tasks.probabilities import NotFiniteError
from service.checkpoint_files import explain_refusal, list_checkpoints, may_load_later, stamp_checkpoint
from service.engine.engine import Engine, ServedModel
from service.errors import CLOSING, ServiceError
from service.names import check_name, escape
from service.sizes import check_size

logger = logging.getLogger(__name__)

MODEL_BYTES = 4 * 2**30
"""Most memory for all models together, in bytes."""

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 300.0
"""First and longest time before files are retried after a temporary error. The time doubles with each attempt."""


MOST_PAUSE_SECONDS = 2.0
"""Longest pause between two loads."""


class ConfigurationError(Exception):
    """Settings with which the service cannot start; the message says which and why."""


@dataclass
class _Attempt:
    """An attempt to load a model."""

    stamp: dict[str, Stamp]
    """Stamps of its files, taken before they were read."""
    retry: float | None = None
    """Time of the next attempt with the same files, on the monotonic clock, if any."""
    delay: float = FIRST_RETRY_SECONDS / 2
    """Seconds until the next attempt."""
    served: bool = False
    """Whether the served model certainly has the content of these files."""


class Catalog:
    """Loaded and warmed-up models by name, the default first, and those that were refused.

    A model is loaded beside the one that it replaces, verified and warmed up, and only then takes its place. If that
    fails, nothing changes. Requests keep the model that they began with. All methods are thread-safe. One thread loads
    the models, one after the other.
    """

    def __init__(self, directory: Path, engine: Engine, default: str | None, max_bytes: int = MODEL_BYTES) -> None:
        """Loads all models.

        Args:
            directory: a checkpoint, or a directory with one in each subdirectory.
            engine: the engine that runs the models.
            default: name of the model that comes first; if None, the first one in alphabetical order.
            max_bytes: most memory for all models together, by `count_bytes`.

        Raises:
            ConfigurationError: if no model can be served, or the default does not exist.
        """
        if not directory.is_dir():
            raise ConfigurationError(f"{directory} is not a directory; --checkpoints must name one with checkpoints")
        self.refused: dict[str, str] = {}
        """Reasons of refusals, by the escaped name. Replaced as a whole, so that readers see no partial change."""
        self._reasons: dict[str, str] = {}
        """Reasons of refusals, by the actual name."""
        self._directory = directory
        self._engine = engine
        self._default = default
        self._max_bytes = max_bytes
        self._models: dict[str, ServedModel] = {}
        self._attempts: dict[str, _Attempt] = {}
        """The last attempt for each existing name."""
        self._lock = threading.Lock()
        self._wanted: dict[str | None, Future[Any]] = {}
        """Loads that have not begun: a model by its name, or everything that has changed, under None."""
        self._loads = False
        """Whether the loading thread runs."""
        self._load_start: float | None = None
        """Start of the current load, on the monotonic clock."""
        self._closed = False
        try:
            self.refresh()
        except OSError as error:
            raise ConfigurationError(f"{directory} cannot be read: {error.strerror}") from error
        except ServiceError as error:
            raise ConfigurationError(f"nothing can be loaded: {engine.fault or error}") from error
        if not self._models:
            reasons = "; ".join(self.refused.values()) or "it contains no checkpoint"
            raise ConfigurationError(f"there is nothing to serve in {directory}: {reasons}")
        if default is None:
            first = next(iter(self._models.values()))
            self._default = next(iter(self.predictors), first).name  # also when other models come later
            self._models = self._sort(self._models)
        elif default in self.refused:
            logger.error("the default model %s is refused; %s takes its place", default, next(iter(self._models)))
        elif default not in self._models:
            names = ", ".join(self._models)
            raise ConfigurationError(f"there is no model {default!r} to be the default; there are {names}")

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @property
    def predictors(self) -> list[Model]:
        """The models that predict inputs, not sequences."""
        return [model for model in self if isinstance(model, Model)]

    def resolve(self, name: str, version: str | None = None) -> Model:
        """Finds a model that predicts inputs, as `find` does.

        Raises:
            ServiceError: 404 for an unknown model or version, 422 for a model of sequences, 503 if the checkpoint was
                refused.
        """
        if isinstance(model := self.find(name, version), Model):
            return model
        message = f"{name} is a model of sequences."
        hint = f"It answers POST /v1/models/{name}/generate and /v1/models/{name}/score."
        raise ServiceError(422, "wrong_kind", message, hint)

    def resolve_sequences(self, name: str, version: str | None = None) -> SequenceModel:
        """Finds a model of sequences, as `find` does.

        Raises:
            ServiceError: 404 for an unknown model or version, 422 for a model of another kind, 503 if the checkpoint
                was refused.
        """
        if isinstance(model := self.find(name, version), SequenceModel):
            return model
        others = ", ".join(model.name for model in self if isinstance(model, SequenceModel))
        hint = f"The models of sequences are {others}." if others else "No model of sequences is served."
        raise ServiceError(422, "wrong_kind", f"{name} is not a model of sequences.", hint)

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """Finds a model by name, at a given version or at the served one.

        Raises:
            ServiceError: 404 for an unknown model or version, 503 if the checkpoint was refused.
        """
        if (model := self._models.get(name)) is None:
            if (reason := self.refused.get(name)) is not None:
                raise ServiceError(503, "model_refused", f"{name} was not loaded: {reason}", self._hint)
            raise self._unknown(name)
        if version not in (None, model.version):
            hint = f"{name} has version {model.version}."
            raise ServiceError(404, "unknown_version", f"Version {str(version)[:100]!r} is not served.", hint)
        return model

    def reload(self, name: str) -> tuple[ServedModel, bool]:
        """Loads a model from its files, even a new one.

        Returns:
            the served model, and whether its version changed.

        Raises:
            ServiceError: 404 if there is no checkpoint of that name, 409 if it cannot be loaded, 503 if a retry may
                succeed.
        """
        return self.request_reload(name).result()

    def request_reload(self, name: str) -> "Future[tuple[ServedModel, bool]]":
        """Starts `reload` without waiting for it. The future cannot be cancelled.

        Requests for the same model share a load that has not begun. A model that is being loaded is thus loaded once
        more, however many requests there are.
        """
        return self._want(name)

    def refresh(self) -> None:
        """Loads new and changed models, and stops serving removed ones, unless all were removed.

        A checkpoint that cannot be loaded is refused and logged; the others are served. It is retried when its files
        change, or after a while if the error may be temporary.

        Raises:
            OSError: if the directory cannot be listed. Nothing has changed then.
            ServiceError: 503 if the service is shutting down.
        """
        self.request_refresh().result()

    def request_refresh(self) -> "Future[None]":
        """Starts `refresh` without waiting for it. The future cannot be cancelled."""
        return self._want(None)

    @property
    def load_seconds(self) -> float:
        """Seconds that the current load has run; 0 if there is none."""
        start = self._load_start
        return 0.0 if start is None else time.monotonic() - start

    def close(self) -> None:
        """Starts no further loads. The current one ends with the engine."""
        with self._lock:
            self._closed = True
            futures = list(self._wanted.values())
            self._wanted.clear()
        for future in futures:
            future.set_exception(_say_closing())

    def _want(self, name: str | None) -> "Future[Any]":
        with self._lock:
            if (future := self._wanted.get(name)) is not None:
                return future
            future = Future()
            future.set_running_or_notify_cancel()  # it is shared, so nobody may cancel it
            if self._closed or self._engine.fault:
                future.set_exception(_say_closing())
                return future
            if not self._loads:
                threading.Thread(target=self._work, name="loading", daemon=True).start()
                self._loads = True
            self._wanted[name] = future
            return future

    def _work(self) -> None:
        """Loads until nothing is wanted. The end of the process does not wait for it."""
        while True:
            with self._lock:
                if not self._wanted:
                    self._loads = False
                    return
                name = next(iter(self._wanted))
                future = self._wanted.pop(name)
            self._load_start = time.monotonic()
            try:
                if name is None:
                    self._refresh_all()
                    future.set_result(None)
                else:
                    future.set_result(self._load_again(name))
            except CancelledError:  # by the engine, which has been closed
                future.set_exception(_say_closing())
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # must not end any other thread
                logger.critical("loading models failed", exc_info=error)
                message = f"Loading was interrupted by {type(error).__name__}."
                future.set_exception(ServiceError(503, "reload_failed", message, "Try again later."))
            finally:
                seconds = time.monotonic() - self._load_start
                self._load_start = None
            time.sleep(min(seconds, MOST_PAUSE_SECONDS))  # so that requests have half of the time

    def _load_again(self, name: str) -> tuple[ServedModel, bool]:
        try:
            path = self._list().get(name)
        except OSError as error:
            message = f"The models cannot be listed: {error.strerror}."
            raise ServiceError(503, "reload_failed", message, "Try again later.") from error
        if path is None:
            raise self._unknown(name)
        before, last = self._models.get(name), self._attempts.get(name)
        if before is not None and last is not None and last.served and last.stamp == stamp_checkpoint(path):
            return before, False
        if (failure := self._try(name, path)) is not None:
            message = f"{name} was not loaded: {explain_refusal(failure, path)}"
            status, hint = 409, "Fix the checkpoint's files and reload."
            if may_load_later(failure):
                status, hint = 503, "Try again later."
            if before is not None:
                hint = f"The previous version is still served. {hint}"
            raise ServiceError(status, "reload_failed", message, hint) from failure
        loaded = self._models[name]
        return loaded, before is None or loaded.version != before.version

    def _refresh_all(self) -> None:
        paths = self._list()
        if not paths and self._models:
            logger.error("%s contains no checkpoints any more; the previous models are still served", self._directory)
            return
        for name in self._attempts.keys() - paths.keys():
            del self._attempts[name]
            self._refuse(name, None)
            if name in self._models:
                logger.info("%s was removed and is no longer served", name)
                self._replace(name, None)
        for name, path in paths.items():
            attempt = self._attempts.get(name)
            again = attempt is not None and attempt.retry is not None and time.monotonic() >= attempt.retry
            if attempt is None or again or attempt.stamp != stamp_checkpoint(path):
                self._try(name, path)

    @property
    def _hint(self) -> str:
        return f"The available models are {', '.join(self._models)}."

    def _unknown(self, name: str) -> ServiceError:
        return ServiceError(404, "unknown_model", f"There is no model {name[:100]!r}.", self._hint)

    def _list(self) -> dict[str, Path]:
        """Directories of checkpoints by name, the default first.

        Raises:
            OSError: if the checkpoints cannot be listed.
        """
        paths = list_checkpoints(self._directory)
        return {name: paths[name] for name in sorted(paths, key=lambda name: (name != self._default, name))}

    def _try(self, name: str, path: Path) -> Exception | None:
        """Loads a model, unless it is already served. If that fails, returns the error and changes nothing else."""
        last = self._attempts.get(name)
        attempt = _Attempt(stamp_checkpoint(path))  # before the files are read, so that later changes are seen
        settled = all(map(is_settled, attempt.stamp.values()))
        try:
            self._load(name, path)
        except CancelledError:
            raise
        except Exception as error:
            reason = explain_refusal(error, path)
            if may_load_later(error):
                if last is not None and last.stamp == attempt.stamp:
                    attempt.delay = last.delay
                attempt.delay = min(2 * attempt.delay, LAST_RETRY_SECONDS)
                attempt.retry = time.monotonic() + attempt.delay
            expected = isinstance(error, CheckpointError | NotFiniteError) or may_load_later(error)
            logger.error("%s is refused: %s", escape(name), reason, exc_info=None if expected else error)
            if name not in self._models:
                self._refuse(name, reason)
            return error
        finally:
            self._attempts[name] = attempt
        attempt.served = settled
        self._refuse(name, None)
        return None

    def _load(self, name: str, path: Path) -> None:
        if (reason := check_name(name)) is not None:
            raise CheckpointError(path, f"its name {reason}")
        load = self._engine.load_sequences if is_sequence_checkpoint(path) else self._engine.load
        model: ServedModel = load(path, self._max_bytes)
        served = self._models.get(name)
        if served is not None and _describe(served) == _describe(model):
            return
        others = [other for other in self if other.name != model.name]
        check_size(path, model, others, self._engine.device, self._max_bytes)
        self._engine.warm_up(model)
        self._replace(name, model)
        logger.info("serving %s at version %s", name, model.version)

    def _refuse(self, name: str, reason: str | None) -> None:
        self._reasons.pop(name, None)
        if reason is not None:
            self._reasons[name] = reason
        self.refused = {escape(name): reason for name, reason in self._reasons.items()}

    def _replace(self, name: str, model: ServedModel | None) -> None:
        models = {other.name: other for other in self if other.name != name}
        old = self._models.get(name)
        self._models = self._sort(models if model is None else {**models, name: model})
        if isinstance(old, Model):
            self._engine.unload(old)

    def _sort(self, models: dict[str, ServedModel]) -> dict[str, ServedModel]:
        """Models by name, the default first."""
        return {name: models[name] for name in sorted(models, key=lambda name: (name != self._default, name))}


def _describe(model: ServedModel) -> tuple[object, ...]:
    """All that clients see of a model. Its version stands for every prediction, but not for the rest."""
    return model.version, model.metrics, model.examples if isinstance(model, Model) else ()


def _say_closing() -> ServiceError:
    return ServiceError(503, **CLOSING.model_dump())
