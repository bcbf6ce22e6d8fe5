"""The batched evaluator, against matrix products and against PyTorch's usual ways."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import MatrixProduct
from benchmarks.plain import forward_loop, forward_vmap
from benchmarks.report import Ratio
from benchmarks.timing import measure_times
from models.precision import DTYPES, choose_precision
from models.samplers.sampler import WeightSampler
from models.targets.target import TargetNetwork

SHARE = "rate of matrix products"
CASES: Mapping[int, Sequence[int]] = {1: (1, 8, 32, 256), 10: (1, 8, 32, 256), 100: (1, 8, 32, 256), 1000: (1, 8)}
"""Numbers of inputs, by networks."""

LARGE_CASES: Mapping[int, Sequence[int]] = {1: (256,), 10: (32,), 100: (1, 8)}
"""For targets that take many times as long."""


def count_operations(target: TargetNetwork) -> int:
    """Floating-point operations of one network for one input, in its convolutions and linear layers."""
    with FlopCounterMode(display=False) as counter:
        target.module()(torch.zeros(1, *target.input_shape))
    operations: int = counter.get_total_flops()
    return operations


@torch.inference_mode()
def measure_evaluator(
    part: str, sampler: WeightSampler, device: torch.device, cases: Mapping[int, Sequence[int]] = CASES
) -> Iterator[Ratio]:
    """Shares of the rate of matrix products, and how much faster than the other ways; by networks and inputs."""
    target, product = sampler.target, MatrixProduct(device)
    operations = count_operations(target)
    for networks, counts in cases.items():
        weights = sampler.sample(0, range(networks))
        arranged = {dtype: target.arrange(weights, dtype) for dtype in DTYPES.values()}
        for count in counts:
            inputs = torch.randn(count, *target.input_shape, device=device)
            functions: dict[str, Callable[[], object]] = {
                "ours": partial(target.forward, weights, inputs),
                "product": product,
            }
            if networks == 100:
                functions["vmap"] = partial(forward_vmap, target, weights, inputs)
                functions["loop"] = partial(forward_loop, target, weights, inputs)
                functions |= {name: partial(target.forward, arranged[dtype], inputs) for name, dtype in DTYPES.items()}
            times = measure_times(functions, device)
            case = f"{networks:,} networks × {count} inputs"
            share = operations * networks * count / times["ours"] / (product.operations / times["product"])
            yield Ratio(part, case, share, SHARE, times["ours"], networks=networks, inputs=count)
            for way in ("vmap", "loop"):
                if way in times:
                    yield Ratio(part, case, times[way] / times["ours"], f"times as fast as {way}")
            if "bfloat16" in times and choose_precision(device) == "bfloat16":
                rounded, own = times["bfloat16"], f"{case} in bfloat16"
                yield Ratio(part, own, times["float32"] / rounded, "times as fast as in float32", rounded)
                yield Ratio(part, own, times["vmap"] / rounded, "times as fast as vmap in float32")
