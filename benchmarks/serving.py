"""The service, against its own engine in process and against other servers that host the same checkpoint.

A client sends one image and asks for 100 fresh networks, or for as many as the image needs. The servers and their
clients share this machine.
"""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.load import Ask, Load, apply_load, connect, get
from benchmarks.report import Ratio
from benchmarks.servers import ROOT, make_command, run_server, wait_for
from benchmarks.timing import measure_times
from models.checkpoint import load_checkpoint
from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image, encode_image
from models.precision import choose_precision
from models.predictions.prediction import split_members
from service.engine.engine import Engine

IMAGE = ROOT / "service" / "static" / "examples" / "seven.png"
"""An image that 10 networks answer, as they do most of MNIST's."""
HARD_IMAGE = IMAGE.with_name("ambiguous.png")
"""One that takes all networks."""
ENVIRONMENTS = ROOT / "benchmarks" / "environments"
NEEDED = ("numpy", "pydantic", "safetensors", "pillow")
"""By what the servers host, besides PyTorch."""

CLIENTS = (1, 8, 64)
NEIGHBOURS = 2
NETWORKS = 1000
"""That are downloaded."""
SECONDS = 6.0
"""That clients ask for."""


@dataclass(frozen=True)
class Server:
    """Another server."""

    name: str
    requirements: Sequence[str]
    command: Sequence[str]
    """After the environment's `bin/`; `PORT` stands for the port."""
    path: str


SERVERS = (
    Server("LitServe", ("litserve==0.2.19",), ("python", "-m", "benchmarks.peers.litserve_server", "PORT"), "/predict"),
    Server(
        "BentoML",
        ("bentoml==1.4.40", "pydantic<2.11"),  # it fails at times with later ones, by a warning of deprecation
        ("bentoml", "serve", "benchmarks.peers.bentoml_server:PlainService", "--port", "PORT"),
        "/predict",
    ),
)


def measure_service(directory: Path, device: torch.device) -> Iterator[Ratio]:
    """HTTP against the engine in process, then against other servers."""
    command, path = make_command(directory, device), f"/v1/models/{directory.name}/predict"
    alone = _measure_engine(directory, device)
    ours = _measure_server(command, path, {})
    grown = _measure_server(command, f"{path}?ensemble_size=auto", {})
    yield from _compare(ours, alone, "", "the engine in process", (0.5, 0.99))
    yield from _compare(ours, _measure_server(command, path, {"HYPERDRAW_PRECISION": "float32"}), "", "float32")
    yield from _compare(grown, ours, "as many networks as needed", "100 networks")
    hard, fixed = (_measure_server(command, own, {}, HARD_IMAGE) for own in (f"{path}?ensemble_size=auto", path))
    yield from _compare(hard, fixed, "as many as needed by a hard image", "100 networks")
    for server in SERVERS:
        peer, variables = _install(server), {"HYPERDRAW_PEER_CHECKPOINT": str(directory)}
        theirs = _measure_server(peer, server.path, variables)
        growing = _measure_server(peer, server.path, {**variables, "HYPERDRAW_PEER_GROWS": "1"})
        yield from _compare(ours, theirs, "", server.name, (0.5, 0.99))
        yield from _compare(grown, theirs, "as many networks as needed", server.name)
        yield from _compare(grown, growing, "as many networks as needed", f"{server.name} that does the same")


def _compare(
    ours: Mapping[int, Load], theirs: Mapping[int, Load], how: str, of: str, shares: Sequence[float] = (0.5,)
) -> Iterator[Ratio]:
    for clients in CLIENTS:
        we, they, case = ours[clients], theirs[clients], ", ".join(filter(None, [f"{clients} clients", how]))
        yield Ratio("service", case, we.throughput / they.throughput, f"answers a second of {of}", 1 / we.throughput)
        for share in shares:
            ratio = we.quantile(share) / they.quantile(share)
            yield Ratio("service", case, ratio, f"p{100 * share:.0f} of {of}", we.quantile(share), True)


def measure_neighbours(directory: Path, device: torch.device) -> Iterator[Ratio]:
    """One client's answers beside processes that are as busy as they can be, against those without."""
    command, path = make_command(directory, device), f"/v1/models/{directory.name}/predict"
    busy = [sys.executable, "-c", "while True: pass"]
    quiet = _measure_server(command, path, {}, clients=(1,))[1]
    with ExitStack() as stack:
        for process in [subprocess.Popen(busy) for _ in range(NEIGHBOURS)]:
            stack.callback(process.kill)
        beside = _measure_server(command, path, {}, clients=(1,))[1]
    for share in (0.5, 0.99):
        ratio = beside.quantile(share) / quiet.quantile(share)
        case = f"1 client beside {NEIGHBOURS} busy processes"
        yield Ratio("service", case, ratio, f"p{100 * share:.0f} without them", beside.quantile(share), True)


