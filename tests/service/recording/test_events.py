"""Events as a receiver gets them, read by the SDK of CloudEvents."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event
from cloudevents.core.v1.event import CloudEvent

import service.recording.events
from service.recording.events import REQUEST, RESPONSE, EventSink
from tests.service.recording.records import make_record


class Receiver(ThreadingHTTPServer):
    """Receives events in the binary content mode, and keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ReceiverHandler)
        self.statuses: list[int] = []
        """Statuses of the next answers; then 202."""
        self.attempts = 0
        self.answers = threading.Event()
        """Whether it answers, from now on."""
        self.answers.set()
        self.events: list[CloudEvent] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/events"


class ReceiverHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections

    def do_POST(self) -> None:
        receiver = self.server
        assert isinstance(receiver, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver.attempts += 1
        receiver.answers.wait()
        status = receiver.statuses.pop(0) if receiver.statuses else 202
        if status == 202:
            event = from_binary_event(HTTPMessage(dict(self.headers), body))  # raises unless it is valid
            assert isinstance(event, CloudEvent)
            receiver.events.append(event)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=[0.01])
        thread.start()
        yield receiver
        receiver.answers.set()
        receiver.shutdown()
        thread.join()


@pytest.fixture
def sink(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventSink]:
    monkeypatch.setattr(service.recording.events, "RETRY_SECONDS", (0.01, 0.01, 0.01))
    sink = EventSink(receiver.address)
    yield sink
    sink.close()


def test_an_event_has_the_attributes_of_kserve(sink: EventSink, receiver: Receiver) -> None:
    records = [make_record(index, model='große "Ziffern"', request_id="a:b-1") for index in range(2)]
    sink.write(records)
    (event,) = receiver.events
    assert event.get_type() == RESPONSE == "org.kubeflow.serving.inference.response"
    assert event.get_id() == "a:b-1"
    assert event.get_source() == "/v1/models/gro%C3%9Fe%20%22Ziffern%22/predictions"
    assert event.get_time() == records[0].time
    assert event.get_datacontenttype() == "application/json"
    assert event.get_extension("inferenceservicename") == 'große "Ziffern"'
    assert event.get_extension("component") == "predictor"
    data: object = event.get_data()
    assert data == [json.loads(record.write()) for record in records]


def test_inputs_have_an_event_of_their_own(sink: EventSink, receiver: Receiver) -> None:
    sink.write([make_record(index, input={"row": {"x": index}}) for index in range(2)])
    given, told = receiver.events
    assert (given.get_type(), told.get_type()) == (REQUEST, RESPONSE)
    assert given.get_id() == told.get_id()
    assert given.get_source() != told.get_source()  # as no two events may have the same id and source
    data = given.get_data()
    assert isinstance(data, list)
    assert [one["input"] for one in data] == [{"row": {"x": 0}}, {"row": {"x": 1}}]
    assert not {"prediction", "uncertainty", "seed"} & data[0].keys()
    assert "input" not in json.dumps(told.get_data())


def test_what_may_pass_is_tried_again(sink: EventSink, receiver: Receiver) -> None:
    receiver.statuses = [503, 429]
    sink.write([make_record()])
    assert len(receiver.events) == 1
    assert receiver.attempts == 3


@pytest.mark.parametrize(("status", "attempts"), [(500, 4), (400, 1), (302, 1)])
def test_what_is_refused_is_an_error(sink: EventSink, receiver: Receiver, status: int, attempts: int) -> None:
    receiver.statuses = [status] * 4
    with pytest.raises(OSError, match=f"the receiver of events answers with status {status}"):
        sink.write([make_record()])
    assert receiver.attempts == attempts


def test_a_receiver_that_is_gone_or_silent_is_an_error(
    sink: EventSink, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.recording.events, "RETRY_SECONDS", ())
    monkeypatch.setattr(service.recording.events, "TIMEOUT_SECONDS", 0.05)
    receiver.answers.clear()
    with pytest.raises(OSError, match="cannot be reached: timed out"):
        EventSink(receiver.address).write([make_record()])
    with pytest.raises(OSError, match="cannot be reached"):
        EventSink("http://127.0.0.1:9").write([make_record()])
