"""The section of a model card on flags: what raises them, their thresholds, and how often they are raised."""

from models.checkpoint import Checkpoint
from models.inputs.image import JITTER
from models.predictions.detection import Calibration
from models.predictions.size_calibration import SizeCalibration
from models.tasks.kind import Flag
from training.evaluation.evaluation import PROMISE_SEEDS
from training.evaluation.metrics import ClassificationMetrics, DensityMetrics, Metrics, RegressionMetrics
from training.report.card_metrics import count_networks

RAISING_SCORES = {
    "predictive_entropy": "the predictive entropy, in nats",
    "mutual_information": "the mutual information, in nats, because it tells made-up foreign images from validation images "
    "better than the predictive entropy does",
    "fragility": f"the fragility: how much probability the answer loses when noise of up to {JITTER:g} of the pixels' range is added",
    "feature_distance": "the distance of the features from those of the training, as the root mean square of whitened "
    "features, because it tells made-up foreign inputs from validation inputs better than other scores do",
    "combined_surprise": "the sum of two surprises, in nats, that of the {parts}: a surprise is −ln of the share of "
    "validation inputs whose score is as large",
    "relative_deviation": "the networks' standard deviation, in units of the output's standard deviation",
}

CAVEATS = {
    "images": "A flag is a hint, not a proof: an ambiguous image can look foreign, and a foreign image can look certain.\n"
    "`suspect_adversarial` only raises a suspicion: an attacker who knows the model can evade it.",
    "classes": "A flag is a hint, not a proof: an ambiguous row can look foreign, and a foreign row can look certain.",
    "numbers": "A single network has no deviation, so it raises no flag. The flag is a hint, not a proof.",
}


def describe_flags(checkpoint: Checkpoint, metrics: Metrics | None) -> str:
    """The section: the flags' scores and thresholds, and how often they are raised, if that was measured."""
    calibration = checkpoint.calibration
    if calibration is None:
        return "## Flags\n\nThis model is not calibrated, so it raises no flags."
    assert not isinstance(metrics, DensityMetrics)
    largest = calibration.sizes[-1]
    rows = "\n".join(
        f"| `{flag}` | {rate:g} | {threshold:.4g} | {_find_flagged(metrics, flag, rate)} |"
        for flag, thresholds in largest.thresholds.items()
        for rate, threshold in zip(calibration.rates, thresholds, strict=True)
    )
    raised = "\n".join(f"* `{flag}` is raised by {_describe_score(calibration, flag)}." for flag in calibration.flags)
    return f"""## Flags

{raised}

Each threshold is a conformal quantile over the {calibration.n:,} inputs of `{calibration.split}`, {_describe_use(calibration)} {_describe_draws(calibration)}
These are the thresholds for {count_networks(largest.ensemble_size)}. The test set was judged with {len(PROMISE_SEEDS)} other seeds.

| flag | budget of false alarms | threshold | test {checkpoint.config.input.noun} flagged |
| --- | --- | --- | --- |
{rows}
{_describe_catches(metrics, calibration.default_rate)}
{_choose_caveat(checkpoint)}{_describe_sets(metrics)}"""


def _describe_use(calibration: Calibration) -> str:
    """The promise, by what else the calibration inputs were used for."""
    if (feedback := calibration.feedback) is not None:
        return f"""the answers of
version `{feedback.version[:12]}` from {feedback.first} to {feedback.last} whose labels a service received; {feedback.fitted:,} others fitted the temperature.
Labels that arrive are not a random sample of all inputs, so budgets and coverages hold for inputs whose labels arrive."""
    if calibration.folds is None:
        return "which have no other\nuse."
    return f"""each judged by
networks that were trained without its fold, one of {calibration.folds}; they are the validation inputs, too. The networks that are served
were trained on all of them, so budgets and coverages hold approximately: those of inputs with no other use hold for any
model, these for one that changes little when a fold is left out."""


