"""The loader makes the versions of a model ready to be served, beside all that is served already."""

from collections.abc import Collection
from concurrent.futures import CancelledError
from pathlib import Path

from models.checkpoint_files import CheckpointError
from models.foreign_files import Stamp, is_settled
from models.model import Model
from models.sequences.checkpoint import is_sequence_checkpoint
from service.checkpoint_files import stamp_checkpoint
from service.engine.engine import Engine, ServedModel
from service.sizes import check_size
from service.versions import Served, Versions, find_difference


class Loader:
    """Loads, verifies and warms up versions. It is for one thread."""

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        """Args:
        engine: the engine that runs the models.
        max_bytes: most memory for all models together, by `count_bytes`.
        """
        self._engine = engine
        self._max_bytes = max_bytes
        self._contents: dict[Path, dict[str, Stamp]] = {}
        """Stamps of the files whose content the loaded versions certainly have, by their directories."""

    def load(
        self, name: str, folder: Path, versions: Versions, before: Served | None, others: Collection[ServedModel]
    ) -> tuple[Served | None, dict[str, Exception]]:
        """Loads versions of a model, unless they are loaded. One that cannot be loaded again stays as it was.

        Args:
            name: name of the model.
            folder: its directory.
            versions: the versions.
            before: the versions that were loaded before, if any.
            others: all other models that are served.

        Returns:
            What can be served, or None if the stable version cannot be; and what failed, by the version's folder.
        """
        loaded = before.models if before else {}
        models: dict[str, ServedModel] = {}
        failures: dict[str, Exception] = {}
        for version in versions.loaded:
            path, old, beside = folder / version, loaded.get(version), [*others, *models.values()]
            stable = models.get(versions.stable)
            try:
                models[version] = self._renew(name, path, old, stable, beside)
            except CancelledError:
                raise
            except Exception as error:
                failures[version] = error
                if old is not None and self._find_obstacle(path, old, stable, beside) is None:
                    models[version] = old
                elif stable is None:
                    return None, failures
        for version in loaded.keys() - models.keys():
            self._contents.pop(folder / version, None)
        return Served(versions, models), failures

    def unload(self, dropped: Served | None, kept: Served | None) -> None:
        """Frees what is kept for versions that are not served any more."""
        for model in dropped.models.values() if dropped else ():
            if isinstance(model, Model) and (kept is None or model not in kept.models.values()):
                self._engine.unload(model)

    def _renew(
        self,
        name: str,
        path: Path,
        old: ServedModel | None,
        stable: ServedModel | None,
        beside: Collection[ServedModel],
    ) -> ServedModel:
        """The version in a directory, which is read unless the old one certainly has its content."""
        stamp, model = stamp_checkpoint(path), old  # before the files are read, so that later changes are seen
        settled = all(map(is_settled, stamp.values()))
        if model is None or self._contents.get(path) != stamp:
            load = self._engine.load_sequences if is_sequence_checkpoint(path) else self._engine.load
            model = load(path, self._max_bytes).rename(name)
            if old is not None and _describe(old) == _describe(model):
                model = old
        if (obstacle := self._find_obstacle(path, model, stable, beside)) is not None:
            raise obstacle
        if model is not old:
            self._engine.warm_up(model)
        self._contents.pop(path, None)
        if settled:
            self._contents[path] = stamp
        return model

    def _find_obstacle(
        self, path: Path, model: ServedModel, stable: ServedModel | None, beside: Collection[ServedModel]
    ) -> CheckpointError | None:
        """The reason why a version cannot be served beside others, one of which may be the stable one."""
        if stable is not None and (difference := find_difference(stable, model)) is not None:
            return CheckpointError(path, f"it {difference}")
        try:
            check_size(path, model, beside, self._engine.device, self._max_bytes)
        except CheckpointError as error:
            return error
        return None


def _describe(model: ServedModel) -> tuple[object, ...]:
    """All that clients see of a model. Its version stands for every prediction, but not for the rest."""
    return model.version, model.metrics, model.examples if isinstance(model, Model) else ()
