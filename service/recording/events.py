"""CloudEvents over HTTP as the sink of a log, in the form of KServe's inference logger.

Sources: "CloudEvents 1.0.2" and its "HTTP Protocol Binding", and KServe's `pkg/logger/worker.go`. An event is sent in
the binary content mode: attributes are headers, and the body is JSON. Its id is that of the request. KServe's logger
gives both events of a request the same id and the same source, which CloudEvents does not allow; here the sources
differ.
"""

import random
import time
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import quote

import httpx

from service.recording.record import Record

RESPONSE = "org.kubeflow.serving.inference.response"
REQUEST = "org.kubeflow.serving.inference.request"

TIMEOUT_SECONDS = 10.0
"""Longest wait for a connection, or for the receiver's next sign."""

RETRY_SECONDS = (0.5, 1.0, 2.0)
"""Seconds before each further attempt, on average."""

_IDENTITY = {"schema_version", "time", "request_id", "index", "key", "model", "version", "method"}

_UNQUOTED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""Characters of an attribute that its header may have as they are."""


class EventSink:
    """Sends an event for each request, with the records of all its inputs as an array.

    If records have inputs, these have an event of their own, before the other one.
    """

    writers: ClassVar[int] = 4

    def __init__(self, url: str) -> None:
        """Sends to a receiver at an address."""
        self._url = url
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS, limits=httpx.Limits(max_connections=self.writers))

    def write(self, records: Sequence[Record]) -> None:
        """Sends the events of a request.

        Raises:
            OSError: if the receiver does not take them, also after some retries if these may help.
        """
        if records[0].input is not None:
            given = [record.write(include={*_IDENTITY, "input"}) for record in records]
            self._send(records[0], REQUEST, "inputs", given)
        self._send(records[0], RESPONSE, "predictions", [record.write(exclude={"input"}) for record in records])

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _send(self, record: Record, kind: str, part: str, data: Sequence[str]) -> None:
        attributes = {
            "specversion": "1.0",
            "id": record.request_id,
            "source": f"/v1/models/{quote(record.model)}/{part}",
            "type": kind,
            "time": record.time.isoformat(),
            "inferenceservicename": record.model,
            "component": "predictor",
        }
        headers = {f"ce-{name}": quote(value, safe=_UNQUOTED) for name, value in attributes.items()}
        headers["content-type"] = "application/json"
        content = f"[{','.join(data)}]".encode()
        for seconds in (*RETRY_SECONDS, None):
            failure = self._attempt(headers, content)
            if failure is None:
                return
            if seconds is None:
                raise OSError(failure)
            time.sleep(random.uniform(0.5, 1.5) * seconds)  # noqa: S311

    def _attempt(self, headers: dict[str, str], content: bytes) -> str | None:
        """Sends an event once. Returns why that failed, if it did and another attempt may succeed.

        Raises:
            OSError: if the receiver refuses it.
        """
        try:
            status = self._client.post(self._url, headers=headers, content=content).status_code
        except httpx.HTTPError as error:
            return f"the receiver of events cannot be reached: {str(error) or type(error).__name__}"
        if 200 <= status < 300:
            return None
        failure = f"the receiver of events answers with status {status}"
        if status not in (408, 429) and status < 500:
            raise OSError(failure)
        return failure
