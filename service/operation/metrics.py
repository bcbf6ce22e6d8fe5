"""Metrics for Prometheus, at /metrics. Times are in seconds and entropies in nats; a cost is inputs × networks.

The number of series is bounded: labels are names of loaded checkpoints, the roles of their versions, and route
templates.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Literal, get_args

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from models.model import Model
from models.predictions.detection import Calibration
from models.predictions.prediction import Part
from models.tasks.classification import Classification
from models.tasks.regression import Regression
from service.admission import Admission
from service.catalog import Catalog
from service.engine.engine import Engine, ServedModel
from service.engine.observer import Observer, RequestOrigin
from service.feedback import Feedback
from service.monitoring.monitor import Monitor
from service.operation.access import KeyFile
from service.operation.feedback_metrics import FeedbackState
from service.operation.quotas import Quotas
from service.operation.quotas_metrics import QuotasState
from service.operation.versions_metrics import VersionsState
from service.recording.log import Outcome
from service.shadow import Shadow

Stage = Literal["queue", "decode", "backbone", "sampling", "forward", "serialise", "sequence"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SYMBOL_SECONDS = (0.0001, 0.00025, 0.0005, *SECONDS)
COSTS = tuple(4**power for power in range(10))
REQUESTS = tuple(2**power for power in range(8))
UNCERTAINTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5)
"""Buckets of quantities, finer around the thresholds of flags."""

StageListener = Callable[[Stage, str, float, Context], None]
"""Called at the end of a stage, with its name, the model's name, its start, and the context of the request."""


