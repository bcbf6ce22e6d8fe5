"""LitServe, which batches what arrives within 5 ms: `python -m benchmarks.peers.litserve_server PORT`."""

import sys
from typing import Any

import litserve

from benchmarks.peers.plain_model import PlainModel


class PlainAPI(litserve.LitAPI):
    """Images in, answers out."""

    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's signature)
        self._model = PlainModel()

    def decode_request(self, request: dict[str, Any]) -> str:
        (image,) = request["images"]
        return str(image)

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, x: list[str]) -> list[dict[str, Any]]:
        return self._model.predict(x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = PlainAPI(max_batch_size=64, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu", timeout=600).run(port=int(sys.argv[1]), generate_client_file=False)
