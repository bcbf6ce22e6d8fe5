"""The catalog of the models in a directory, which are loaded and replaced while the service runs."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from models.checkpoint_files import CheckpointError
from models.foreign_files import Stamp
from models.model import Model
from models.sequences.model import SequenceModel
from models.tasks.probabilities import NotFiniteError
from service.checkpoint_files import (
    VERSIONS_FILE,
    explain_refusal,
    list_checkpoints,
    may_load_later,
    stamp_model,
)
from service.engine.engine import Engine, ServedModel
from service.errors import ServiceError
from service.load_queue import LoadQueue
from service.loader import Loader
from service.names import check_name, escape
from service.versions import ITSELF, Role, Served, Versions, find_difference, read_versions, write_versions

logger = logging.getLogger(__name__)

MODEL_BYTES = 4 * 2**30
"""Most memory for all models together, in bytes."""

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 300.0
"""First and longest time before files are retried after a temporary error. The time doubles with each attempt."""

Change = Callable[[Versions], Versions]
"""A change of a model's versions. It may raise a `ServiceError`."""


class ConfigurationError(Exception):
    """Settings with which the service cannot start; the message says which and why."""


@dataclass
class _Attempt:
    """An attempt to load the versions of a model."""

    stamp: dict[str, Stamp]
    """Stamps of its files, taken before they were read."""
    folders: tuple[str, ...] = ()
    """Folders of the versions."""
    retry: float | None = None
    """Time of the next attempt with the same files, on the monotonic clock, if any."""
    delay: float = FIRST_RETRY_SECONDS / 2
    """Seconds until the next attempt."""