class ServiceMetrics(Observer):
    """The metrics of one app, each app with its own registry."""

    def __init__(self, listener: StageListener | None = None) -> None:
        self._listener = listener
        self._find_role: Callable[[ServedModel], str] = lambda _: "stable"
        """Names the version of a model."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.active_requests = Gauge("hyperdraw_active_requests", "Requests in progress.", registry=registry)
        self._request_seconds = Histogram(
            "hyperdraw_request_seconds",
            "Time from a request's head to the last byte of its answer.",
            ["route", "method", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self._requests = Counter("hyperdraw_requests", "Requests.", ["route", "status"], registry=registry)
        self._key_requests = Counter("hyperdraw_key_requests", "Requests with a key.", ["key"], registry=registry)
        self._cancelled = Counter(
            "hyperdraw_cancelled_requests",
            "Requests whose client left before the answer.",
            ["route"],
            registry=registry,
        )
        self._late = Counter(
            "hyperdraw_late_requests", "Requests that exceeded their time limit.", ["route"], registry=registry
        )
        self._refused = Counter(
            "hyperdraw_refused_requests", "Requests refused because the queue was full.", ["model"], registry=registry
        )
        self._stage_seconds = Histogram(
            "hyperdraw_stage_seconds",
            "Time of a stage. queue: from a request's submission to its first step; decode: decoding its images; "
            "backbone: running the pretrained network on some of its images; sampling: drawing a block of networks; "
            "forward: evaluating a block on a step's inputs, on CUDA including the rest of sampling; serialise: "
            "writing its answer; sequence: from a request's submission to the end of its sequence.",
            ["stage", "model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_requests = Histogram(
            "hyperdraw_batch_requests", "Requests in a batch.", buckets=REQUESTS, registry=registry
        )
        self._step_cost = Histogram("hyperdraw_step_cost", "Cost of a step.", buckets=COSTS, registry=registry)
        self._networks = Counter(
            "hyperdraw_networks_drawn",
            "Networks drawn, for predictions or ahead of them.",
            ["model"],
            registry=registry,
        )
        self._predictions = Counter("hyperdraw_predictions", "Inputs answered.", ["model", "role"], registry=registry)
        self._flags = Counter(
            "hyperdraw_flags",
            "Inputs flagged at the model's default budget of false alarms, whatever budget the request names.",
            ["model", "role", "flag"],
            registry=registry,
        )
        self._quantities = {
            name: Histogram(
                f"hyperdraw_{name}" + ("_nats" if quantity.unit == "nats" else ""),
                quantity.description,
                ["model"],
                buckets=UNCERTAINTIES,
                registry=registry,
            )
            for task in (Classification, Regression)
            for name, quantity in task.quantities.items()
            if quantity.monitored
        }
        logged = Counter(
            "hyperdraw_logged_predictions",
            "Records for the log of predictions. dropped: too many waited; failed: the disk or the receiver did not "
            "take them.",
            ["outcome"],
            registry=registry,
        )
        self._logged = {outcome: logged.labels(outcome) for outcome in get_args(Outcome)}  # counts from 0 on
        self._symbols = Counter(
            "hyperdraw_symbols", "Characters and points written or scored.", ["model"], registry=registry
        )
        self._first_symbol_seconds = Histogram(
            "hyperdraw_first_symbol_seconds",
            "Time from a request's submission to the first character of its answer.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._symbol_seconds = Histogram(
            "hyperdraw_symbol_seconds",
            "Time from one character of an answer to the next, as the mean of those that are sent together.",
            ["model"],
            buckets=SYMBOL_SECONDS,
            registry=registry,
        )
        self._weights_bytes = Counter(
            "hyperdraw_weights_sent_bytes", "Bytes of sampled weights sent.", ["model"], registry=registry
        )
        self._open_downloads = Gauge("hyperdraw_open_downloads", "Downloads of weights in progress.", registry=registry)

    def watch(
        self,
        engine: Engine,
        catalog: Catalog,
        monitor: Monitor,
        pixels: Admission,
        bodies: Admission,
        keys: KeyFile | None,
    ) -> None:
        """Adds the metrics that are read from these parts on each request for metrics."""
        self.registry.register(_State(engine, catalog, pixels, bodies, keys))
        self.registry.register(_Drift(monitor, catalog))

    def watch_feedback(self, catalog: Catalog, feedback: Feedback | None) -> None:
        """Adds the metrics of feedback, which are read on each request for metrics."""
        self.registry.register(FeedbackState(catalog, feedback))

    def watch_versions(self, catalog: Catalog, shadow: Shadow) -> None:
        """Adds the metrics of candidates, which are read on each request for metrics."""
        self._find_role = catalog.find_role
        self.registry.register(VersionsState(catalog, shadow))

    def watch_quotas(self, quotas: Quotas) -> None:
        """Adds the metrics of quotas, which are read on each request for metrics."""
        self.registry.register(QuotasState(quotas))

    def count_key(self, key: str) -> None:
        """Counts a request with a key."""
        self._key_requests.labels(key).inc()

    def write(self, accept: str | None) -> tuple[bytes, str]:
        """The current metrics and their media type: OpenMetrics if the Accept header asks for it, else plain text."""
        encode, media_type = choose_encoder(accept or "")
        return encode(self.registry), media_type

    def begin(self, model: str, origins: Sequence[RequestOrigin]) -> None:
        self._batch_requests.observe(len(origins))
        for origin in origins:
            self._end_stage("queue", model, origin.time, [origin.context])

    def extract(self, model: str, start: float, origins: Sequence[RequestOrigin]) -> None:
        self._end_stage("backbone", model, start, [origin.context for origin in origins])

    def draw(self, model: str, networks: int, start: float, origins: Sequence[RequestOrigin] = ()) -> None:
        self._networks.labels(model).inc(networks)
        self._end_stage("sampling", model, start, [origin.context for origin in origins])

    def evaluate(self, model: str, cost: int, start: float, origins: Sequence[RequestOrigin]) -> None:
        self._step_cost.observe(cost)
        self._end_stage("forward", model, start, [origin.context for origin in origins])

    def answer(self, model: Model, part: Part, calibration: Calibration | None) -> None:
        """Counts uncertainty and flags, which reveal drift. The flags are those of the default rate, or of the rate by
        whose rule the ensembles grew.

        For numbers, the uncertainty is the relative deviation. It has no bound, but has the same unit for all models,
        and raises their flag. The epistemic share of the variance would be near 1 for all inputs if there is little
        noise.
        """
        prediction, role = part.prediction, self._find_role(model)
        self._predictions.labels(model.name, role).inc(len(part.positions))
        for name, quantity in model.task.quantities.items():
            if quantity.monitored:
                _observe(self._quantities[name].labels(model.name), getattr(prediction.uncertainty, name))
        if calibration:
            for flag, judgement in calibration.judge_scores(part.scores, prediction.size).items():
                self._flags.labels(model.name, role, flag).inc(int(judgement.flagged.sum()))

    def hand_over(self, model: str, elements: int, last: float | None, origin: RequestOrigin) -> None:
        self._symbols.labels(model).inc(elements)
        now = time.perf_counter()
        if last is None:
            self._first_symbol_seconds.labels(model).observe(now - origin.time)
        else:
            self._symbol_seconds.labels(model).observe((now - last) / elements)

    def finish(self, model: str, origin: RequestOrigin) -> None:
        self._end_stage("sequence", model, origin.time, [origin.context])

    def refuse(self, model: str) -> None:
        self._refused.labels(model).inc()

    @contextmanager
    def time(self, stage: Stage, model: str) -> Iterator[None]:
        """Times a stage of the current request, unless it fails."""
        start = time.perf_counter()
        yield
        self._end_stage(stage, model, start, [copy_context()])

    def count_request(self, route: str, method: str, status: int, seconds: float, cancelled: bool) -> None:
        """Counts a request that has ended.

        Args:
            route: template of its route.
            method: HTTP method.
            status: status that was sent.
            seconds: duration.
            cancelled: whether its client left.
        """
        self._request_seconds.labels(route, method, str(status)).observe(seconds)
        self._requests.labels(route, str(status)).inc()
        if cancelled:
            self._cancelled.labels(route).inc()
        if status == 504:
            self._late.labels(route).inc()

    def count_logged(self, outcome: Outcome, records: int) -> None:
        """Counts records for the log of predictions."""
        self._logged[outcome].inc(records)

    async def follow_download(self, model: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Passes on the chunks of a weights file, and counts each after it is sent."""
        sent = self._weights_bytes.labels(model)
        with self._open_downloads.track_inprogress():
            async for chunk in chunks:
                yield chunk
                sent.inc(len(chunk))

    def _end_stage(self, stage: Stage, model: str, start: float, contexts: Sequence[Context]) -> None:
        self._stage_seconds.labels(stage, model).observe(time.perf_counter() - start)
        if self._listener:
            for context in contexts:
                self._listener(stage, model, start, context)


