"""Answers for clients, from the catalog's and the engine's data."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from models.inputs.pixels import encode_image
from models.model import Model
from models.predictions.detection import Calibration, Judgement
from models.predictions.path import PathKind
from models.predictions.prediction import join_parts
from models.predictions.stopping import StoppingRule
from models.sequences.model import SequenceModel
from models.tasks.kind import Flag
from models.tasks.regression import Regression
from models.tasks.task import Task
from service.api.findings import Findings, apply_calibration
from service.api.growing import GrownEnsemble
from service.api.schemas import (
    AttackAnswer,
    AttackDescription,
    AttackParameters,
    ExampleDescription,
    FlagAnswer,
    IntervalAnswer,
    ModelDescription,
    ModelIdentity,
    ModelsAnswer,
    ModelSummary,
    NumberAnswer,
    PredictAnswer,
    PredictionAnswer,
    PredictionSetAnswer,
    RefusedModel,
    RegressionAnswer,
    RequestLimits,
    SamplerDescription,
    SequenceModelDescription,
    SequenceModelSummary,
    SequenceTargetDescription,
    SequenceTask,
    TargetDescription,
    UncertaintyAnswer,
    WalkAnswer,
)
from service.catalog import Catalog
from service.engine.batches import Answer
from service.engine.engine import ServedModel
from service.settings import Settings
from service.versions import Served


def list_models(catalog: Catalog, settings: Settings) -> ModelsAnswer:
    """All models, the default first, those that were refused, and what requests may hold."""
    return ModelsAnswer(
        default=next(iter(catalog)).name,
        limits=RequestLimits(**settings.model_dump(include=set(RequestLimits.model_fields))),
        models=[_summarize(served.stable, served) for served in catalog.served.values()],
        refused=[RefusedModel(name=name, reason=reason) for name, reason in catalog.refused.items()],
    )


def _summarize(model: ServedModel, served: Served) -> ModelSummary | SequenceModelSummary:
    if isinstance(model, SequenceModel):
        return summarize_sequence_model(model, served)
    return summarize_model(model, served)


def summarize_model(model: Model, served: Served) -> ModelSummary:
    """Summary of one of a model's versions: what a client must know to send inputs and read answers."""
    return ModelSummary(
        **identify(model).model_dump(),
        versions=list_versions(served),
        sampler=describe_sampler(model),
        input=model.input,
        backbone=model.backbone,
        task=model.task,
    )


def list_versions(served: Served) -> dict[str, str]:
    """Digests of a model's versions, by their names."""
    return {role: model.version for role, model in served.roles.items()}


def describe_model(model: Model, served: Served) -> ModelDescription:
    """Full description of one of a model's versions."""
    target = model.target
    return ModelDescription(
        **dict(summarize_model(model, served)),
        target=TargetDescription(
            num_weights=target.num_weights,
            parameters={name: list(shape) for name, shape in target.parameter_shapes.items()},
            source=target.source,
        ),
        training=asdict(model.training),
        calibration=asdict(model.calibration) if model.calibration else None,
        metrics=dict(model.metrics) if model.metrics else None,
        examples=[
            ExampleDescription(media_type=example.media_type, **asdict(example.entry)) for example in model.examples
        ],
    )


def describe_sampler(model: ServedModel) -> SamplerDescription:
    """What a model's ensembles are drawn from."""
    return SamplerDescription(
        fresh_draws=model.num_networks is None,
        num_networks=model.num_networks,
        ensemble_size=model.default_size,
        is_distribution=model.num_networks != 1,
    )


def describe_sequence_task(model: SequenceModel) -> SequenceTask:
    """What a model of sequences predicts."""
    return SequenceTask(names=["next character" if model.text else "next point"])


def summarize_sequence_model(model: SequenceModel, served: Served) -> SequenceModelSummary:
    """Summary of one of the versions of a model of sequences."""
    return SequenceModelSummary(
        **identify(model).model_dump(),
        versions=list_versions(served),
        sampler=describe_sampler(model),
        input=model.input,
        task=describe_sequence_task(model),
    )


def describe_sequence_model(model: SequenceModel, served: Served) -> SequenceModelDescription:
    """Full description of one of the versions of a model of sequences."""
    shapes = model.target.parameter_shapes
    return SequenceModelDescription(
        **dict(summarize_sequence_model(model, served)),
        target=SequenceTargetDescription(
            num_weights=sum(map(math.prod, shapes.values())),
            size=model.target.size,
            source=model.target.source,
            parameters={name: list(shape) for name, shape in shapes.items()},
        ),
        training=asdict(model.training),
        calibration=asdict(model.calibration) if model.calibration else None,
        metrics=dict(model.metrics) if model.metrics else None,
    )


