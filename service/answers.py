"""From what the catalog and the engine know to what clients read."""

from dataclasses import asdict

from models.checkpoint import Checkpoint
from models.task import Classification, Regression
from models.uncertainty import RegressionUncertainty, Uncertainty
from service.catalog import Catalog
from service.engine import Prediction
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
    RefusedModel,
    RegressionAnswer,
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
    return ModelSummary(**_identify(checkpoint).model_dump(), input=config.input, task=config.task)


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


def answer_prediction(checkpoint: Checkpoint, prediction: Prediction, seed: int, with_members: bool) -> PredictAnswer:
    """The answer to a request, from what the engine found; `seed` is the one that was used."""
    size, inputs, _ = prediction.members.shape
    judged = _raise_flags(checkpoint, prediction.uncertainty, size)
    flags = [{kind: answers[i] for kind, answers in judged.items()} for i in range(inputs)]
    return PredictAnswer(
        model=_identify(checkpoint),
        ensemble=EnsembleIdentity(size=size, seed=seed),
        predictions=(
            _answer_classes(checkpoint.config.task, prediction, flags, with_members)
            if isinstance(checkpoint.config.task, Classification)
            else _answer_numbers(checkpoint.config.task, prediction, flags, with_members)
        ),
    )


def _answer_classes(
    task: Classification, prediction: Prediction, flags: list[dict[str, FlagAnswer]], with_members: bool
) -> list[PredictionAnswer]:
    uncertainty = prediction.uncertainty
    assert isinstance(uncertainty, Uncertainty)
    labels = uncertainty.probabilities.argmax(-1).tolist()
    probabilities = uncertainty.probabilities.tolist()
    measures = {name: getattr(uncertainty, name).tolist() for name in UncertaintyAnswer.model_fields}
    members = prediction.members.double().round(decimals=7).transpose(0, 1).tolist() if with_members else None
    return [
        PredictionAnswer(
            label=task.classes[label],
            class_index=label,
            probabilities=probabilities[i],
            uncertainty=UncertaintyAnswer(**{name: values[i] for name, values in measures.items()}),
            flags=flags[i],
            member_probabilities=members[i] if members else None,
        )
        for i, label in enumerate(labels)
    ]


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


def _identify(checkpoint: Checkpoint) -> ModelIdentity:
    return ModelIdentity(name=checkpoint.name, version=checkpoint.version, method=checkpoint.config.method.method)


def _raise_flags(
    checkpoint: Checkpoint, uncertainty: Uncertainty | RegressionUncertainty, ensemble_size: int
) -> dict[str, list[FlagAnswer]]:
    """For each kind of flag, one for each input."""
    if checkpoint.calibration is None:
        return {}
    calibration = checkpoint.calibration.out_of_distribution
    judgement = calibration.judge(uncertainty, ensemble_size)
    return {
        "out_of_distribution": [
            FlagAnswer(
                flagged=flagged,
                score=score,
                threshold=judgement.threshold.value,
                score_name=calibration.score,
                false_alarm_rate=calibration.false_alarm_rate,
                calibrated_ensemble_size=judgement.threshold.ensemble_size,
                calibration_inputs=calibration.n,
            )
            for flagged, score in zip(judgement.flagged.tolist(), judgement.scores.tolist(), strict=True)
        ]
    }
