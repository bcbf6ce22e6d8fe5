"""The samplers, against matrix products and against copies of what they write."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import Copy, MatrixProduct
from benchmarks.report import Ratio
from benchmarks.timing import measure_times
from models.precision import choose_precision, multiply_in
from models.samplers.sampler import WeightSampler

NETWORKS = (1, 10, 100, 1000)


@torch.inference_mode()
def measure_sampler(name: str, sampler: WeightSampler, device: torch.device) -> Iterator[Ratio]:
    """The least time that products and the writing of weights take here, as a share of what sampling takes."""
    product, copy = MatrixProduct(device), Copy(device)
    for networks in NETWORKS:
        members = range(networks)
        with FlopCounterMode(display=False) as counter:
            sampler.sample(0, members)
        functions: dict[str, Callable[[], object]] = {
            "ours": partial(sampler.sample, 0, members),
            "product": product,
            "copy": copy,
        }
        if sampler.multiplies and choose_precision(device) == "bfloat16":
            functions["bfloat16"] = partial(_round, sampler, members)
        times = measure_times(functions, device)
        products = counter.get_total_flops() / (product.operations / times["product"])
        written = 2 * 4 * networks * sampler.target.num_weights / (copy.bytes / times["copy"])
        bound = "rate of matrix products" if products > written else "bandwidth of copies"
        share = max(products, written) / times["ours"]
        part, case = f"sampler of {name}", f"{networks:,} networks"
        yield Ratio(part, case, share, bound, times["ours"])
        if "bfloat16" in times:
            rounded = times["bfloat16"]
            yield Ratio(part, f"{case} in bfloat16", times["ours"] / rounded, "times as fast as in float32", rounded)


def _round(sampler: WeightSampler, members: range) -> None:
    with multiply_in("bfloat16", sampler.device):
        sampler.sample(0, members)
