"""From what the catalog and the engine know to what clients read."""

import json
from dataclasses import asdict

from safetensors.torch import save
from torch import Tensor

from models.checkpoint import Checkpoint
from models.detection import Calibration
from models.prediction import Prediction
from models.task import Classification, Regression
from models.uncertainty import RegressionUncertainty, Uncertainty
from service.batches import Answer
from service.catalog import Catalog
from service.schemas import (
    EnsembleIdentity,
    FlagAnswer,
    ModelDescription,
    ModelIdentity,
    ModelsAnswer,
    ModelSummary,
    NumberAnswer,
    PredictAnswer,
    PredictionAnswer,
    PredictionSetAnswer,
    PredictParameters,
    RefusedModel,
    RegressionAnswer,
    SamplerDescription,
    TargetDescription,
    UncertaintyAnswer,
)


def list_models(catalog: Catalog) -> ModelsAnswer:
    """All models, the default first, and what was refused."""
    return ModelsAnswer(
        default=next(iter(catalog)).name,
        models=[summarize_model(checkpoint) for checkpoint in catalog],
        refused=[RefusedModel(name=name, reason=reason) for name, reason in catalog.refused.items()],
    )


def summarize_model(checkpoint: Checkpoint) -> ModelSummary:
    """What a client must know to send inputs and to read answers."""
    config = checkpoint.config
    num_networks = checkpoint.sampler.num_networks
    sampler = SamplerDescription(fresh_draws=num_networks is None, num_networks=num_networks)
    return ModelSummary(**identify(checkpoint).model_dump(), sampler=sampler, input=config.input, task=config.task)


def describe_model(checkpoint: Checkpoint) -> ModelDescription:
    """All that is known of a model."""
    target = checkpoint.config.target
    return ModelDescription(
        **dict(summarize_model(checkpoint)),
        target=TargetDescription(
            num_weights=target.num_weights,
            parameters={name: list(shape) for name, shape in target.parameter_shapes.items()},
            source=target.source,
        ),
        training=asdict(checkpoint.config.training),
        calibration=asdict(checkpoint.calibration) if checkpoint.calibration else None,
        metrics=dict(checkpoint.metrics) if checkpoint.metrics else None,
    )


def answer_prediction(checkpoint: Checkpoint, answer: Answer, parameters: PredictParameters) -> PredictAnswer:
    """The answer to a request, from the engine's.

    Raises:
        ValueError: if a rate or coverage is asked for that was not calibrated.
    """
    prediction = answer.prediction
    size, inputs, _ = prediction.members.shape
    calibration, task = checkpoint.calibration, checkpoint.config.task
    judged = _raise_flags(calibration, prediction, parameters.false_alarm_rate) if calibration else {}
    flags = [{kind: answers[i] for kind, answers in judged.items()} for i in range(inputs)]
    ensemble = EnsembleIdentity(size=size, seed=answer.seed)
    if isinstance(task, Regression):
        numbers = _answer_numbers(task, prediction, flags, parameters.members)
        return PredictAnswer(model=identify(checkpoint), ensemble=ensemble, predictions=numbers)
    if calibration:
        ensemble.temperature = calibration.temperature_for(size)
    classes = _answer_classes(task, calibration, prediction, flags, parameters)
    return PredictAnswer(model=identify(checkpoint), ensemble=ensemble, predictions=classes)


def pack_prediction(checkpoint: Checkpoint, answer: Answer, parameters: PredictParameters) -> bytes:
    """The answer's numbers as a safetensors file: each quantity as one tensor whose first axis is the inputs, or the
    members and then the inputs; what holds for all inputs is in the metadata.

    Raises:
        ValueError: as `answer_prediction` does.
    """
    prediction, calibration = answer.prediction, checkpoint.calibration
    size, uncertainty = len(prediction.members), prediction.uncertainty
    identity = EnsembleIdentity(size=size, seed=answer.seed)
    tensors = {name: tensor for name, tensor in vars(uncertainty).items() if isinstance(tensor, Tensor)}
    thresholds, coverage = {}, {}
    if calibration:
        for flag, judgement in calibration.judge(prediction, parameters.false_alarm_rate).items():
            tensors |= {f"flags.{flag}.flagged": judgement.flagged, f"flags.{flag}.score": judgement.scores}
            thresholds[flag] = {
                "threshold": judgement.threshold,
                "score_name": judgement.score_name,
                "false_alarm_rate": judgement.false_alarm_rate,
                "calibrated_ensemble_size": judgement.ensemble_size,
                "calibration_inputs": calibration.n,
            }
        if isinstance(uncertainty, Uncertainty):
            identity.temperature = calibration.temperature_for(size)
            tensors["probabilities"] = calibration.temper(uncertainty.probabilities, size)
            if parameters.coverage is not None:
                sets = calibration.choose_sets(tensors["probabilities"], size, parameters.coverage)
                tensors["prediction_set"] = sets.members
                coverage = {"coverage": str(sets.coverage)}
    if parameters.members:
        tensors["members"] = prediction.members
    metadata = {
        "model": identify(checkpoint).model_dump_json(),
        "ensemble": identity.model_dump_json(exclude_none=True),
        "task": json.dumps(asdict(checkpoint.config.task)),
        "flags": json.dumps(thresholds),
        **coverage,
    }
    content = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return save({name: tensor.contiguous() for name, tensor in content.items()}, metadata)


