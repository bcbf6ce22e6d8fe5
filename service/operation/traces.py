"""Traces: a span for each request and for each of its stages, sent by OTLP over HTTP.

This module, and with it OpenTelemetry's SDK, is imported only if there is a collector. Its OTEL_… variables apply:
headers, sampling, the queue's size.
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
"""Most time to read both clocks. A longer time means that something else ran in between."""

FLUSH_SECONDS = 5
"""Longest wait for spans to be sent at the end."""


class Traces:
    """The traces of one app.

    Spans are sent from a separate thread. If that fails, up to 2,048 are kept, and further ones are dropped.
    """

    def __init__(self, endpoint: str | None) -> None:
        """Sends to the collector at an endpoint, such as http://127.0.0.1:4318, or in OTEL_EXPORTER_OTLP_ENDPOINT."""
        resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "hyperdraw")})
        exporter = OTLPSpanExporter(endpoint and f"{endpoint.rstrip('/')}/v1/traces")
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hyperdraw")

    @contextmanager
    def follow(self, exchange: Exchange) -> Iterator[None]:
        """Opens the span of a request, in the trace that its traceparent names. Log lines also name the trace."""
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
        """Adds a span of a stage that ends now, to the request of the context, if there is one."""
        parent = context.run(get_current)
        if not trace.get_current_span(parent).is_recording():
            return
        end, now = _read_clocks()
        began = end - round((now - start) * 1e9)
        attributes = {"hyperdraw.model": model}
        self._tracer.start_span(stage, parent, start_time=began, attributes=attributes).end(end)

    def close(self) -> None:
        """Sends the remaining spans, if that does not take long."""
        flush = threading.Thread(target=self._provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


def _read_clocks() -> tuple[int, float]:
    """Nanoseconds since 1970 and seconds of `time.perf_counter`, at the same moment."""
    while True:
        before, wall, after = time.perf_counter(), time.time_ns(), time.perf_counter()
        if after - before < CLOCKS_SECONDS:
            return wall, after
