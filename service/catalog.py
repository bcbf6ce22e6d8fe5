"""The models that a service offers: one for each checkpoint in a directory, replaced while it serves."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from models.checkpoint import Checkpoint, CheckpointError, name_checkpoint
from models.device import is_out_of_memory
from models.uncertainty import NotFiniteError
from service.engine import Engine
from service.ensembles import count_kept
from service.errors import ServiceError

logger = logging.getLogger(__name__)

MODEL_BYTES = 4 * 2**30
"""Memory that all models together may take."""

BYTES_PER_WEIGHT = 4


class ConfigurationError(Exception):
    """Settings that the service cannot start with; the message says which and why."""


class Catalog:
    """Loaded and warmed checkpoints by name, the default first, and what was refused.

    A checkpoint is loaded beside the one that it replaces, verified and warmed, and only then takes its place; one that
    cannot be loaded changes nothing. Requests keep the checkpoint that they began with. All methods may be called from
    any thread; those that load block until they are done, one after the other.
    """

    def __init__(self, directory: Path, engine: Engine, default: str | None, max_bytes: int = MODEL_BYTES) -> None:
        """Loads what there is.

        Args:
            directory: with a checkpoint in each subdirectory, or one itself.
            engine: that runs them.
            default: the name of the model that comes first; if None, the first one in alphabetical order.
            max_bytes: that all of them may take, by `count_bytes`.

        Raises:
            ConfigurationError: if nothing can be served, or there is no model by the name of the default.
        """
        if not directory.is_dir():
            raise ConfigurationError(f"{directory} is no directory; --checkpoints must name one that holds checkpoints")
        self.refused: dict[str, str] = {}
        """Why, by the checkpoint's name. Replaced as a whole, like the models; so nobody sees a part of a change."""
        self._directory = directory
        self._engine = engine
        self._default = default
        self._max_bytes = max_bytes
        self._models: dict[str, Checkpoint] = {}
        self._stamps: dict[str, object] = {}
        """Of the files that were loaded, or refused, last."""
        self._changing = threading.Lock()
        self.refresh()
        if not self._models:
            reasons = "; ".join(self.refused.values()) or "it holds no checkpoint"
            raise ConfigurationError(f"nothing to serve in {directory}: {reasons}")
        if default is not None and default not in self._models:
            raise ConfigurationError(f"the default model {default!r} is none of {', '.join(self._models)}")
        self._default = next(iter(self._models))  # whatever comes later

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._models.values())

    def find(self, name: str) -> Checkpoint:
        """A model by name.

        Raises:
            ServiceError: 404 if there is none, 503 if its checkpoint was refused.
        """
        if (checkpoint := self._models.get(name)) is not None:
            return checkpoint
        if (reason := self.refused.get(name)) is not None:
            raise ServiceError(503, "model_refused", f"{name} was not loaded: {reason}", self._hint)
        raise self._unknown(name)

    def reload(self, name: str) -> tuple[Checkpoint, bool]:
        """Loads a model from its files, also one that was not here before.

        Returns:
            the model as it is served now, and whether that is another version than before.

        Raises:
            ServiceError: 404 if there is no checkpoint by that name, 409 if it cannot be loaded.
        """
        with self._changing:
            path = self._list().get(name)
            if path is None:
                raise self._unknown(name)
            try:
                changed = self._load(name, path)
            except CheckpointError as error:
                hint = "What was served before is served still. Mend the checkpoint's files, then reload it again."
                raise ServiceError(409, "reload_failed", f"{name} was not loaded: {_explain(error)}", hint) from error
            return self._models[name], changed

    def refresh(self) -> None:
        """Loads what is new or has changed, and stops to serve what is gone, unless everything is.

        A checkpoint that is damaged is refused and logged; the others are served.
        """
        with self._changing:
            paths = self._list()
            if not paths and self._models:
                logger.error("%s holds no checkpoint any more; what was served is served still", self._directory)
                return
            for name in self._stamps.keys() - paths.keys():
                del self._stamps[name]
                self._refuse(name, None)
                if name in self._models:
                    logger.info("%s is gone, and served no more", name)
                    self._replace(name, None)
            for name, path in paths.items():
                if self._stamps.get(name) != _stamp(path):
                    try:
                        self._load(name, path)
                    except CheckpointError as error:
                        logger.error("refused: %s", error)

    @property
    def _hint(self) -> str:
        return f"The models here are {', '.join(self._models)}."

    def _unknown(self, name: str) -> ServiceError:
        return ServiceError(404, "unknown_model", f"There is no model {name[:100]!r}.", self._hint)

    def _list(self) -> dict[str, Path]:
        """Directories of checkpoints by name, the default first."""
        if (self._directory / "config.json").exists():
            return {name_checkpoint(self._directory): self._directory}
        paths = [path.parent for path in self._directory.glob("*/config.json") if not path.parent.name.startswith(".")]
        return {path.name: path for path in sorted(paths, key=lambda path: (path.name != self._default, path.name))}

    def _load(self, name: str, path: Path) -> bool:
        """Whether the model is another one now.

        Raises:
            CheckpointError: if it cannot be loaded, upon which nothing has changed.
        """
        self._stamps[name] = _stamp(path)  # before they are read, so that later changes are seen
        try:
            checkpoint = self._engine.load(path)
            served = self._models.get(name)
            if served is not None and served.version == checkpoint.version:
                return False
            self._check_memory(path, checkpoint)
            self._engine.warm_up(checkpoint)
        except Exception as error:
            if isinstance(error, CheckpointError):
                refusal = error
            elif isinstance(error, NotFiniteError):
                refusal = CheckpointError(path, str(error))
            elif is_out_of_memory(error):
                refusal = CheckpointError(path, "memory does not suffice for it")
            else:
                raise
            if name not in self._models:
                self._refuse(name, _explain(refusal))
            raise refusal from error
        self._refuse(name, None)
        self._replace(name, checkpoint)
        logger.info("serving %s at version %s", name, checkpoint.version)
        return True

    def _check_memory(self, path: Path, checkpoint: Checkpoint) -> None:
        others = sum(count_bytes(model) for model in self if model.name != checkpoint.name)
        if others + (own := count_bytes(checkpoint)) > self._max_bytes:
            reason = f"it takes {own / 2**20:.0f} MiB beside {others / 2**20:.0f} MiB of other models"
            raise CheckpointError(path, f"{reason}, more than the {self._max_bytes / 2**20:.0f} MiB allowed")

    def _refuse(self, name: str, reason: str | None) -> None:
        others = {other: why for other, why in self.refused.items() if other != name}
        self.refused = others if reason is None else {**others, name: reason}

    def _replace(self, name: str, checkpoint: Checkpoint | None) -> None:
        models = {**self._models, name: checkpoint}
        names = sorted(models, key=lambda name: (name != self._default, name))
        old = self._models.get(name)
        self._models = {name: model for name in names if (model := models[name]) is not None}
        if old is not None:
            self._engine.unload(old)


def count_bytes(checkpoint: Checkpoint) -> int:
    """Memory that a model takes while it is served: its sampler, and the networks that are kept of two ensembles, the
    one that answers and the next."""
    sampler: int = sum(tensor.nbytes for tensor in checkpoint.sampler.state_dict().values())
    return sampler + 2 * count_kept(checkpoint) * checkpoint.config.target.num_weights * BYTES_PER_WEIGHT


def _stamp(directory: Path) -> object:
    """Differs when a file of a checkpoint was replaced, or written again; None if they are being removed."""
    try:
        paths = [path for path in sorted(directory.iterdir()) if path.suffix in (".json", ".safetensors")]
        stats = {path.name: path.stat() for path in paths}
    except OSError:
        return None
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _explain(error: CheckpointError) -> str:
    """For clients, who learn no path of the server's."""
    return f"{error.path.name}: {error.reason}"