def answer_prediction(
    model: Model, findings: Sequence[Findings], rule: StoppingRule | None, members: Tensor | None = None
) -> PredictAnswer:
    """The answer to a prediction request.

    Args:
        model: the model that answered.
        findings: the findings of each part of the answer.
        rule: the rule by which ensembles stopped growing, if any.
        members: the prediction of each member, [S, B, K], if requested.
    """
    ensemble = findings[-1].ensemble  # parts grow, so the last is the largest
    if rule:
        ensemble = ensemble.model_copy(update={"temperature": None})
    predictions: Any = answer_inputs(model.task, model.calibration, findings, rule, members)
    return PredictAnswer(model=identify(model), ensemble=ensemble, predictions=predictions)


def answer_inputs(
    task: Task,
    calibration: Calibration | None,
    findings: Sequence[Findings],
    rule: StoppingRule | None,
    members: Tensor | None = None,
) -> list[PredictionAnswer | RegressionAnswer]:
    """The answer for each input, in order. The other arguments are those of `answer_prediction`."""
    found: dict[int, PredictionAnswer | RegressionAnswer] = {}
    for own in findings:
        answers = _answer_part(task, calibration, own, members)
        if rule:
            settled = own.ensemble.size < rule.rounds[-1].ensemble_size
            grown = GrownEnsemble(size=own.ensemble.size, settled=settled, temperature=own.ensemble.temperature)
            for one in answers:
                one.ensemble = grown
        found |= dict(zip(own.positions.tolist(), answers, strict=True))
    return [found[i] for i in range(len(found))]


def _answer_part(
    task: Task, calibration: Calibration | None, findings: Findings, members: Tensor | None
) -> Sequence[PredictionAnswer | RegressionAnswer]:
    judged = _raise_flags(calibration, findings.judgements) if calibration else {}
    flags = [{kind: answers[i] for kind, answers in judged.items()} for i in range(len(findings.positions))]
    if isinstance(task, Regression):
        return _answer_numbers(task, findings, flags, members)
    return answer_classes(task.classes, findings, flags, members)


def answer_attack(model: Model, answer: Answer, pixels: Tensor, parameters: AttackParameters) -> AttackAnswer:
    """The answer to an attack, from the engine's answer for two images, uint8 [2, C, H, W], the original first.

    Raises:
        ValueError: if a requested rate or coverage was not calibrated.
    """
    findings = apply_calibration(model, answer, parameters.false_alarm_rate, parameters.coverage)
    told = answer_prediction(model, findings, answer.rule)
    before, after = told.predictions
    assert isinstance(before, PredictionAnswer)
    assert isinstance(after, PredictionAnswer)
    original, adversarial = (base64.b64encode(encode_image(image)).decode() for image in pixels)
    change = float((pixels[1].int() - pixels[0].int()).abs().max()) / 255
    attack = AttackDescription(
        norm=parameters.norm, epsilon=parameters.epsilon, steps=parameters.steps, largest_change=change
    )
    return AttackAnswer(
        model=told.model,
        ensemble=told.ensemble,
        attack=attack,
        original=original,
        adversarial=adversarial,
        before=before,
        after=after,
    )


def answer_walk(model: Model, seed: int, members: tuple[int, int], paths: Mapping[PathKind, Tensor]) -> WalkAnswer:
    """The answer to a walk for one input, from the predictions of each path's networks, [P, 1, K]."""
    task = model.task
    return WalkAnswer(
        model=identify(model),
        seed=seed,
        members=members,
        outputs=list(task.outputs),
        paths={kind: predicted[:, 0].tolist() for kind, predicted in paths.items()},
    )


def pack_prediction(model: Model, answer: Answer, findings: Sequence[Findings], members: Tensor | None = None) -> bytes:
    """The answer's numbers as a safetensors file. The first axis of each tensor counts the inputs, or the members and
    then the inputs. The metadata hold what applies to all inputs. Where ensembles grew, their sizes and thresholds are
    tensors. The arguments are those of `answer_prediction`, and the engine's answer.
    """
    collected = [_collect_tensors(own, grew=answer.rule is not None) for own in findings]
    tensors = {name: join_parts(answer.parts, [own[name] for own in collected]) for name in collected[0]}
    if members is not None:
        tensors["members"] = members
    largest = findings[-1]
    ensemble, coverage = largest.ensemble, largest.coverage
    thresholds = _describe_thresholds(model.calibration, largest.judgements) if model.calibration else {}
    if answer.rule:
        ensemble = ensemble.model_copy(update={"temperature": None})
        for described in thresholds.values():
            del described["threshold"], described["calibrated_ensemble_size"]
    metadata = {
        "model": identify(model).model_dump_json(),
        "ensemble": ensemble.model_dump_json(exclude_none=True),
        "task": json.dumps(asdict(model.task)),
        "flags": json.dumps(thresholds),
        **({"coverage": str(coverage)} if coverage else {}),
    }
    content = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return save({name: tensor.contiguous() for name, tensor in content.items()}, metadata)


