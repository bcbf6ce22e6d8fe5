"""BentoML, with its adaptive batching: `bentoml serve benchmarks.peers.bentoml_server:PlainService --port PORT`."""

from typing import Any

import bentoml

from benchmarks.peers.plain_model import PlainModel


@bentoml.service(workers=1, traffic={"timeout": 600})
class PlainService:
    """Images in, answers out."""

    def __init__(self) -> None:
        self._model = PlainModel()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=600_000)
    def predict(self, images: list[str]) -> list[dict[str, Any]]:
        """One answer for each image."""
        return self._model.predict(images)
