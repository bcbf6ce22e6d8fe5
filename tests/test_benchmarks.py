"""What is compared computes the same."""

import asyncio
import itertools
import re
from contextlib import closing, suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from benchmarks import sequences
from benchmarks.evaluator import count_operations
from benchmarks.load import Ask, apply_load, read_answer
from benchmarks.plain import forward_loop, forward_vmap
from benchmarks.report import Ratio, draw_growth, find_regressions, print_table
from benchmarks.rolling_update import Outcome, asking
from benchmarks.scaling import Autoscaler, Scenario, Signal, simulate
from benchmarks.timing import measure_times
from benchmarks.training_step import PlainTarget
from tests.conftest import SMALL_TARGET, draw_weights
from training.data.datasets import load_digits
from training.recipes.toys import digits_hypergan
from training.runs.fitting import FittingRun


def test_all_ways_to_evaluate_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = draw_weights(SMALL_TARGET, generator, 3)
    inputs = torch.randn(5, *SMALL_TARGET.input_shape, generator=generator)
    ours = SMALL_TARGET.forward(weights, inputs)
    for way in (forward_vmap, forward_loop):
        torch.testing.assert_close(way(SMALL_TARGET, weights, inputs), ours, rtol=1e-4, atol=1e-4)


def test_operations_are_two_for_each_product() -> None:
    assert count_operations(digits_hypergan().target) == 2 * (8 * 8 * 8 * 9 + 2 * 2 * 16 * 8 * 9 + 16 * 10)


def test_both_training_steps_have_the_same_losses() -> None:
    recipe, dataset = digits_hypergan(), load_digits(Path())
    plain = PlainTarget(**{field.name: getattr(recipe.target, field.name) for field in fields(recipe.target)})
    runs = [
        FittingRun(replace(recipe, target=t), dataset, 0, recipe.steps, torch.device("cpu"))
        for t in (recipe.target, plain)
    ]
    for _ in range(3):
        ours, theirs = (run.step().losses for run in runs)
        for name, loss in ours.items():
            assert float(loss) == pytest.approx(float(theirs[name]), rel=1e-4)


def test_operations_of_a_step_are_two_for_each_product() -> None:
    networks = sequences.make_networks(7, 5, 3, torch.device("cpu"))
    for kind, network in networks.items():
        used = ("weight_h", "hyper_weight_h", "hyper_weight", "embedding_weight", "scale_weight")
        products = sum(own.numel() for name, own in network.named_parameters() if name.endswith(used))
        assert sequences.count_step_operations(kind, 7, 5, 3) == 2 * products


def test_sequences_are_compared_with_all_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "SIZES", ((7, 5, 3),))
    monkeypatch.setattr(sequences, "STEPS", 2)
    monkeypatch.setattr("benchmarks.machine.SIDE", 64)
    ratios = list(sequences.measure_sequences(torch.device("cpu")))
    assert len({ratio.name for ratio in ratios}) == len(ratios)
    assert all(ratio.ratio > 0 for ratio in ratios)
    training = {(ratio.part, ratio.of) for ratio in ratios if ratio.part.startswith("training of HyperLSTM")}
    assert training == {
        ("training of HyperLSTM", "rate of matrix products"),
        ("training of HyperLSTM", "times as fast as torch.nn.LSTM"),
        ("training of HyperLSTM", "times as fast as a plain loop"),
        ("training of HyperLSTM", "of the time of our LSTM"),
        ("training of HyperLSTM in bfloat16", "rate of matrix products"),
        ("training of HyperLSTM in bfloat16", "times as fast as torch.nn.LSTM in bfloat16"),
        ("training of HyperLSTM in bfloat16", "of the time of our LSTM"),
    }
    assert {ratio.case for ratio in ratios if ratio.part == "writing of LSTM"} == {
        "7 units, 1 texts",
        "7 units, 64 texts",
    }
    assert "characters a second |" in print_table(ratios)


def test_what_got_worse_is_found() -> None:
    ratios = [
        Ratio("evaluator", "1 network", 0.5, "rate"),
        Ratio("service", "1 client", 2.0, "p50", smaller_is_better=True),
        Ratio("service", "8 clients", 2.0, "p50", smaller_is_better=True),
    ]
    assert find_regressions(ratios, {}) == []
    accepted = {ratio.name: ratio.ratio for ratio in ratios}
    assert find_regressions(ratios, accepted) == []
    accepted = {ratios[0].name: 0.6, ratios[1].name: 1.7, ratios[2].name: 9.0}
    assert find_regressions(ratios, accepted) == []  # as noise may do
    accepted = {ratios[0].name: 0.7, ratios[1].name: 1.5, ratios[2].name: 9.0}
    assert find_regressions(ratios, accepted) == [
        "evaluator, 1 network, rate: 0.50, accepted 0.70",
        "service, 1 client, p50: 2.00, accepted 1.50",
    ]


