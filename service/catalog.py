"""The models that a service offers: one for each checkpoint in a directory."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from models.checkpoint import Checkpoint, CheckpointError
from models.uncertainty import NotFiniteError
from service.engine import Engine
from service.errors import ServiceError

logger = logging.getLogger(__name__)


class ConfigurationError(Exception):
    """Settings that the service cannot start with; the message says which and why."""


@dataclass
class Catalog:
    """Loaded and warmed checkpoints by name, the default first, and what was refused."""

    models: dict[str, Checkpoint] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Why, by the checkpoint's name."""

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.models.values())

    def find(self, name: str) -> Checkpoint:
        """A model by name.

        Raises:
            ServiceError: 404 if there is none, 503 if its checkpoint was refused.
        """
        if name in self.models:
            return self.models[name]
        if name in self.refused:
            raise ServiceError(503, "model_refused", f"{name} was not loaded: {self.refused[name]}", _hint(self))
        raise ServiceError(404, "unknown_model", f"There is no model {name[:100]!r}.", _hint(self))


def load_catalog(directory: Path, default: str | None, engine: Engine) -> Catalog:
    """Loads every checkpoint in a directory, or the one that the directory is.

    A checkpoint that is damaged is refused and logged; the others are served.

    Raises:
        ConfigurationError: if nothing can be served, or there is no model by the name of the default.
    """
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is no directory; --checkpoints must name one that holds checkpoints")
    if (directory / "config.json").exists():
        paths = [directory]
    else:
        paths = sorted(path.parent for path in directory.glob("*/config.json") if not path.parent.name.startswith("."))
    catalog = Catalog()
    for path in paths:
        try:
            checkpoint = engine.load(path)
            _warm_up(checkpoint, path, engine)
            catalog.models[checkpoint.name] = checkpoint
        except CheckpointError as error:
            logger.error("refused: %s", error)
            catalog.refused[path.resolve().name] = f"{error.path.name}: {error.reason}"  # clients learn no server path
    if not catalog.models:
        reasons = "; ".join(catalog.refused.values()) or "it holds no checkpoint"
        raise ConfigurationError(f"nothing to serve in {directory}: {reasons}")
    if default is not None:
        if default not in catalog.models:
            raise ConfigurationError(f"the default model {default!r} is none of {', '.join(catalog.models)}")
        catalog.models = {default: catalog.models[default], **catalog.models}
    return catalog


def _warm_up(checkpoint: Checkpoint, path: Path, engine: Engine) -> None:
    try:
        engine.warm_up(checkpoint)
    except NotFiniteError as error:
        raise CheckpointError(path, str(error)) from error


def _hint(catalog: Catalog) -> str:
    return f"The models here are {', '.join(catalog.models)}."
