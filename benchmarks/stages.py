"""Where the time for one input goes: each stage of an answer by 100 networks, and what arithmetic and memory need."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.evaluator import count_operations
from benchmarks.machine import Copy, MatrixProduct
from benchmarks.report import Ratio
from benchmarks.timing import measure_times
from models.checkpoint import load_checkpoint
from models.inputs.image import ImageSpec
from models.precision import DTYPES, Precision, choose_precision
from models.predictions.prediction import JITTERED_NETWORKS, draw, evaluate_draw, interpret, prepare

NETWORKS = 100
ROUNDS = 30


@torch.inference_mode()
def measure_stages(directory: Path, device: torch.device) -> Iterator[Ratio]:
    """Shares of the time for one input, in each precision that the device multiplies; and the evaluator's bound."""
    checkpoint = load_checkpoint(directory, device)
    sampler, spec, calibration = checkpoint.sampler, checkpoint.config.input, checkpoint.calibration
    assert isinstance(spec, ImageSpec)
    assert calibration is not None
    task, target, members = checkpoint.config.task, sampler.target, range(NETWORKS)
    raw = torch.randint(256, (1, *spec.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    product, copy = MatrixProduct(device), Copy(device)
    precisions: set[Precision] = {"float32", choose_precision(device)}
    for precision in sorted(precisions, reverse=True):
        latents, networks = sampler.draw_latents(0, members), draw(sampler, spec, task, 0, members, precision)
        weights, inputs = sampler.generate(latents), prepare(spec, raw, checkpoint.density)
        outputs = evaluate_draw(networks, target, spec, inputs)
        stages: dict[str, Callable[[], object]] = {
            "draw the latents": partial(sampler.draw_latents, 0, members),
            "generate the weights": partial(sampler.generate, latents),
            "arrange the weights": partial(target.arrange, weights, DTYPES[precision]),
            "draw the noise": partial(spec.draw_noise, 0, members[:JITTERED_NETWORKS]),
            "prepare the input, and its distance": partial(prepare, spec, raw, checkpoint.density),
            "evaluate": partial(target.forward, networks.weights, inputs.prepared.to(device)),
            "noisy copies": partial(evaluate_draw, networks, target, spec, inputs),
            "interpret": partial(interpret, task, outputs),
            "judge": partial(calibration.judge, interpret(task, outputs)),
        }
        times = measure_times({**stages, "product": product, "copy": copy}, device, ROUNDS)
        times["noisy copies"] -= times["evaluate"]
        whole = sum(times[stage] for stage in stages)
        for stage in stages:
            yield Ratio("one input", f"{precision}, {stage}", times[stage] / whole, "the whole", times[stage])
        arithmetic = count_operations(target) * NETWORKS / (product.operations / times["product"])
        reading = NETWORKS * target.num_weights * DTYPES[precision].itemsize / (copy.bytes / times["copy"])
        bound, taken = arithmetic + reading, times["evaluate"]
        yield Ratio("one input", f"{precision}, evaluate", taken / bound, "float32 products and reading", taken, True)
