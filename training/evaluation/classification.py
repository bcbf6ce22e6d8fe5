"""Metrics of a classifier.

Shapes: S sampled networks, B inputs, K classes.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from models.checkpoint import Checkpoint
from models.predictions.detection import Calibration, list_sizes
from models.predictions.prediction import Outputs, Prediction, ScoreName, interpret
from models.tasks.classification import Classification, measure_uncertainty
from models.tasks.probabilities import average_logits, measure_disagreement
from training.data.dataset import Examples
from training.evaluation.diversity import measure_layer_norms
from training.evaluation.evaluation import PROMISE_SEEDS, SEED, evaluate_parts
from training.evaluation.flags import judge_any, measure_flags
from training.evaluation.growth import measure_foreign_growth, measure_growth
from training.evaluation.measures import (
    id_flagged_at_95_ood,
    measure_accuracy,
    measure_augrc,
    measure_aupr,
    measure_aurc,
    measure_auroc,
    measure_brier,
    measure_coverage,
    measure_ece,
    measure_nll,
    ood_missed_at_5_id,
)
from training.evaluation.metrics import (
    ClassificationMetrics,
    ClassMetrics,
    EnsembleMetrics,
    OutlierMetrics,
    ProbabilityMetrics,
    SeparationMetrics,
    SetMetrics,
    SingleMetrics,
)
from training.evaluation.summaries import average, estimate_share, measure_share, summarize

SCORES: tuple[ScoreName, ...] = (
    "predictive_entropy",
    "mutual_information",
    "energy",
    "max_probability",
    "variation_ratio",
)
"""Scores that outliers are told by, besides the one that raises the flag."""


def measure_classification(
    checkpoint: Checkpoint, test: Examples, outputs: Mapping[str, Outputs]
) -> ClassificationMetrics:
    """Metrics of a calibrated classifier on the test split, whose outputs are `outputs["test"]`, and on other sets."""
    task, calibration, target = checkpoint.config.task, checkpoint.calibration, checkpoint.config.target
    assert isinstance(task, Classification)
    assert calibration is not None
    inside = outputs["test"]
    prediction = interpret(task, inside)
    networks = len(prediction.members)
    accuracies = (prediction.members.argmax(-1) == test.labels).double().mean(1)
    answers = interpret(task, evaluate_parts(checkpoint, test.inputs, PROMISE_SEEDS))
    classes = measure_classes(task.classes, prediction.probabilities.argmax(-1), test.labels)
    return ClassificationMetrics(
        test_inputs=len(test),
        networks=networks,
        seed=SEED,
        single=SingleMetrics(
            accuracy_mean=float(accuracies.mean()),
            accuracy_std=summarize(accuracies).std,
            accuracy_min=float(accuracies.min()),
            accuracy_max=float(accuracies.max()),
            nll=average([measure_nll(logits.double().log_softmax(-1), test.labels) for logits in inside.plain]),
        ),
        ensembles=tuple(
            measure_ensembles(inside.plain, test.labels, size, calibration)
            for size in list_sizes(networks, least=calibration.least_size)
        ),
        disagreement=measure_disagreement(prediction.members),
        mutual_information=float(prediction.score("mutual_information").mean()),
        flags=measure_flags(calibration, answers),
        flagged_by_any=measure_share(judge_any(calibration, answers)),
        sets=tuple(_measure_sets(calibration, answers, test.labels, 1 - rate) for rate in calibration.rates),
        layer_norms=measure_layer_norms(target, checkpoint.sampler.sample(SEED, range(networks))),
        outliers=tuple(
            _measure_outliers(calibration, task, name, inside, outside)
            for name, outside in outputs.items()
            if outside is not inside
        ),
        classes=classes,
        majority_accuracy=int(test.labels.bincount().max()) / len(test),
        balanced_accuracy=average([c.recall.share for c in classes if c.recall]),
        growth=measure_growth(calibration, answers, prediction, test.labels),
        version=checkpoint.version,
    )


def measure_classes(classes: Sequence[str], answers: Tensor, labels: Tensor) -> tuple[ClassMetrics, ...]:
    """Recall of each class, from the predicted classes [B] and the labels [B]."""
    found = []
    for number, name in enumerate(classes):
        right = answers[labels == number] == number
        found.append(ClassMetrics(name, estimate_share(measure_share(right), len(right)) if len(right) else None))
    return tuple(found)


def measure_ensembles(logits: Tensor, labels: Tensor, size: int, calibration: Calibration) -> EnsembleMetrics:
    """Metrics of the S // size disjoint ensembles among members, from their logits [S, B, K] and labels [B]."""
    parts = [measure_uncertainty(part) for part in logits.split(size) if len(part) == size]
    logs = [average_logits(part.double()) for part in logits.split(size) if len(part) == size]
    judged = [(part.predictive_entropy, part.probabilities.argmax(-1) != labels) for part in parts]
    return EnsembleMetrics(
        size=size,
        ensembles=len(parts),
        accuracy=average([measure_accuracy(part.probabilities, labels) for part in parts]),
        aurc=average([measure_aurc(*part) for part in judged]),
        plain=_measure_probabilities(logs, labels),
        temperature=calibration.temperature_for(size),
        tempered=_measure_probabilities([calibration.temper(part, size) for part in logs], labels),
        augrc=average([measure_augrc(*part) for part in judged]),
        coverage_at_1_risk=average([measure_coverage(*part, risk=0.01) for part in judged]),
    )