def _answer_classes(
    task: Classification,
    calibration: Calibration | None,
    prediction: Prediction,
    flags: list[dict[str, FlagAnswer]],
    parameters: PredictParameters,
) -> list[PredictionAnswer]:
    uncertainty = prediction.uncertainty
    assert isinstance(uncertainty, Uncertainty)
    size = len(prediction.members)
    probabilities, sets = uncertainty.probabilities, None
    if calibration is not None:
        probabilities = calibration.temper(probabilities, size)
        if parameters.coverage is not None:
            sets = calibration.choose_sets(probabilities, size, parameters.coverage)
    labels = probabilities.argmax(-1).tolist()
    measures = {name: getattr(uncertainty, name).tolist() for name in UncertaintyAnswer.model_fields}
    with_members = parameters.members
    members = prediction.members.double().round(decimals=7).transpose(0, 1).tolist() if with_members else None
    return [
        PredictionAnswer(
            label=task.classes[label],
            class_index=label,
            probabilities=row,
            uncertainty=UncertaintyAnswer(**{name: values[i] for name, values in measures.items()}),
            flags=flags[i],
            prediction_set=_answer_set(task, sets.members[i], sets.coverage) if sets else None,
            member_probabilities=members[i] if members else None,
        )
        for i, (label, row) in enumerate(zip(labels, probabilities.tolist(), strict=True))
    ]


def _answer_set(task: Classification, members: Tensor, coverage: float) -> PredictionSetAnswer:
    labels = [name for name, member in zip(task.classes, members.tolist(), strict=True) if member]
    return PredictionSetAnswer(labels=labels, coverage=coverage)


def _answer_numbers(
    task: Regression, prediction: Prediction, flags: list[dict[str, FlagAnswer]], with_members: bool
) -> list[RegressionAnswer]:
    uncertainty = prediction.uncertainty
    assert isinstance(uncertainty, RegressionUncertainty)
    measures = {
        "mean": uncertainty.mean,
        "standard_deviation": uncertainty.variance.sqrt(),
        "variance": uncertainty.variance,
        "noise_variance": uncertainty.noise_variance,
        "epistemic_variance": uncertainty.epistemic_variance,
    }
    numbers = {name: tensor.tolist() for name, tensor in measures.items()}
    members = prediction.members.transpose(0, 1).tolist() if with_members else None
    return [
        RegressionAnswer(
            outputs={
                output: NumberAnswer(**{name: values[i][k] for name, values in numbers.items()})
                for k, output in enumerate(task.names)
            },
            flags=flags[i],
            member_outputs=members[i] if members else None,
        )
        for i in range(len(uncertainty.mean))
    ]


def identify(checkpoint: Checkpoint) -> ModelIdentity:
    """Which model, at which version."""
    return ModelIdentity(name=checkpoint.name, version=checkpoint.version, method=checkpoint.config.method.method)


def _raise_flags(calibration: Calibration, prediction: Prediction, rate: float | None) -> dict[str, list[FlagAnswer]]:
    """For each kind of flag, one for each input."""
    return {
        flag: [
            FlagAnswer(
                flagged=flagged,
                score=score,
                threshold=judgement.threshold,
                score_name=judgement.score_name,
                false_alarm_rate=judgement.false_alarm_rate,
                calibrated_ensemble_size=judgement.ensemble_size,
                calibration_inputs=calibration.n,
            )
            for flagged, score in zip(judgement.flagged.tolist(), judgement.scores.tolist(), strict=True)
        ]
        for flag, judgement in calibration.judge(prediction, rate).items()
    }
