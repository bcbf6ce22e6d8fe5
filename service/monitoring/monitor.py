"""The monitor: watches the streams of all models, as an observer of the engine."""

import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

from models.checkpoint_files import MAX_JSON_BYTES, CheckpointError, dump_json, parse_json, read_bounded, write_file
from models.model import Model
from models.predictions.prediction import Part
from service.engine.observer import Observer
from service.monitoring.state import WatchState
from service.monitoring.watch import Watch

SAVE_SECONDS = 30.0
"""Seconds between two times when the state is written."""

logger = logging.getLogger(__name__)


class Monitor(Observer):
    """Watches of models. A model that is loaded again has a new watch. All methods are thread-safe."""

    def __init__(self, level: float, folder: Path | None = None) -> None:
        """Begins without any watch.

        Args:
            level: δ, the probability of ever raising an alarm while nothing changes, for each model and flag.
            folder: directory where watches survive a restart, a file for each model; None for nowhere.
        """
        self.level = level
        self._folder = folder
        self._faults: dict[str, str] = {}
        """Why the watches over some models could not be kept last, by the models' names."""
        self._lock = threading.Lock()
        self._watches: WeakKeyDictionary[Model, Watch] = WeakKeyDictionary()

    def measure(self, model: Model, part: Part, seed: int) -> None:
        self.find(model).add(part, seed)

    def find(self, model: Model) -> Watch:
        """The watch over a model, which begins now if there was none."""
        with self._lock:
            if (watch := self._watches.get(model)) is None:
                watch = self._watches[model] = Watch(model, self.level)
            return watch

    def reset(self, model: Model) -> Watch:
        """Begins a new watch over a model."""
        with self._lock:
            self._watches.pop(model, None)
        return self.find(model)

    def resume(self, models: Iterable[Model]) -> None:
        """Goes on with the watches whose state was kept. What does not fit is logged and left out."""
        if self._folder is None:
            return
        for model in models:
            path = self._folder / f"{model.name}.json"
            if not path.exists():
                continue
            try:
                state = parse_json(path, read_bounded(path, MAX_JSON_BYTES), WatchState)
                watch = Watch(model, self.level, state)
            except (CheckpointError, ValueError) as error:
                logger.warning("the watch over %s begins anew, as %s cannot be used: %s", model.name, path, error)
                continue
            with self._lock:
                self._watches[model] = watch

    def save(self, models: Iterable[Model]) -> None:
        """Writes the state of the watches over some models. Failures are logged when they are new."""
        if self._folder is None:
            return
        for model in models:
            path = self._folder / f"{model.name}.json"
            try:
                self._folder.mkdir(parents=True, exist_ok=True)  # it may have been removed
                if path.exists() and not path.is_file():  # writing to a pipe would wait for a reader
                    raise OSError(f"{path} is not a regular file")
                write_file(path, dump_json(self.find(model).read()))
                self._faults.pop(model.name, None)
            except OSError as error:
                if self._faults.get(model.name) != str(error):
                    logger.error("the watch over %s cannot be kept: %s", model.name, error)
                self._faults[model.name] = str(error)