def measure_download(directory: Path, device: torch.device) -> Iterator[Ratio]:
    """Weights over HTTP against drawing them."""
    sampler = load_checkpoint(directory, device).sampler
    path = f"/v1/models/{directory.name}/weights?seed=0&count={NETWORKS}"

    def draw() -> None:
        for members in split_members(sampler.target, NETWORKS):
            sampler.sample(0, members)

    async def wait(port: int) -> None:
        await wait_for(lambda: get(port, "/readyz"))

    with run_server(make_command(directory, device), {}) as port:
        asyncio.run(wait(port))
        times = measure_times({"draw": draw, "download": lambda: asyncio.run(get(port, path))}, device)
    share = times["draw"] / times["download"]
    part = f"download of {directory.name}"
    yield Ratio(part, f"{NETWORKS:,} networks", share, "rate at which they are drawn", times["download"])


def measure_backbone(directory: Path, device: torch.device) -> Iterator[Ratio]:
    """One image of the size that a pretrained backbone takes, over HTTP, against the backbone alone in this process."""
    checkpoint = load_checkpoint(directory, device)
    spec, backbone = checkpoint.config.input, checkpoint.backbone
    if backbone is None or not isinstance(spec, ImageSpec):
        raise ValueError(f"{directory} has no backbone")
    noise = torch.randint(256, spec.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels = spec.prepare(noise[None])
    path, body = f"/v1/models/{directory.name}/predict", write_request(encode_image(noise))
    with run_server(make_command(directory, device), {}) as port, asyncio.Runner() as runner:
        runner.run(wait_for(lambda: ask_once(port, path, body)))
        ask = runner.run(connect(port, path, body))

        async def answer() -> None:
            await ask()

        functions = {"alone": lambda: backbone.run(pixels), "answer": lambda: runner.run(answer())}
        times = measure_times(functions, device, rounds=50)
    ratio = times["answer"] / times["alone"]
    yield Ratio(f"image of {spec.width} pixels", "1 client", ratio, "its backbone's own time", times["answer"], True)


def write_request(image: bytes) -> bytes:
    """The body of a request for the prediction of an image file."""
    return json.dumps({"images": [base64.b64encode(image).decode()]}).encode()


def _measure_engine(directory: Path, device: torch.device) -> dict[int, Load]:
    engine = Engine(device, precision=choose_precision(device))
    model = engine.load(directory)
    engine.warm_up(model)
    spec = model.input
    assert isinstance(spec, ImageSpec)
    inputs = decode_image(IMAGE.read_bytes(), spec, 10**6, IMAGE.name)[None]

    async def ask() -> None:
        await asyncio.wrap_future(engine.predict(model, inputs, None, model.default_size))

    async def get_ask() -> Ask:
        return ask

    loads = {clients: asyncio.run(apply_load(get_ask, clients, SECONDS)) for clients in CLIENTS}
    engine.close()
    return loads


def _measure_server(
    command: Sequence[str],
    path: str,
    variables: Mapping[str, str],
    image: Path = IMAGE,
    clients: Sequence[int] = CLIENTS,
) -> dict[int, Load]:
    body = write_request(image.read_bytes())
    with run_server(command, variables) as port:

        async def measure() -> dict[int, Load]:
            await wait_for(lambda: ask_once(port, path, body))
            return {n: await apply_load(lambda: connect(port, path, body), n, SECONDS) for n in clients}

        return asyncio.run(measure())


async def ask_once(port: int, path: str, body: bytes) -> None:
    """Asks on a connection of its own."""
    await (await connect(port, path, body))()


def _install(server: Server) -> list[str]:
    """An environment with a server and PyTorch as it is here, made if it is missing; the server's command in it."""
    directory = ENVIRONMENTS / server.name.lower()
    binaries = directory / "bin"
    installed = directory / "installed"
    if not installed.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        version, _, build = torch.__version__.partition("+")
        index = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"] if build == "cpu" else []
        pip = [str(binaries / "python"), "-m", "pip", "install", "--quiet", "--retries", "1", *index]
        subprocess.run([*pip, f"torch=={version}", *server.requirements, *NEEDED], check=True)
        installed.touch()
    program, *arguments = server.command
    return [str(binaries / program), *arguments]
