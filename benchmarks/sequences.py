"""LSTM and HyperLSTM, against matrix products, PyTorch's LSTM, and a plain loop.

Training is a window of one-hot symbols forth and back, without an output layer or an optimiser. PyTorch's LSTM has
neither normalisation nor recurrent dropout, which ours have.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.evaluator import SHARE
from benchmarks.machine import MatrixProduct
from benchmarks.plain_sequences import run_plainly
from benchmarks.report import Ratio
from benchmarks.timing import measure_times
from models.sequences.hyper_lstm import HyperLSTM
from models.sequences.lstm import LSTM
from models.sequences.recurrent import Recurrent

SIZES = (256, 32, 4), (512, 64, 4), (1000, 128, 4)
"""Units, units of the small cell, and numbers of an embedding."""

KINDS = "LSTM", "HyperLSTM"
THEIRS = "torch.nn.LSTM"
PLAIN = "plain "
IN_BFLOAT16 = " in bfloat16"

SYMBOLS = 50
STEPS = 50
SEQUENCES = 128
"""That are trained on at once."""

STREAMS = 1, 64
"""Texts that are written at once."""


def measure_sequences(device: torch.device) -> Iterator[Ratio]:
    """Shares of the rate of matrix products, and how much faster than the other ways."""
    for size in SIZES:
        networks = make_networks(*size, device)
        yield from _measure_training(networks, size, device)
        for streams in STREAMS:
            yield from _measure_writing(networks, size, streams, device)


def make_networks(units: int, small: int, embedding: int, device: torch.device) -> Mapping[str, Recurrent]:
    """Ours, with layer normalisation and recurrent dropout."""
    lstm = LSTM(SYMBOLS, units, layer_norm=True, recurrent_dropout=0.1)
    hyper_lstm = HyperLSTM(SYMBOLS, units, hyper_size=small, embedding_size=embedding, recurrent_dropout=0.1)
    return {"LSTM": lstm.to(device), "HyperLSTM": hyper_lstm.to(device)}


def count_step_operations(kind: str, units: int, small: int, embedding: int) -> int:
    """Floating-point operations for a symbol, which is looked up."""
    extra = 4 * small * (units + small) + 12 * embedding * (small + units) if kind == "HyperLSTM" else 0
    return 2 * (4 * units * units + extra)


def _measure_training(
    networks: Mapping[str, Recurrent], size: tuple[int, int, int], device: torch.device
) -> Iterator[Ratio]:
    symbols = torch.randint(SYMBOLS, (STEPS, SEQUENCES), device=device)
    inputs = F.one_hot(symbols, SYMBOLS).float()
    theirs = nn.LSTM(SYMBOLS, size[0], device=device)

    def train(network: nn.Module, run: Callable[[], Tensor], dtype: torch.dtype = torch.float32) -> None:
        network.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = run()
        outputs.backward(torch.ones_like(outputs))

    functions: dict[str, Callable[[], object]] = {}
    for dtype, suffix in ((torch.float32, ""), (torch.bfloat16, IN_BFLOAT16)):
        functions[THEIRS + suffix] = partial(train, theirs, partial(_read, theirs, inputs), dtype)
        for kind, network in networks.items():
            functions[kind + suffix] = partial(train, network, partial(_read, network, symbols), dtype)
    for kind, network in networks.items():
        functions[PLAIN + kind] = partial(train, network, partial(run_plainly, network, inputs))
    case = f"{size[0]} units, {SEQUENCES} sequences"
    yield from _compare("training", case, functions, size, 3, STEPS * SEQUENCES, device)


@torch.inference_mode()
def _measure_writing(
    networks: Mapping[str, Recurrent], size: tuple[int, int, int], streams: int, device: torch.device
) -> Iterator[Ratio]:
    symbols = torch.randint(SYMBOLS, (streams,), device=device)
    inputs = F.one_hot(symbols, SYMBOLS).float()
    theirs = nn.LSTM(SYMBOLS, size[0], device=device)

    def repeat(advance: Callable[..., tuple[Tensor, object]], given: Tensor) -> None:
        _, state = advance(given)
        for _ in range(STEPS - 1):
            _, state = advance(given, state)

    functions: dict[str, Callable[[], object]] = {THEIRS: partial(repeat, theirs, inputs[None])}
    for kind, network in networks.items():
        functions[kind] = partial(repeat, network.eval().begin(one_hot=True), symbols)
        functions[PLAIN + kind] = partial(run_plainly, network, inputs.expand(STEPS, -1, -1))
    case = f"{size[0]} units, {streams} texts"
    yield from _compare("writing", case, functions, size, 1, STEPS * streams, device)
    for network in networks.values():
        network.train()


def _read(network: nn.Module, inputs: Tensor) -> Tensor:
    outputs: Tensor = network(inputs)[0]
    return outputs


def _compare(
    part: str,
    case: str,
    functions: Mapping[str, Callable[[], object]],
    size: tuple[int, int, int],
    passes: int,
    characters: int,
    device: torch.device,
) -> Iterator[Ratio]:
    product = MatrixProduct(device)
    times = measure_times({"product": product, **functions}, device)
    for name, seconds in times.items():
        kind, *low = name.split(IN_BFLOAT16)
        if kind not in KINDS:
            continue
        own = partial(Ratio, f"{part} of {name}", case, seconds=seconds, characters=characters)
        operations = passes * characters * count_step_operations(kind, *size)
        yield own(operations / seconds / (product.operations / times["product"]), SHARE)
        theirs = THEIRS + IN_BFLOAT16 if low else THEIRS
        yield own(times[theirs] / seconds, f"times as fast as {theirs}")
        if not low:
            yield own(times[PLAIN + kind] / seconds, "times as fast as a plain loop")
        if kind == "HyperLSTM":
            yield own(seconds / times[name.removeprefix("Hyper")], "of the time of our LSTM", smaller_is_better=True)
