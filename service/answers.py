"""From what the catalog and the engine know to what clients read."""

from dataclasses import asdict

from models.checkpoint import Checkpoint
from models.uncertainty import Uncertainty
from service.catalog import Catalog
from service.engine import Prediction
from service.schemas import (
    EnsembleIdentity,
    FlagAnswer,
    InputDescription,
    ModelDescription,
    ModelIdentity,
    ModelsAnswer,
    ModelSummary,
    PredictAnswer,
    PredictionAnswer,
    RefusedModel,
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
    """What a client must know to send images."""
    return ModelSummary(
        **_identify(checkpoint).model_dump(),
        classes=list(checkpoint.config.classes),
        input=InputDescription.model_validate(asdict(checkpoint.config.input)),
    )


def describe_model(checkpoint: Checkpoint) -> ModelDescription:
    """All that is known of a model."""
    target = checkpoint.config.target
    return ModelDescription(
        **summarize_model(checkpoint).model_dump(),
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
    members, uncertainty = prediction.member_probabilities, prediction.uncertainty
    size, images, _ = members.shape
    labels = uncertainty.probabilities.argmax(-1).tolist()
    probabilities = uncertainty.probabilities.tolist()
    measures = {name: getattr(uncertainty, name).tolist() for name in UncertaintyAnswer.model_fields}
    flags = _raise_flags(checkpoint, uncertainty, size)
    by_member = members.double().round(decimals=7).transpose(0, 1).tolist() if with_members else [None] * images
    return PredictAnswer(
        model=_identify(checkpoint),
        ensemble=EnsembleIdentity(size=size, seed=seed),
        predictions=[
            PredictionAnswer(
                label=checkpoint.config.classes[labels[i]],
                class_index=labels[i],
                probabilities=probabilities[i],
                uncertainty=UncertaintyAnswer(**{name: values[i] for name, values in measures.items()}),
                flags={kind: answers[i] for kind, answers in flags.items()},
                member_probabilities=by_member[i],
            )
            for i in range(images)
        ],
    )


def _identify(checkpoint: Checkpoint) -> ModelIdentity:
    return ModelIdentity(name=checkpoint.name, version=checkpoint.version, method=checkpoint.config.method.method)


def _raise_flags(checkpoint: Checkpoint, uncertainty: Uncertainty, ensemble_size: int) -> dict[str, list[FlagAnswer]]:
    """For each kind of flag, one for each image."""
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
                calibration_images=calibration.n,
            )
            for flagged, score in zip(judgement.flagged.tolist(), judgement.scores.tolist(), strict=True)
        ]
    }