def test_growth_is_drawn(tmp_path: Path) -> None:
    sizes = [(1, 1), (1, 8), (10, 1), (10, 8)]
    ratios = [Ratio("evaluator", "", 1.0, "rate", 0.1, networks=s, inputs=b) for s, b in sizes]
    draw_growth(ratios, tmp_path / "growth.svg")
    assert "</svg>" in (tmp_path / "growth.svg").read_text()


def test_clients_ask_again_when_they_are_answered() -> None:
    asking, most = 0, 0

    async def ask() -> None:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.01)
        asking -= 1

    async def connect() -> Ask:
        return ask

    load = asyncio.run(apply_load(connect, 5, 0.1))
    assert most == 5
    assert load.clients == 5
    assert len(load.latencies) >= 5
    assert load.latencies == sorted(load.latencies)
    assert 0.01 <= load.quantile(0.5) <= load.quantile(0.99) == load.latencies[-1]
    assert load.throughput == len(load.latencies) / load.seconds


@pytest.mark.parametrize(
    "rest",
    [
        "Content-Length: 6\r\n\r\n[DONE]",
        f"Transfer-Encoding: chunked\r\n\r\n9c40\r\n{'x' * 40_000}\r\n6\r\n[DONE]\r\n0\r\n\r\n",
    ],
)
def test_answers_are_read_to_their_end(rest: str) -> None:
    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(f"HTTP/1.1 200 OK\r\n{rest}HTTP/1.1 429 Too Many Requests\r\n{rest}".encode())
        reader.feed_eof()
        await read_answer(reader)
        with pytest.raises(RuntimeError, match=r"^refused: \[DONE\]$"):
            await read_answer(reader)
        assert reader.at_eof()

    asyncio.run(read())


def test_what_an_update_breaks_is_counted() -> None:
    """A server refuses downloads, and breaks every second connection."""
    numbers = itertools.count()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if length := re.search(rb"Content-Length: (\d+)", head):
                await reader.readexactly(int(length[1]))
            if not length or next(numbers) % 2:
                status = 200 if length else 503
                writer.write(b"HTTP/1.1 %d \r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)

    async def ask() -> Outcome:
        outcome = Outcome()
        server = await asyncio.start_server(answer, "127.0.0.1")
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with server, asking(address, 5, outcome):
            while len(outcome.seconds["predict"]) < 20 or len(outcome.failures) < 60:
                await asyncio.sleep(0.01)
        return outcome

    outcome = asyncio.run(ask())
    refused = [failure for failure in outcome.failures if "503" in failure]
    assert outcome.seconds["weights"] == []
    assert len(refused) > 0
    assert abs(len(outcome.failures) - len(refused) - len(outcome.seconds["predict"])) <= 8


def test_times_are_medians_of_turns() -> None:
    order = []
    times = measure_times(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, torch.device("cpu"), rounds=4
    )
    assert order == ["a", "b"] * 5
    assert set(times) == {"a", "b"}


@pytest.mark.parametrize("signal", Signal)
def test_a_burst_loses_no_request_without_a_count(signal: Signal) -> None:
    scenario = Scenario(before=30, burst=120, after=60)
    found = simulate(scenario, signal)
    assert found.arrived == len(found.waits) + found.refused
    assert found.served + found.left == pytest.approx(scenario.cost * len(found.waits))
    assert found.served <= scenario.pace * 60 * found.replica_minutes
    assert simulate(scenario, signal) == found


def test_nothing_is_scaled_without_a_burst_and_work_that_waits_says_most_of_one() -> None:
    calm = [simulate(Scenario(factor=1, burst=60, after=60), signal) for signal in Signal]
    assert [(each.largest, each.refused, each.recovered) for each in calm] == [(2, 0, 0.0)] * 3
    nothing, load, waiting = (simulate(Scenario(), signal) for signal in Signal)
    assert nothing.recovered > load.recovered > waiting.recovered
    assert nothing.refused > load.refused > waiting.refused
    assert waiting.largest == Scenario().most


def test_the_autoscaler_follows_its_rules() -> None:
    ratio = 1.05
    autoscaler = Autoscaler(lambda _: ratio, 2, 10)
    assert autoscaler.decide(0, 4, 4) == 4  # within the tolerance
    ratio = 1.5
    assert autoscaler.decide(14, 4, 4) == 4  # neither scraped nor decided anew
    assert autoscaler.decide(15, 4, 4) == 6
    ratio = 9.0
    assert autoscaler.decide(30, 4, 6) == 10  # of 36, twice as many at most, and no more than the bound
    ratio = 0.1
    assert autoscaler.decide(60, 10, 10) == 10  # 10 were needed within the last five minutes
    assert autoscaler.decide(400, 10, 10) == 9
    assert autoscaler.decide(430, 9, 9) == 9
    assert autoscaler.decide(460, 9, 9) == 8