def _choose_caveat(checkpoint: Checkpoint) -> str:
    if not checkpoint.config.task.has_classes:
        return CAVEATS["numbers"]
    return CAVEATS["images" if checkpoint.config.input.form == "files" else "classes"]


def _describe_draws(calibration: Calibration) -> str:
    """Which networks judge calibration inputs, and how ensembles of other sizes are judged."""
    if calibration.seeds is None:
        least = calibration.least_size
        return f"Requests chose the seeds. Only ensembles of {least} and more networks\nare calibrated, and judged by their first {least}."
    own = len(calibration.seeds) == calibration.n
    judges = "networks of its own seed" if own else f"one of {len(calibration.seeds)} draws"
    seeds = f"Each input is judged by {judges}."
    sizes = [size.ensemble_size for size in calibration.sizes]
    if len(sizes) == 1:
        return seeds
    unbroken = sum(size == i for i, size in enumerate(sizes, start=1))
    names = [f"1 to {unbroken}"] if unbroken > 2 else sizes[:unbroken]
    named = ", ".join(map(str, [*names, *sizes[unbroken:]]))
    return f"{seeds} Ensembles of {named} networks\nare calibrated; ensembles of other sizes are judged by their first networks."


def _describe_score(calibration: Calibration, flag: Flag) -> str:
    """The score that raises a flag for the largest ensemble, and the sizes for which it is another score."""
    *smaller, largest = calibration.sizes
    others: dict[str, list[str]] = {}
    usual = _describe_size(largest, flag)
    for size in smaller:
        if (own := _describe_size(size, flag)) != usual:
            others.setdefault(own, []).append(str(size.ensemble_size))
    exceptions = [f"; for ensembles of {', '.join(sizes)}, by {score}" for score, sizes in others.items()]
    return usual + "".join(exceptions)


def _describe_size(size: SizeCalibration, flag: Flag) -> str:
    parts = " and that of the ".join(name.replace("_", " ") for name in size.levels)
    return RAISING_SCORES[size.scores[flag]].format(parts=parts)


def _find_flagged(metrics: ClassificationMetrics | RegressionMetrics | None, flag: str, rate: float) -> str:
    found = [m.flagged for m in metrics.flags if (m.flag, m.rate) == (flag, rate)] if metrics else []
    return f"{found[0]:.2%}" if found else "not measured"


def _describe_catches(metrics: ClassificationMetrics | RegressionMetrics | None, rate: float) -> str:
    if not isinstance(metrics, ClassificationMetrics) or not metrics.outliers:
        return ""
    flags = list(metrics.outliers[0].flagged)
    rows = "\n".join(
        f"| {o.dataset} | " + " | ".join(f"{share:.1%}" for share in (*o.flagged.values(), o.flagged_by_any)) + " |"
        for o in metrics.outliers
    )
    own = [next(m.flagged for m in metrics.flags if (m.flag, m.rate) == (flag, rate)) for flag in flags]
    return f"""
Share of images flagged at the default budget, {rate:g} for each flag:

| images | {" | ".join(f"`{flag}`" for flag in flags)} | any flag |
| --- |{" --- |" * (len(flags) + 1)}
| test set | {" | ".join(f"{share:.1%}" for share in (*own, metrics.flagged_by_any))} |
{rows}
"""


def _describe_sets(metrics: ClassificationMetrics | RegressionMetrics | None) -> str:
    if isinstance(metrics, RegressionMetrics) and metrics.intervals:
        rows = "\n".join(f"| {i.coverage:.1%} | {i.covered:.2%} | {i.width:.4g} |" for i in metrics.intervals)
        return f"""

Prediction intervals on the test set:

| nominal coverage | intervals that hold the number | mean width |
| --- | --- | --- |
{rows}"""
    if not isinstance(metrics, ClassificationMetrics):
        return ""
    rows = "\n".join(f"| {s.coverage:.1%} | {s.covered:.2%} | {s.size:.3f} |" for s in metrics.sets)
    return f"""

Prediction sets on the test set:

| nominal coverage | sets that hold the label | mean number of classes |
| --- | --- | --- |
{rows}"""
