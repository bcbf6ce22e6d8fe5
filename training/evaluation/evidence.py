"""Evidence: what a comparison needs to know about a classifier, kept in the checkpoint's `training` folder.

Shapes: M networks, B inputs, K classes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors.torch import save as serialize_tensors
from torch import Tensor

from models.checkpoint import Checkpoint, Training
from models.checkpoint_files import write_file
from models.predictions.detection import list_sizes
from models.predictions.prediction import Outputs, Prediction, evaluate_members, interpret
from models.tasks.classification import Classification
from training.data.dataset import Dataset
from training.data.datasets import IMPORTED
from training.evaluation.evaluation import SEED
from training.evaluation.measures import measure_auroc, measure_nll
from training.tensors import read_tensors, select_below

FILE = Path("training", "evidence.safetensors")


@dataclass(frozen=True)
class Origin:
    """Where evidence comes from."""

    version: str
    """Version of the checkpoint."""
    sets: dict[str, str]
    """SHA-256 of each set's inputs, by name; the test set is `test`."""

    def covers(self, other: "Origin") -> bool:
        """Whether this is the same checkpoint, on at least the same sets."""
        return self.version == other.version and self.sets.items() >= other.sets.items()


@dataclass(frozen=True)
class Evidence:
    """A classifier's answers, as far as a comparison needs them."""

    origin: Origin
    method: str
    seed: int
    networks: int
    """Size of the largest ensemble."""
    curves: dict[str, dict[int, float]]
    """Metrics by the number of networks."""
    log_probabilities: Tensor
    """ln p of the largest ensemble on the test set, at its temperature, [B, K]."""
    entropies: dict[str, Tensor]
    """Predictive entropy by set, [B]."""
    flag_scores: dict[str, Tensor]
    """The score that raises `out_of_distribution` by set, [B]."""
    members: dict[str, Tensor]
    """ln p of separately trained networks by split, [M, B, K]; empty for other methods, and in folds."""


def trace_origin(checkpoint: Checkpoint, dataset: Dataset, outliers: Mapping[str, Tensor]) -> Origin:
    """The origin of evidence of a checkpoint on the test set and on outliers [B, …]."""
    sets = {"test": dataset.test.inputs, **outliers}
    digests = {name: hashlib.sha256(inputs.contiguous().numpy().tobytes()).hexdigest() for name, inputs in sets.items()}
    return Origin(checkpoint.version, digests)


def gather_evidence(
    checkpoint: Checkpoint, dataset: Dataset, origin: Origin, outputs: Mapping[str, Outputs]
) -> Evidence:
    """Makes evidence of a calibrated classifier from its outputs on sets, which `evaluate_sets` gives."""
    config, calibration = checkpoint.config, checkpoint.calibration
    task = config.task
    assert isinstance(task, Classification)
    assert calibration is not None
    outliers = [name for name in outputs if name != "test"]
    curves: dict[str, dict[int, float]] = {name: {} for name in ("NLL", *(f"{name} AUROC" for name in outliers))}
    predictions: dict[str, Prediction] = {}
    for size in list_sizes(len(outputs["test"].plain), least=calibration.least_size):
        predictions = {name: interpret(task, o.prefix(size)) for name, o in outputs.items()}
        tempered = calibration.temper(predictions["test"].log_probabilities, size)
        curves["NLL"][size] = measure_nll(tempered, dataset.test.labels)
        inside = predictions["test"].score("predictive_entropy")
        for name in outliers:
            curves[f"{name} AUROC"][size] = measure_auroc(inside, predictions[name].score("predictive_entropy"))
    members = {}
    if checkpoint.sampler.num_networks is not None and dataset.folds is None:
        validation = checkpoint.input.prepare(dataset.validation.inputs)
        held = checkpoint.sampler.num_networks
        members = {
            "test": outputs["test"].plain.log_softmax(-1),
            "validation": evaluate_members(checkpoint.sampler, validation, SEED, held).log_softmax(-1),
        }
    return Evidence(
        origin=origin,
        method=name_method(config.training),
        seed=config.training.seed,
        networks=len(outputs["test"].plain),
        curves=curves,
        log_probabilities=tempered,
        entropies={name: p.score("predictive_entropy") for name, p in predictions.items()},
        flag_scores={n: calibration.judge(p)["out_of_distribution"].scores for n, p in predictions.items()},
        members=members,
    )


def name_method(training: Training) -> str:
    """The recipe with its options: the command without directory and seed. Of an import, the networks alone."""
    command = training.command.removeprefix("hyperdraw-train ").replace(" --out DIR", "")
    if training.recipe == IMPORTED:
        return command.partition(" --classes ")[0]
    return command.replace(f" --seed {training.seed}", "")


def save_evidence(directory: Path, evidence: Evidence) -> None:
    """Writes what `load_evidence` reads. Earlier evidence on other outliers stays if it is of the same version."""
    earlier = load_evidence(directory)
    known = asdict(evidence if earlier is None else _keep_sets(evidence, earlier))
    groups = {name: known.pop(name) for name in ("entropies", "flag_scores", "members")}
    tensors = {"log_probabilities": known.pop("log_probabilities")}
    tensors |= {f"{group}.{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    (directory / FILE).parent.mkdir(parents=True, exist_ok=True)
    write_file(directory / FILE, serialize_tensors(contents, {"evidence": json.dumps(known)}))


def _keep_sets(evidence: Evidence, earlier: Evidence) -> Evidence:
    origin, before = evidence.origin, earlier.origin
    if (origin.version, origin.sets["test"]) != (before.version, before.sets["test"]):
        return evidence
    return replace(
        evidence,
        origin=Origin(origin.version, before.sets | origin.sets),
        curves=earlier.curves | evidence.curves,
        entropies=earlier.entropies | evidence.entropies,
        flag_scores=earlier.flag_scores | evidence.flag_scores,
    )


def load_evidence(directory: Path) -> Evidence | None:
    """Reads the evidence that was written last, or None if there is none in the current format."""
    if not (directory / FILE).exists():
        return None
    tensors, metadata = read_tensors(directory / FILE)
    scores = select_below("flag_scores", tensors)
    if not scores:
        return None
    known = json.loads(metadata["evidence"])
    curves = {name: {int(size): value for size, value in curve.items()} for name, curve in known.pop("curves").items()}
    return Evidence(
        **known | {"origin": Origin(**known["origin"])},
        curves=curves,
        log_probabilities=tensors["log_probabilities"],
        entropies=select_below("entropies", tensors),
        flag_scores=scores,
        members=select_below("members", tensors),
    )
