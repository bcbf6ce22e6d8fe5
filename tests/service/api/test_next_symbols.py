"""What comes next in a text, and the networks of a model of sequences as files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file
from torch.testing import assert_close

from models.sequences.checkpoint import SequenceCheckpoint, load_sequence_checkpoint
from models.sequences.frozen import find_frozen_target
from service.app import create_app
from service.settings import Settings
from tests.checkpoints import save_curve
from tests.conftest import serve
from tests.sequences import LSTM, SPEC, STROKES, save_writer

WEIGHTS = "/v1/models/writer/weights"
TEXTS = ["", "abba", "cab d"]


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("writers")
    save_writer(directory / "writer", latent_size=2)
    save_writer(directory / "lstm", modes=1, size=LSTM)
    save_writer(directory / "drawer", spec=STROKES)
    save_curve(directory / "curve")
    return directory


@pytest.fixture(scope="module")
def client(writers: Path) -> Iterator[httpx.Client]:
    with serve(create_app(Settings(checkpoints=writers))) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.fixture(scope="module")
def writer(writers: Path) -> SequenceCheckpoint:
    return load_sequence_checkpoint(writers / "writer")


def predict_next(checkpoint: SequenceCheckpoint, text: str, seed: int, members: int) -> torch.Tensor:
    """Probabilities of the networks, [S, V]."""
    network = checkpoint.sampler.assemble(checkpoint.sampler.draw_latents(seed, range(members)))
    symbols = torch.tensor([SPEC.start_number, *SPEC.encode(text)])
    logits = network(symbols[:, None].expand(-1, members))[0][-1]
    probabilities: torch.Tensor = logits.softmax(-1)
    return probabilities


class TestPrediction:
    def test_it_is_that_of_the_networks(self, client: httpx.Client, writer: SequenceCheckpoint) -> None:
        query: dict[str, Any] = {"seed": 7, "ensemble_size": 5, "members": "true"}
        response = client.post("/v1/models/writer/predict", params=query, json={"inputs": TEXTS})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        assert answer["ensemble"] == {"size": 5, "seed": 7, "precision": "float32"}
        for text, found in zip(TEXTS, answer["predictions"], strict=True):
            expected = predict_next(writer, text, 7, 5)
            assert found["probabilities"] == pytest.approx(expected.mean(0).tolist(), abs=1e-6)
            assert found["label"] == SPEC.symbols[int(expected.mean(0).argmax())]
            assert torch.tensor(found["member_probabilities"]) == pytest.approx(expected, abs=1e-6)
            entropy = -(expected.mean(0) * expected.mean(0).log()).sum().item()
            assert found["uncertainty"]["predictive_entropy"] == pytest.approx(entropy, abs=1e-5)
            assert found["uncertainty"]["mutual_information"] > 0
            assert found["flags"] == {}

    def test_it_agrees_with_the_score_of_the_character(self, client: httpx.Client) -> None:
        scored = client.post("/v1/models/writer/score", json={"text": "abbad", "seed": 3}).json()
        found = client.post("/v1/models/writer/predict?seed=3", json={"inputs": ["abba"]}).json()
        assert found["predictions"][0]["probabilities"][SPEC.symbols.index("d")] == pytest.approx(
            scored["tokens"][-1]["probability"], rel=1e-4
        )

    def test_as_safetensors(self, client: httpx.Client, writer: SequenceCheckpoint) -> None:
        query: dict[str, Any] = {"seed": 7, "ensemble_size": 2, "format": "safetensors"}
        response = client.post("/v1/models/writer/predict", params=query, json={"inputs": TEXTS})
        assert response.headers["content-type"] == "application/octet-stream"
        tensors = load(response.content)
        expected = torch.stack([predict_next(writer, text, 7, 2).mean(0) for text in TEXTS])
        assert_close(tensors["probabilities"], expected, atol=1e-6, rtol=1e-4)
        assert tensors["predictive_entropy"].shape == (3,)
        assert "members" not in tensors

    @pytest.mark.parametrize(
        ("query", "body", "said"),
        [
            ("", {"inputs": []}, "inputs: List should have at least 1 item"),
            ("", {"inputs": "abc"}, "inputs: Input should be a valid array"),
            ("", {"inputs": [5]}, "inputs.0: Input should be a valid string"),
            ("", {"inputs": ["a"] * 17}, "at most 16 items"),
            ("", {"inputs": ["a" * 20_001]}, "at most 20000 characters"),
            ("", {"texts": ["a"]}, "inputs: Field required"),
            ("?ensemble_size=65", {"inputs": ["a"]}, "ensemble_size is 65. It may be at most 64."),
            ("?coverage=0.9", {"inputs": ["a"]}, "no sets of characters"),
            ("?false_alarm_rate=0.1", {"inputs": ["a"]}, "The route score says which passages are foreign."),
        ],
    )
    def test_refusals(self, client: httpx.Client, query: str, body: object, said: str) -> None:
        response = client.post(f"/v1/models/writer/predict{query}", json=body)
        assert response.status_code == 422
        error = response.json()["error"]
        assert said in f"{error['message']} {error['hint']}"

    def test_models_that_draw_do_not(self, client: httpx.Client) -> None:
        error = client.post("/v1/models/drawer/predict", json={"inputs": ["a"]}).json()["error"]
        assert error["message"] == "drawer is a model of strokes, not of text."
        assert (
            client.post("/v1/models/writer/predict", content=b"a", headers={"Content-Type": "text/plain"}).status_code
            == 415
        )


class TestWeights:
    def test_the_generating_network(self, client: httpx.Client, writer: SequenceCheckpoint, tmp_path: Path) -> None:
        path = tmp_path / "network.safetensors"
        path.write_bytes(client.get(WEIGHTS, params={"seed": 7, "member": 1}).content)
        described = client.get("/v1/models/writer").json()["target"]
        with safe_open(path, "pt") as file:
            source = file.metadata()["target"]
        for text in (described["source"], source):
            scope: dict[str, Any] = {}
            exec(text, scope)
            network = scope["network"]
            network.load_state_dict(load_file(path))
            symbols = torch.tensor(SPEC.encode("abba"))[:, None]
            expected = writer.sampler.assemble(writer.sampler.draw_latents(7, [1]))(symbols)[0]
            assert_close(network.eval()(symbols)[0], expected)

    def test_several_are_stacked(self, client: httpx.Client) -> None:
        several = load(client.get(WEIGHTS, params={"seed": 7, "count": 3}).content)
        for member in range(3):
            alone = load(client.get(WEIGHTS, params={"seed": 7, "member": member}).content)
            assert alone.keys() == several.keys()
            for name, tensor in alone.items():
                assert torch.equal(tensor, several[name][member])
        assert not torch.equal(several["output.weight"][0], several["output.weight"][1])

    @pytest.mark.parametrize("step", [0, 2, 4])
    def test_at_a_step(self, client: httpx.Client, writer: SequenceCheckpoint, step: int) -> None:
        """The LSTM of these weights says of the next character what the HyperLSTM says."""
        response = client.get(WEIGHTS, params={"seed": 7, "prompt": "abba", "step": step})
        assert response.status_code == 200, response.text
        assert f"writer-seed7-member0-step{step}.safetensors" in response.headers["content-disposition"]
        frozen = find_frozen_target(writer.config.sampler.target).build()
        frozen.load_state_dict(load(response.content))
        network = writer.sampler.assemble(writer.sampler.draw_latents(7, [0]))
        read = torch.tensor([SPEC.start_number, *SPEC.encode("abba")])[: step + 1, None]
        state = network(read[:-1])[1] if step else None
        large = None if state is None else tuple(part[..., : frozen.recurrent.hidden_size] for part in state)
        assert_close(frozen(read[-1:], large)[0], network(read[-1:], state)[0], atol=1e-5, rtol=1e-4)

    def test_a_step_is_a_file_like_any_other(self, client: httpx.Client) -> None:
        query: dict[str, str] = {"seed": "7", "prompt": "abba", "dtype": "bfloat16"}
        whole = client.get(WEIGHTS, params=query)
        assert all(tensor.dtype == torch.bfloat16 for tensor in load(whole.content).values())
        assert client.head(WEIGHTS, params=query).headers["content-length"] == str(len(whole.content))
        part = client.get(WEIGHTS, params=query, headers={"Range": "bytes=100-1999"})
        assert (part.status_code, part.content) == (206, whole.content[100:2000])
        named = {"If-None-Match": whole.headers["etag"]}
        assert client.get(WEIGHTS, params=query, headers=named).status_code == 304
        other = client.get(WEIGHTS, params=query | {"step": "3"}, headers=named)
        assert (other.status_code, other.headers["etag"] != whole.headers["etag"]) == (200, True)
        fresh = client.get(WEIGHTS, params={"prompt": "abba"})
        again = client.get(fresh.headers["content-location"])
        assert again.content == fresh.content

    def test_at_a_point_of_a_drawing(self, client: httpx.Client) -> None:
        one, other = (
            client.get("/v1/models/drawer/weights", params={"seed": 1, "prompt": "[[10, 5, 0], [0, -5, 1]]", "step": n})
            for n in (1, 2)
        )
        assert load(one.content)["recurrent.layers.0.weight_h"].shape == (32, 8)
        assert one.content != other.content

    @pytest.mark.parametrize(
        ("model", "query", "said"),
        [
            ("writer", {"step": 1}, "step is 1. The prompt has 0 elements, so it may be at most 0."),
            ("writer", {"prompt": "ab", "step": 3}, "it may be at most 2"),
            ("writer", {"prompt": "ab", "count": 2}, "Leave out count, or prompt and step."),
            ("writer", {"prompt": "a" * 20_001}, "at most 20000 characters"),
            ("writer", {"prompt": "a", "step": -1}, "greater than or equal to 0"),
            ("lstm", {"prompt": "ab"}, "The weights of lstm do not change from step to step."),
            ("curve", {"step": 0}, "The weights of curve do not change from step to step."),
            ("drawer", {"prompt": "abc"}, "Give the prompt as points, such as [[10, 0, 0], [0, 10, 1]]."),
            ("drawer", {"prompt": "[[1, 2]]"}, "Point 0 is [1, 2]."),
            ("lstm", {"member": 1}, "It is a single network: member 0."),
        ],
    )
    def test_refusals(self, client: httpx.Client, model: str, query: dict[str, Any], said: str) -> None:
        response = client.get(f"/v1/models/{model}/weights", params=query)
        assert response.status_code == 422
        error = response.json()["error"]
        assert said in f"{error['message']} {error['hint']}"