def _measure_probabilities(logs: list[Tensor], labels: Tensor) -> ProbabilityMetrics:
    """Means over ensembles, each given as ln p [B, K]."""
    ensembles = [part.exp() for part in logs]
    return ProbabilityMetrics(
        nll=average([measure_nll(part, labels) for part in logs]),
        brier=average([measure_brier(probabilities, labels) for probabilities in ensembles]),
        ece=average([measure_ece(probabilities, labels) for probabilities in ensembles]),
        adaptive_ece=average([measure_ece(probabilities, labels, adaptive=True) for probabilities in ensembles]),
    )


def _measure_outliers(
    calibration: Calibration, task: Classification, name: str, inside: Outputs, outside: Outputs
) -> OutlierMetrics:
    networks = len(inside.plain)
    test, other = interpret(task, inside), interpret(task, outside)
    judgements = calibration.judge(other)
    usual, foreign = (found["out_of_distribution"] for found in (calibration.judge(test), judgements))
    scores = {name: (test.score(name), other.score(name)) for name in SCORES}
    scores |= {usual.score_name: (usual.scores, foreign.scores)}
    pairs = {
        size: [interpret(task, outputs.prefix(size)).score("predictive_entropy") for outputs in (inside, outside)]
        for size in list_sizes(networks)
    }
    return OutlierMetrics(
        dataset=name,
        inputs=outside.plain.shape[1],
        mutual_information=float(other.score("mutual_information").mean()),
        scores={name: measure_separation(*both) for name, both in scores.items()},
        by_size={size: measure_separation(*pair) for size, pair in pairs.items()},
        flagged={flag: measure_share(judgement.flagged) for flag, judgement in judgements.items()},
        flagged_by_any=measure_share(judge_any(calibration, other)),
        growth=measure_foreign_growth(calibration, test, other),
    )


def measure_separation(inside: Tensor, outside: Tensor) -> SeparationMetrics:
    """Metrics of how well scores tell m outliers, [m], from n inputs, [n]."""
    return SeparationMetrics(
        auroc=measure_auroc(inside, outside),
        aupr=measure_aupr(inside, outside),
        id_flagged_at_95_ood=id_flagged_at_95_ood(inside, outside),
        ood_missed_at_5_id=ood_missed_at_5_id(inside, outside),
    )


def _measure_sets(calibration: Calibration, prediction: Prediction, labels: Tensor, coverage: float) -> SetMetrics:
    sets = calibration.choose_sets(prediction, coverage)
    covered = sets.members.gather(1, labels[:, None])
    return SetMetrics(sets.coverage, measure_share(covered), float(sets.members.double().sum(1).mean()))
