"""Routes about the stream of a model's inputs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends

from models.model import Model
from models.predictions.detection import Calibration
from service.api.answers import identify
from service.api.dependencies import ANY_KEY, ModelDependency, PartsDependency, describe_errors
from service.api.monitor_schemas import (
    AlarmAnswer,
    BucketAnswer,
    ClassMonitorAnswer,
    FlagBucketAnswer,
    FlagMonitorAnswer,
    MonitorAnswer,
)
from service.monitoring.state import Counts, WatchState, measure_share
from service.operation.access import require

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("/{model}/monitor", responses=describe_errors(401, 404, 422, 503), dependencies=[ANY_KEY])
async def get_monitor(model: ModelDependency, parts: PartsDependency) -> MonitorAnswer:
    """Tell whether a model's inputs have changed since the watch over them began.

    A reload begins the watch anew.
    """
    return _describe(model, parts.monitor.find(model).read(), parts.monitor.level)


@router.post(
    "/{model}/monitor:reset",
    responses=describe_errors(401, 403, 404, 422, 503),
    dependencies=[Depends(require("admin"))],
)
async def reset_monitor(model: ModelDependency, parts: PartsDependency) -> MonitorAnswer:
    """Begin the watch over a model's inputs anew, for example after the reason of an alarm is known."""
    return _describe(model, parts.monitor.reset(model).read(), parts.monitor.level)


def _describe(model: Model, known: WatchState, level: float) -> MonitorAnswer:
    calibration = model.calibration
    flags, history = {}, []
    if calibration:
        for flag, state in known.flags.items():
            counts = [sum(numbers) for numbers in zip(*(bucket.counts[flag] for bucket in known.history), strict=True)]
            flags[flag] = FlagMonitorAnswer(
                **_measure_flagged(calibration, counts),
                log10_martingale=state.log10,
                alarm=AlarmAnswer(**asdict(state.alarm)) if state.alarm else None,
                bets=sum(bets.inputs for bets in state.bets.values()),
                false_alarm_rate=calibration.rates[calibration.find_rate(calibration.default_rate)],
            )
    for bucket in known.history:
        own: dict[str, FlagBucketAnswer] = {}
        for flag, counts in bucket.counts.items():
            assert calibration is not None
            own[flag] = FlagBucketAnswer(**_measure_flagged(calibration, counts), highest_log10=bucket.highest[flag])
        history.append(BucketAnswer(inputs=bucket.inputs, end=bucket.end, flags=own))
    return MonitorAnswer(
        model=identify(model),
        since=known.since,
        inputs=known.inputs,
        level=level,
        rates=list(calibration.rates) if calibration else [],
        flags=flags,
        classes=_describe_classes(model, known.classes) if model.task.has_classes else None,
        history=history,
    )


def _measure_flagged(calibration: Calibration, counts: Counts) -> dict[str, Any]:
    """How many scores are above the threshold of the default rate."""
    counts = counts or [0] * (len(calibration.rates) + 1)
    flagged = sum(counts[: calibration.find_rate(calibration.default_rate) + 1])
    share, lower, upper = measure_share(flagged, sum(counts))
    return {"flagged": flagged, "share": share, "lower": lower, "upper": upper, "counts": counts}


def _describe_classes(model: Model, counts: Counts) -> list[ClassMonitorAnswer]:
    known = _count_test_labels(model.metrics or {})
    total = sum(known.values())
    return [
        ClassMonitorAnswer(label=label, inputs=count, test_share=known[label] / total if label in known else None)
        for label, count in zip(model.task.outputs, counts, strict=True)
    ]


def _count_test_labels(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of test inputs by their label, from the model card's measurements; empty if these do not tell."""
    try:
        return {entry["name"]: int(entry["recall"]["images"] if entry["recall"] else 0) for entry in metrics["classes"]}
    except (LookupError, TypeError, ValueError):
        return {}