def _collect_tensors(findings: Findings, *, grew: bool) -> dict[str, Tensor]:
    """What an answer says of each input, by name, [B, …]; of ensembles that grew also sizes and thresholds."""
    tensors = dict(findings.tensors)
    for flag, judgement in findings.judgements.items():
        tensors |= {f"flags.{flag}.flagged": judgement.flagged, f"flags.{flag}.score": judgement.scores}
        if grew:
            tensors[f"flags.{flag}.threshold"] = torch.full_like(judgement.scores, judgement.threshold)
    if findings.sets:
        tensors["prediction_set"] = findings.sets.members
    if findings.intervals:
        tensors |= {"interval.lower": findings.intervals.lower, "interval.upper": findings.intervals.upper}
    if grew:
        count = len(next(iter(tensors.values())))
        tensors["ensemble_size"] = torch.full((count,), findings.ensemble.size)
    return tensors


def answer_classes(
    classes: Sequence[str], findings: Findings, flags: list[dict[str, FlagAnswer]], members: Tensor | None
) -> list[PredictionAnswer]:
    """The answers for inputs that are classified.

    Args:
        classes: the K classes.
        findings: of B inputs.
        flags: of each input.
        members: probabilities of the S members, [S, B, K], if they were requested.
    """
    probabilities, sets = findings.tensors["probabilities"], findings.sets
    measures = {name: findings.tensors[name].tolist() for name in UncertaintyAnswer.model_fields}
    said = None if members is None else members.double().round(decimals=7).transpose(0, 1).tolist()
    return [
        PredictionAnswer(
            label=classes[label],
            class_index=label,
            probabilities=row,
            uncertainty=UncertaintyAnswer(**{name: values[i] for name, values in measures.items()}),
            flags=flags[i],
            prediction_set=_answer_set(classes, sets.members[i], sets.coverage) if sets else None,
            member_probabilities=said[i] if said else None,
        )
        for i, (label, row) in enumerate(zip(probabilities.argmax(-1).tolist(), probabilities.tolist(), strict=True))
    ]


def _answer_set(classes: Sequence[str], members: Tensor, coverage: float) -> PredictionSetAnswer:
    labels = [name for name, member in zip(classes, members.tolist(), strict=True) if member]
    return PredictionSetAnswer(labels=labels, coverage=coverage)


def _answer_numbers(
    task: Regression, findings: Findings, flags: list[dict[str, FlagAnswer]], members: Tensor | None
) -> list[RegressionAnswer]:
    numbers = {name: findings.tensors[name].tolist() for name in NumberAnswer.model_fields if name in findings.tensors}
    found = findings.intervals
    intervals = found and [
        [IntervalAnswer(lower=lower, upper=upper, coverage=found.coverage) for lower, upper in zip(*ends, strict=True)]
        for ends in zip(found.lower.tolist(), found.upper.tolist(), strict=True)
    ]
    said = None if members is None else members.transpose(0, 1).tolist()
    return [
        RegressionAnswer(
            outputs={
                output: NumberAnswer(
                    **{name: values[i][k] for name, values in numbers.items()},
                    interval=intervals[i][k] if intervals else None,
                )
                for k, output in enumerate(task.names)
            },
            flags=flags[i],
            member_outputs=said[i] if said else None,
        )
        for i in range(len(flags))
    ]


def identify(model: ServedModel) -> ModelIdentity:
    """Name, version and method of a model."""
    return ModelIdentity(name=model.name, version=model.version, method=model.method)


def _describe_thresholds(calibration: Calibration, judgements: Mapping[Flag, Judgement]) -> dict[str, dict[str, Any]]:
    """Score, threshold and calibration of each flag."""
    return {
        flag: {
            "threshold": judgement.threshold,
            "score_name": judgement.score_name,
            "false_alarm_rate": judgement.false_alarm_rate,
            "calibrated_ensemble_size": judgement.ensemble_size,
            "calibration_inputs": calibration.n,
        }
        for flag, judgement in judgements.items()
    }


def _raise_flags(calibration: Calibration, judgements: Mapping[Flag, Judgement]) -> dict[str, list[FlagAnswer]]:
    """Answers for each kind of flag, one for each input."""
    thresholds = _describe_thresholds(calibration, judgements)
    return {
        flag: [
            FlagAnswer(flagged=flagged, score=score, **thresholds[flag])
            for flagged, score in zip(judgement.flagged.tolist(), judgement.scores.tolist(), strict=True)
        ]
        for flag, judgement in judgements.items()
    }
