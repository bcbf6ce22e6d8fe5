"""Traces: a span for each request and one for each stage of it, sent by OTLP over HTTP.

Only an app that is told where to send them imports this module, and OpenTelemetry's SDK with it. What that reads from
OTEL_… variables holds: headers, sampling, the queue's size.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context

from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bound_contextvars

from service.operation.metrics import Stage
from service.operation.middleware import Exchange

CLOCKS_SECONDS = 1e-4
"""That reading both clocks takes, or else another thread or process came between."""

FLUSH_SECONDS = 5
"""That the end waits for spans to be sent."""


class Traces:
    """The traces of one app.

    Spans are sent from a thread of their own. If they cannot be, up to 2,048 are kept, and further ones dropped.
    """

    def __init__(self, endpoint: str | None) -> None:
        """To the collector at an endpoint, such as http://127.0.0.1:4318, or the one in OTEL_EXPORTER_OTLP_ENDPOINT."""
        resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "hyperdraw")})
        exporter = OTLPSpanExporter(endpoint and f"{endpoint.rstrip('/')}/v1/traces")
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hyperdraw")

    @contextmanager
    def follow(self, exchange: Exchange) -> Iterator[None]:
        """A span of a request, within the trace that its traceparent names; log lines name the trace, too."""
        parent = TraceContextTextMapPropagator().extract(exchange.headers)
        with self._tracer.start_as_current_span(exchange.method, parent, trace.SpanKind.SERVER) as span:
            try:
                with bound_contextvars(trace_id=trace.format_trace_id(span.get_span_context().trace_id)):
                    yield
            finally:
                span.update_name(f"{exchange.method} {exchange.route}")
                span.set_attribute("http.request.method", exchange.method)
                span.set_attribute("http.route", exchange.route)
                span.set_attribute("url.path", exchange.scope["path"])
                span.set_attribute("http.response.status_code", exchange.status)
                if exchange.status >= 500:
                    span.set_status(trace.StatusCode.ERROR)

    def add_stage(self, stage: Stage, model: str, start: float, context: Context) -> None:
        """A span of a stage that ends now, for the request whose context it is; none if there is no request."""
        parent = context.run(get_current)
        if not trace.get_current_span(parent).is_recording():
            return
        end, now = _read_clocks()
        began = end - round((now - start) * 1e9)
        attributes = {"hyperdraw.model": model}
        self._tracer.start_span(stage, parent, start_time=began, attributes=attributes).end(end)

    def close(self) -> None:
        """Sends what has not been sent, if that can be done soon."""
        flush = threading.Thread(target=self._provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


def _read_clocks() -> tuple[int, float]:
    """Nanoseconds since 1970 and seconds of `time.perf_counter` at one moment, between which nothing else has run."""
    while True:
        before, wall, after = time.perf_counter(), time.time_ns(), time.perf_counter()
        if after - before < CLOCKS_SECONDS:
            return wall, after