class Catalog:
    """Loaded and warmed-up models by name, the default first, and those that were refused.

    A model is loaded beside the one that it replaces, verified and warmed up, and only then takes its place. If that
    fails, nothing changes. Requests keep the model that they began with. Of a model, two versions may be loaded; where
    none is named, the stable one is meant. All methods are thread-safe. One thread loads the models, one after the
    other.
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
        """Reasons of refusals, by the escaped name, which names of other versions follow after a slash. Replaced as a
        whole, so that readers see no partial change."""
        self._reasons: dict[tuple[str, str | None], str] = {}
        """Reasons of refusals, by the actual name, and the folder of a version if another one is served."""
        self._directory = directory
        self._default = default
        self.served: dict[str, Served] = {}
        """What is served, by the model's name, the default first. Replaced as a whole, too."""
        self._roles: WeakKeyDictionary[ServedModel, Role] = WeakKeyDictionary()
        """The last role of each model."""
        self._attempts: dict[str, _Attempt] = {}
        """The last attempt for each existing name."""
        self._loader = Loader(engine, max_bytes)
        self._load_queue = LoadQueue(lambda: engine.fault is not None)
        try:
            self.refresh()
        except OSError as error:
            raise ConfigurationError(f"{directory} cannot be read: {error.strerror}") from error
        except ServiceError as error:
            raise ConfigurationError(f"nothing can be loaded: {engine.fault or error}") from error
        if not self.served:
            reasons = "; ".join(self.refused.values()) or "it contains no checkpoint"
            raise ConfigurationError(f"there is nothing to serve in {directory}: {reasons}")
        if default is None:
            first = next(iter(self))
            self._default = next(iter(self.predictors), first).name  # also when other models come later
            self.served = self._sort(self.served)
        elif default in self.refused:
            logger.error("the default model %s is refused; %s takes its place", default, next(iter(self.served)))
        elif default not in self.served:
            names = ", ".join(self.served)
            raise ConfigurationError(f"there is no model {default!r} to be the default; there are {names}")

    def __iter__(self) -> Iterator[ServedModel]:
        return (served.stable for served in self.served.values())

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
        """Finds a model by name, and a version of it by its digest or name.

        Raises:
            ServiceError: 404 for an unknown model or version, 503 if the checkpoint was refused.
        """
        served = self.find_versions(name)
        if version is None:
            return served.stable
        if (model := served.find(version)) is not None:
            return model
        folder = next((own for role, own in served.versions.list_roles().items() if role == version), None)
        if (reason := self._reasons.get((name, folder))) is not None:
            raise ServiceError(503, "model_refused", f"The {version} of {name} was not loaded: {reason}", self._hint)
        known = " and ".join(f"{model.version} ({role})" for role, model in served.roles.items())
        raise ServiceError(404, "unknown_version", f"Version {version[:100]!r} is not served.", f"{name} has {known}.")

    def find_versions(self, name: str) -> Served:
        """Finds the versions of a model.

        Raises:
            ServiceError: 404 for an unknown model, 503 if the checkpoint was refused.
        """
        if (served := self.served.get(name)) is None:
            if (reason := self.refused.get(name)) is not None:
                raise ServiceError(503, "model_refused", f"{name} was not loaded: {reason}", self._hint)
            raise self._unknown(name)
        return served

    def find_role(self, model: ServedModel) -> Role:
        """The name of a model's version, or the last one that it had."""
        return self._roles.get(model, "stable")

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
        return self._load_queue.want(name, lambda: self._load_again(name))

    def request_change(self, name: str, change: Change) -> "Future[Served]":
        """Starts to change a model's versions: in its folder, and here. The future cannot be cancelled.

        The future raises a `ServiceError`: what the change raises, 404 if there is no such model, 409 if a version
        cannot be loaded or `versions.json` cannot be used or written. Then nothing changes.
        """
        return self._load_queue.want((name, change), lambda: self._change(name, change))

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
        return self._load_queue.want(None, self._refresh_all)

    @property
    def load_seconds(self) -> float:
        """Seconds that the current load has run; 0 if there is none."""
        return self._load_queue.seconds

    def close(self) -> None:
        """Starts no further loads. The current one ends with the engine."""
        self._load_queue.close()

    def _load_again(self, name: str) -> tuple[ServedModel, bool]:
        folder, before = self._find_folder(name), self.served.get(name)
        for version, error in self._try(name, folder).items():
            raise self._explain(name, folder, version, error) from error
        loaded = self.served[name].stable
        return loaded, before is None or loaded.version != before.stable.version

    def _explain(self, name: str, folder: Path, version: str, error: Exception) -> ServiceError:
        """The answer to who asked for a version that cannot be loaded."""
        message = f"{name} was not loaded: {explain_refusal(error, folder, version)}"
        status, hint = 409, "Fix the checkpoint's files and try again."
        if may_load_later(error):
            status, hint = 503, "Try again later."
        if name in self.served:
            hint = f"What was served before is still served. {hint}"
        return ServiceError(status, "reload_failed", message, hint)

    def _refresh_all(self) -> None:
        folders = self._list()
        if not folders and self.served:
            logger.error("%s contains no checkpoints any more; what was served before is still served", self._directory)
            return
        for name in self._attempts.keys() - folders.keys():
            del self._attempts[name]
            self._refuse(name, {})
            if name in self.served:
                logger.info("%s was removed and is no longer served", name)
                self._replace(name, None)
        for name, folder in folders.items():
            attempt = self._attempts.get(name)
            again = attempt is not None and attempt.retry is not None and time.monotonic() >= attempt.retry
            if attempt is None or again or attempt.stamp != stamp_model(folder, attempt.folders):
                self._try(name, folder)

    def _change(self, name: str, change: Change) -> Served:
        folder, before = self._find_folder(name), self.find_versions(name)
        try:
            versions = read_versions(folder)
        except (CheckpointError, OSError) as error:
            raise self._explain(name, folder, VERSIONS_FILE, error) from error
        wanted = change(versions)
        attempt = _Attempt(stamp_model(folder, wanted.loaded), wanted.loaded)
        served, failures = self._load(name, folder, wanted)
        promoted = None if served is None or served.stable is before.stable else served.stable
        if promoted is not None and (difference := find_difference(before.stable, promoted)) is not None:
            failures[wanted.stable] = CheckpointError(folder / wanted.stable, f"it {difference}")
        try:
            for version in wanted.list_chosen(versions) if served else [wanted.stable]:
                if version in failures:
                    raise self._explain(name, folder, version, failures[version])
            if wanted != versions:
                write_versions(name, folder, wanted)
        except ServiceError:
            self._loader.unload(served, before)
            raise
        assert served is not None
        attempt.stamp |= stamp_model(folder, ())
        self._note(name, folder, attempt, served, failures)
        return served

    @property
    def _hint(self) -> str:
        return f"The available models are {', '.join(self.served)}."

    def _unknown(self, name: str) -> ServiceError:
        return ServiceError(404, "unknown_model", f"There is no model {name[:100]!r}.", self._hint)

    def _find_folder(self, name: str) -> Path:
        """The directory of a model.

        Raises:
            ServiceError: 404 if there is none, 503 if the models cannot be listed.
        """
        try:
            folder = self._list().get(name)
        except OSError as error:
            message = f"The models cannot be listed: {error.strerror}."
            raise ServiceError(503, "reload_failed", message, "Try again later.") from error
        if folder is None:
            raise self._unknown(name)
        return folder

    def _list(self) -> dict[str, Path]:
        """Directories of models by name, the default first.

        Raises:
            OSError: if the checkpoints cannot be listed.
        """
        paths = list_checkpoints(self._directory)
        return {name: paths[name] for name in sorted(paths, key=lambda name: (name != self._default, name))}

    def _try(self, name: str, folder: Path) -> dict[str, Exception]:
        """Loads a model's versions, unless they are already served. Returns what failed, by the version's folder, or by
        the name of `versions.json`. If that is the stable version, nothing else changes."""
        attempt = _Attempt(stamp_model(folder, ()))  # before the files are read, so that later changes are seen
        served, failures = None, dict[str, Exception]()
        try:
            if (reason := check_name(name)) is not None:
                raise CheckpointError(folder, f"its name {reason}")
            versions = read_versions(folder)
        except (CheckpointError, OSError) as error:
            failures[VERSIONS_FILE] = error
        else:
            attempt.folders = versions.loaded
            attempt.stamp = stamp_model(folder, versions.loaded) | attempt.stamp
            served, failures = self._load(name, folder, versions)
        self._note(name, folder, attempt, served, failures)
        return failures

    def _load(self, name: str, folder: Path, versions: Versions) -> tuple[Served | None, dict[str, Exception]]:
        others = [model for other, served in self.served.items() if other != name for model in served.models.values()]
        return self._loader.load(name, folder, versions, self.served.get(name), others)

    def _note(
        self, name: str, folder: Path, attempt: _Attempt, served: Served | None, failures: Mapping[str, Exception]
    ) -> None:
        """Notes the end of an attempt: what is served now, if that changes, and what failed."""
        last = self._attempts.get(name)
        self._attempts[name] = attempt
        if served is not None:
            self._replace(name, served)
        known = self.served[name].models if name in self.served else None
        reasons: dict[str | None, str] = {}
        for version, error in failures.items():
            reason = explain_refusal(error, folder, version)
            if may_load_later(error):
                if last is not None and last.stamp == attempt.stamp:
                    attempt.delay = last.delay
                attempt.delay = min(2 * attempt.delay, LAST_RETRY_SECONDS)
                attempt.retry = time.monotonic() + attempt.delay
            expected = isinstance(error, CheckpointError | NotFiniteError) or may_load_later(error)
            refused = escape(name if known is None or version == ITSELF else f"{name}/{version}")
            logger.error("%s is refused: %s", refused, reason, exc_info=None if expected else error)
            if known is None or version not in known:
                reasons[None if known is None else version] = reason
        self._refuse(name, reasons)

    def _refuse(self, name: str, reasons: dict[str | None, str]) -> None:
        """Replaces the reasons of a model's refusals, by the folder of a version if another one is served."""
        others = {key: reason for key, reason in self._reasons.items() if key[0] != name}
        self._reasons = others | {(name, version): reason for version, reason in reasons.items()}
        self.refused = {
            escape(name if version is None else f"{name}/{version}"): reason
            for (name, version), reason in self._reasons.items()
        }

    def _replace(self, name: str, served: Served | None) -> None:
        before = self.served.get(name)
        others = {other: served for other, served in self.served.items() if other != name}
        for role, model in served.roles.items() if served else ():
            self._roles[model] = role
            if before is None or before.roles.get(role) is not model:
                logger.info("serving %s at version %s as %s", name, model.version, role)
        self.served = self._sort(others if served is None else {**others, name: served})
        self._loader.unload(before, served)

    def _sort(self, served: dict[str, Served]) -> dict[str, Served]:
        """Models by name, the default first."""
        return {name: served[name] for name in sorted(served, key=lambda name: (name != self._default, name))}
