"""LoadGen, whose queries a service answers over HTTP: load_generator.py SCENARIO ADDRESS MODEL FOLDER IMAGE…

It prints LoadGen's summary, and keeps its logs in the folder. These are not results of MLPerf, which has models, data
and rules of its own.
"""

import base64
import http.client
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import mlperf_loadgen as lg

SECONDS = 20
"""That a scenario takes at least."""
TARGET_RATE, LATENCY_BOUND, SHARE_WITHIN = 5.0, 1.0, 0.9
"""Of the scenario Server: queries a second, which come at random; and seconds within which a share is answered."""
MOST_IMAGES = 32
"""In a request."""
CONNECTIONS, MARGIN = 8, 2
"""Connections, and how many times as fast as one they may be together."""


class Service:
    """The system under test: connections to a service, each of which takes the next request when it is free."""

    def __init__(self, address: str, model: str, images: Sequence[bytes]) -> None:
        self._address, self._path = urlsplit(address).netloc, f"/v1/models/{model}/predict"
        self._images = [base64.b64encode(image).decode() for image in images]
        self._requests: queue.SimpleQueue[list[lg.QuerySample]] = queue.SimpleQueue()
        for _ in range(CONNECTIONS):
            threading.Thread(target=self._answer, daemon=True).start()

    def issue(self, samples: list[lg.QuerySample]) -> None:
        """Takes a query of LoadGen, and returns at once."""
        for start in range(0, len(samples), MOST_IMAGES):
            self._requests.put(samples[start : start + MOST_IMAGES])

    def measure_rate(self) -> float:
        """Images a second that one connection is answered, in large requests."""
        connection = http.client.HTTPConnection(self._address)
        self._ask(connection, [0] * MOST_IMAGES)
        start = time.perf_counter()
        self._ask(connection, [0] * MOST_IMAGES)
        return MOST_IMAGES / (time.perf_counter() - start)

    def _ask(self, connection: http.client.HTTPConnection, indices: Sequence[int]) -> None:
        body = json.dumps({"images": [self._images[index] for index in indices]})
        connection.request("POST", self._path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.load(response)
        if response.status != 200 or len(answer["predictions"]) != len(indices):
            raise RuntimeError(f"{len(indices)} images got status {response.status}: {answer}")

    def _answer(self) -> None:
        connection = http.client.HTTPConnection(self._address)
        try:
            while True:
                samples = self._requests.get()
                self._ask(connection, [sample.index for sample in samples])
                lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])
        except Exception as error:  # or LoadGen would wait for ever
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)


def choose_settings(scenario: str, rate: float) -> lg.TestSettings:
    """LoadGen's settings of a scenario, by its name. Offline has as many images as last long enough at a rate."""
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = SECONDS * 1000
    settings.min_query_count = 1
    settings.server_target_qps = TARGET_RATE
    settings.server_target_latency_ns = int(LATENCY_BOUND * 1e9)
    settings.server_target_latency_percentile = SHARE_WITHIN
    settings.offline_expected_qps = rate
    return settings


def main(scenario: str, address: str, model: str, folder: str, *files: str) -> None:
    """Runs a scenario of LoadGen: SingleStream, Server or Offline."""
    images = [Path(file).read_bytes() for file in files]
    service = Service(address, model, images)
    settings = choose_settings(scenario, MARGIN * service.measure_rate())
    log = lg.LogSettings()
    log.log_output.outdir = folder
    log.enable_trace = False
    system = lg.ConstructSUT(service.issue, lambda: None)
    samples = lg.ConstructQSL(len(images), len(images), lambda _: None, lambda _: None)
    lg.StartTestWithLogSettings(system, samples, settings, log)
    print((Path(folder) / "mlperf_log_summary.txt").read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