class _State:
    """Collector of the current state of the engine, the catalog, the queues and the keys."""

    def __init__(
        self, engine: Engine, catalog: Catalog, pixels: Admission, bodies: Admission, keys: KeyFile | None
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._pixels = pixels
        self._bodies = bodies
        self._keys = keys

    def collect(self) -> Iterable[GaugeMetricFamily]:
        engine, device = self._engine, self._engine.device
        gauges = {
            "hyperdraw_ready": ("Whether the device computes.", engine.fault is None and engine.stall is None),
            "hyperdraw_current_step_seconds": ("Time that the current step has taken so far.", engine.step_seconds),
            "hyperdraw_current_load_seconds": (
                "Time that loading the current model has taken so far.",
                self._catalog.load_seconds,
            ),
            "hyperdraw_keys_stale": (
                "Whether the current key file cannot be used.",
                self._keys is not None and self._keys.fault is not None,
            ),
            "hyperdraw_waiting_cost": ("Cost of the requests that wait.", engine.admission.amount),
            "hyperdraw_waiting_cost_limit": ("Waiting cost above which requests are refused.", engine.admission.limit),
            "hyperdraw_waiting_symbols": (
                "Characters and points × networks of live sequences that are still to come.",
                engine.streams.admission.amount,
            ),
            "hyperdraw_waiting_symbols_limit": (
                "Waiting characters × networks above which requests are refused.",
                engine.streams.admission.limit,
            ),
            "hyperdraw_waiting_pixels": ("Pixels that wait to be decoded.", self._pixels.amount),
            "hyperdraw_waiting_pixels_limit": ("Waiting pixels above which requests are refused.", self._pixels.limit),
            "hyperdraw_held_bytes": ("Bytes of request bodies in memory.", self._bodies.amount),
            "hyperdraw_held_bytes_limit": ("Bytes of bodies above which requests are refused.", self._bodies.limit),
        }
        if device.type == "cuda":
            gauges |= {
                "hyperdraw_cuda_allocated_bytes": ("CUDA memory of tensors.", torch.cuda.memory_allocated(device)),
                "hyperdraw_cuda_reserved_bytes": (
                    "CUDA memory held by PyTorch's allocator.",
                    torch.cuda.memory_reserved(device),
                ),
            }
        for name, (description, value) in gauges.items():
            yield GaugeMetricFamily(name, description, value=float(value))
        labels = ["model", "version", "method", "role"]
        models = GaugeMetricFamily("hyperdraw_model_info", "Versions of models that are served.", labels=labels)
        rates = GaugeMetricFamily("hyperdraw_false_alarm_rate", "Default false-alarm rate.", labels=["model"])
        for served in self._catalog.served.values():
            for role, each in served.roles.items():
                models.add_metric([each.name, each.version, each.method, role], 1)
        for model in self._catalog:
            if isinstance(model, Model) and model.calibration:
                rates.add_metric([model.name], model.calibration.default_rate)
        live = GaugeMetricFamily("hyperdraw_live_networks", "Live sequences × networks.", labels=["model"])
        for name, count in engine.streams.count().items():
            live.add_metric([name], count)
        yield from (models, rates, live)


class _Drift:
    """Collector of what the monitor knows."""

    def __init__(self, monitor: Monitor, catalog: Catalog) -> None:
        self._monitor = monitor
        self._catalog = catalog

    def collect(self) -> Iterable[GaugeMetricFamily]:
        labels = ["model", "flag"]
        martingales = GaugeMetricFamily(
            "hyperdraw_drift_log10", "Decimal logarithm of the martingale that reveals drift.", labels=labels
        )
        alarms = GaugeMetricFamily("hyperdraw_drift_alarm", "Whether a model's inputs have changed.", labels=labels)
        starts = GaugeMetricFamily(
            "hyperdraw_drift_watched_since_seconds", "Start of the watch, in seconds since 1970.", labels=labels
        )
        for model in self._catalog.predictors:
            known = self._monitor.find(model).read()
            for flag, state in known.flags.items():
                martingales.add_metric([model.name, flag], state.log10)
                alarms.add_metric([model.name, flag], state.alarm is not None)
                starts.add_metric([model.name, flag], known.since)
        return martingales, alarms, starts


def _observe(histogram: Histogram, values: torch.Tensor) -> None:
    for value in values.tolist():
        histogram.observe(value)
