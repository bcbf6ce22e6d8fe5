"""Where a service keeps and sends what it is told to: traces, logged predictions, watches and feedback.

Libraries that only these need are imported where the settings ask for them.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from models.feedback.labels import FeedbackError
from service.catalog import ConfigurationError
from service.feedback import Feedback
from service.recording.folder import FolderSink
from service.recording.log import Sink
from service.settings import Settings

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from service.operation.traces import Traces


def open_traces(settings: Settings) -> "Traces | None":
    """Opens traces if there is a collector for them."""
    variables = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    if settings.otlp_endpoint is None and not any(map(os.environ.get, variables)):
        return None
    from service.operation.traces import Traces

    return Traces(settings.otlp_endpoint)


def open_sink(settings: Settings) -> Sink | None:
    """Opens the folder or address that predictions are logged to, if they are.

    Raises:
        ConfigurationError: if the folder cannot be used, or inputs alone shall be logged.
    """
    if settings.prediction_log is None:
        if settings.log_inputs:
            raise ConfigurationError("--log-inputs adds inputs to a log; say where to with --prediction-log")
        return None
    destination = settings.prediction_log.get_secret_value()
    host = urlsplit(destination).hostname if "://" in destination else None
    try:
        sink = _connect(destination) if host else FolderSink(Path(destination), settings.prediction_log_bytes)
    except OSError as error:
        raise ConfigurationError(f"predictions cannot be logged to {destination}: {error.strerror}") from error
    inputs = "with" if settings.log_inputs else "without"
    logger.info("predictions are logged to %s, %s inputs", host or destination, inputs)
    return sink


def _connect(address: str) -> Sink:
    from service.recording.events import EventSink

    return EventSink(address)


def make_monitor_folder(settings: Settings) -> Path | None:
    """Makes the folder where watches survive a restart, unless it exists or none is set.

    Raises:
        ConfigurationError: if it cannot be made.
    """
    path = settings.monitor_folder
    try:
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{path} cannot be made; --monitor-folder must name a directory: {error.strerror}"
        raise ConfigurationError(reason) from error
    return path


def open_feedback(settings: Settings) -> Feedback | None:
    """Begins to keep answers until their labels arrive, if the settings say where.

    Raises:
        ConfigurationError: if they cannot be kept there.
    """
    if settings.feedback is None:
        return None
    from models.feedback.store import Store

    try:
        store = Store(settings.feedback.get_secret_value())
    except FeedbackError as error:
        raise ConfigurationError(str(error)) from error
    if settings.default_ensemble_size == "auto":
        logger.warning("answers of ensembles that grow can be labelled, but a model cannot be calibrated from them")
    return Feedback(store, settings.max_feedback_answers, settings.feedback_days)
