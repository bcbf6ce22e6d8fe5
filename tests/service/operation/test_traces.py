"""Spans, as a collector receives them."""

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider

import service.operation.traces
from service.app import create_app
from service.operation.logs import make_formatter
from service.settings import Settings
from tests.conftest import serve
from tests.pictures import draw_image, encode
from tests.waiting import PATIENCE

PREDICT = "/v1/models/digits/predict"
PICTURE = encode(draw_image(size=(8, 8)))
STAGES = {"queue", "decode", "sampling", "forward", "serialise"}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Stands in for an OpenTelemetry collector: receives OTLP over HTTP, and keeps the spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.asked = threading.Event()
        self.answers = threading.Event()
        """Whether it answers, from now on."""
        self.answers.set()
        self.exports: list[ExportTraceServiceRequest] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[Span]:
        scopes = [scope for export in self.exports for part in export.resource_spans for scope in part.scope_spans]
        return [span for scope in scopes for span in scope.spans]


class CollectorHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        assert isinstance(self.server, Collector)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.exports.append(ExportTraceServiceRequest.FromString(content))
        self.server.asked.set()
        self.server.answers.wait()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """One that has all spans once the service has ended."""
    monkeypatch.setattr(service.operation.traces, "FLUSH_SECONDS", PATIENCE)
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=[0.01])
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def attributes(span: Span) -> dict[str, str | int]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def test_a_request_and_its_stages(checkpoints: Path, collector: Collector) -> None:
    log, app = io.StringIO(), create_app(Settings(checkpoints=checkpoints, otlp_endpoint=collector.endpoint))
    handler = logging.StreamHandler(log)
    handler.setFormatter(make_formatter("json"))
    logger = logging.getLogger("service")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with serve(app) as address:
        answer = httpx.post(f"{address}{PREDICT}?seed=7", files={"images": PICTURE}, headers=headers)
        assert answer.status_code == 200
        assert httpx.get(f"{address}/v1/models/bert").status_code == 404
        assert httpx.post(f"{address}{PREDICT}", headers={"X-Request-Timeout": "nan"}).status_code == 422
    logger.removeHandler(handler)
    logger.setLevel("NOTSET")

    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    root = spans.pop("POST /v1/models/{model}/predict")
    assert root.parent_span_id.hex() == PARENT
    assert root.kind == Span.SPAN_KIND_SERVER
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/models/{model}/predict",
        "url.path": PREDICT,
        "http.response.status_code": 200,
    }
    assert set(spans) == STAGES
    for span in spans.values():
        assert span.parent_span_id == root.span_id
        assert attributes(span) == {"hyperdraw.model": "digits"}
        slack = 1_000_000  # nanoseconds, as times are taken by two clocks
        assert root.start_time_unix_nano - slack <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano + slack
    order = sorted(spans.values(), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in order] == ["decode", "queue", "sampling", "forward", "serialise"]
    others = [span for span in collector.spans if span.trace_id.hex() != TRACE]
    assert {span.name for span in others} == {"GET /v1/models/{model}", "POST /v1/models/{model}/predict"}
    assert {attributes(span)["http.response.status_code"] for span in others} == {404, 422}
    traces = [json.loads(line)["trace_id"] for line in log.getvalue().splitlines()]
    assert traces[0] == TRACE
    assert sorted(traces[1:]) == sorted(span.trace_id.hex() for span in others)


def test_the_standard_variable_and_failures(
    checkpoints: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    app = create_app(Settings(checkpoints=checkpoints))

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(app.state.engine, "predict", fail)
    with serve(app) as address:
        assert httpx.post(f"{address}{PREDICT}", files={"images": PICTURE}).status_code == 500
    assert {span.name: span.status.code for span in collector.spans} == {
        "POST /v1/models/{model}/predict": Status.STATUS_CODE_ERROR,
        "decode": Status.STATUS_CODE_UNSET,
    }
    (resource,) = [part.resource for export in collector.exports for part in export.resource_spans]
    assert "ours" in {a.value.string_value for a in resource.attributes if a.key == "service.name"}


def test_a_trace_that_is_not_sampled_is_not_sent(checkpoints: Path, collector: Collector) -> None:
    with serve(create_app(Settings(checkpoints=checkpoints, otlp_endpoint=collector.endpoint))) as address:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        assert httpx.post(f"{address}{PREDICT}", files={"images": PICTURE}, headers=headers).status_code == 200
    assert collector.spans == []


def test_a_collector_that_is_away_costs_no_answer(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.operation.traces, "FLUSH_SECONDS", 0.2)
    with serve(create_app(Settings(checkpoints=checkpoints, otlp_endpoint="http://127.0.0.1:1"))) as address:
        assert httpx.post(f"{address}{PREDICT}", files={"images": PICTURE}).status_code == 200


def test_a_collector_that_does_not_answer_holds_up_neither_requests_nor_the_end(
    checkpoints: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.operation.traces, "FLUSH_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")  # milliseconds
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    collector.answers.clear()
    shutdown, sent = TracerProvider.shutdown, threading.Event()

    def shut_down(provider: TracerProvider) -> None:
        shutdown(provider)
        sent.set()

    monkeypatch.setattr(TracerProvider, "shutdown", shut_down)
    with serve(create_app(Settings(checkpoints=checkpoints, otlp_endpoint=collector.endpoint))) as address:
        for _ in range(2):
            assert httpx.post(f"{address}{PREDICT}", files={"images": PICTURE}).status_code == 200
            assert collector.asked.wait(PATIENCE)
    assert not sent.is_set()
    collector.answers.set()
    assert sent.wait(PATIENCE)


def test_who_wants_no_traces_need_not_load_them(checkpoints: Path) -> None:
    """Nor PyTorch's compiler, which takes a second."""
    code = (
        "import sys; from service.app import create_app; from service.settings import Settings; "
        f"create_app(Settings(checkpoints={str(checkpoints)!r})); "
        "spared = 'opentelemetry.sdk', 'opentelemetry.exporter', 'torch._dynamo'; "
        "assert not [name for name in sys.modules if name.startswith(spared)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
