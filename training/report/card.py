"""Model cards: a checkpoint's README.md, made from its config, calibration and metrics."""

from pathlib import Path

from models.checkpoint import Checkpoint, CheckpointConfig, write_file
from models.inputs.spec import ImageSpec, VectorSpec
from models.predictions.detection import DEFAULT_RATE, Calibration, Flag
from models.predictions.prediction import JITTER, ScoreName
from models.tasks.task import Classification, Regression
from training.evaluation.attack import JUDGES
from training.evaluation.attack_report import FLAGS, RATES, Report, list_thresholds, load_report
from training.evaluation.evaluation import PROMISE_SEEDS
from training.evaluation.metrics import ClassificationMetrics, DensityMetrics, Metrics, RegressionMetrics
from training.evaluation.summaries import estimate_share

FIGURES = {
    "accuracies": "Accuracy of single networks on the test set.",
    "components": "Each layer's weights, gauge fixed, on their first two principal components; a dot is a network.",
    "disagreement": "Share of test images on which two of the first 100 networks differ, over pairs.",
    "ensembles": "Accuracy of random ensembles against their size, by how they fuse their members; bars are ± σ over 20 random "
    "subsets of the sampled networks, which overlap much when they are large. The last is one ensemble of all.",
    "filters": "The first layer's first filters, gauge fixed; a column is a network.",
    "mixture": "Sampled points over the density that they were fitted to.",
    "paths": "Accuracy on validation images along paths between two networks: between their latents; straight between their "
    "weights, gauge fixed; and straight once the second one's filters are permuted to match the first one's. Where a "
    "straight path dips and the one between latents does not, the networks lie on a curved set, not in one flat basin. "
    "(Where latents choose a mode, their path leaps from one mode to the other.)",
    "regression": "Predictive band, and some of the sampled functions.",
    "uncertainty": "Histograms and empirical distributions of uncertainty, of the first 100 networks together, on the test set "
    "and on foreign images.",
}
SCORES = {
    "predictive_entropy": "the predictive entropy, in nats",
    "mutual_information": "the mutual information, in nats, which tells foreign images that were made for this choice better "
    "from validation images",
    "fragility": f"the probability that the answer loses when small noise, up to {JITTER:g} of the pixels' range, is added",
    "relative_deviation": "the networks' standard deviation, in units of the output's own",
}
MOST_CLASSES = 20
OF_SEVERAL = ("mutual_information", "variation_ratio")
"""Scores that a network alone does not have."""

CAVEATS = {
    "classification": "An ambiguous image can look foreign, and a foreign one certain: a flag is a hint, not a proof.\n"
    "`suspect_adversarial` means suspect: whoever knows the model can evade it.",
    "regression": "A single network has no deviation, so it raises no flag. The flag is a hint, not a proof.",
}


def save_card(directory: Path, checkpoint: Checkpoint, metrics: Metrics | None) -> None:
    """Writes README.md beside the checkpoint; without metrics, it says that nothing was measured."""
    config = checkpoint.config
    sections = [_describe_model(directory.name, checkpoint), _describe_training(config)]
    sections.append(_describe_metrics(metrics, config) if metrics else _describe_lack(config))
    sections += _show_figures(directory)
    sections.append(_describe_calibration(checkpoint, metrics))
    if report := load_report(directory):
        sections.append(_describe_attacks(report, checkpoint))
    sections.append(_describe_use(directory.name, config))
    write_file(directory / "README.md", "\n\n".join(sections).encode() + b"\n")


def _describe_model(name: str, checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    alone = checkpoint.sampler.num_networks == 1
    kind = "a single network, no distribution" if alone else "a distribution over the weights of one target network"
    match config.input:
        case ImageSpec(channels=channels, height=height, width=width):
            given = f"{height} × {width} pixels, {channels} channel(s)"
        case VectorSpec(names=names):
            given = ", ".join(names)
    match config.task:
        case Classification(classes=classes):
            answered = f"Classes: {', '.join(classes)}"
        case Regression(names=names):
            answered = f"Output: {', '.join(names)}"
    return f"""# {name}

A `{config.method.method}` checkpoint for hyperdraw: {kind}, of
{config.target.num_weights:,} weights{"" if alone else " each"}. Input: {given}. {answered}.

```python
{config.target.source}
```"""


def _describe_training(config: CheckpointConfig) -> str:
    training = config.training
    return f"""## Training

`{training.command}`: {training.steps:,} steps on {training.dataset}, seed {training.seed}."""


def _describe_lack(config: CheckpointConfig) -> str:
    training = config.training
    if training.steps == training.planned_steps:
        return "## Figures\n\nNone: `hyperdraw-train evaluate` measures them."
    if training.failure:
        return f"""## Figures

None: the training failed ({training.failure}). This is its state after {training.steps:,} of {training.planned_steps:,}
steps, the last that is known to be good; the test set was not touched."""
    return f"""## Figures

None: the training was interrupted after {training.steps:,} of {training.planned_steps:,} steps, so the test set was not
touched. Go on with `--resume`."""


def _describe_metrics(metrics: Metrics, config: CheckpointConfig) -> str:
    match metrics:
        case ClassificationMetrics():
            return _describe_classification(metrics, config)
        case RegressionMetrics():
            return _describe_regression(metrics, config)
        case DensityMetrics():
            return _describe_density(metrics)


def _describe_classification(metrics: ClassificationMetrics, config: CheckpointConfig) -> str:
    single = metrics.single
    ensembles = "\n".join(
        f"| ensemble of {e.size} (mean over {e.ensembles}) | {e.accuracy:.2%} | {e.plain.nll:.4f} | {e.plain.brier:.4f} "
        f"| {e.plain.ece:.4f} | {e.plain.adaptive_ece:.4f} | {e.aurc:.6f} | {e.temperature:.2f} "
        f"| {e.tempered.nll:.4f} | {e.tempered.ece:.4f} |"
        for e in metrics.ensembles
    )
    spread = ""
    if metrics.networks > 1:
        spread = f"""Single networks have {single.accuracy_mean:.2%} ± {single.accuracy_std:.2%} (mean ± σ of {metrics.networks}), the worst of them
{single.accuracy_min:.2%}, the best {single.accuracy_max:.2%}. Two of them differ on {metrics.disagreement:.2%} of the test images;
mean mutual information is {metrics.mutual_information:.5f} nats.

"""
    return f"""## Figures

On the {metrics.test_inputs:,} test images of {config.training.dataset}, with {_name_members(metrics.networks, metrics.seed)},
measured on this very checkpoint by `hyperdraw-train evaluate DIR`. At T, the temperature that was fitted on
validation images to the averaged probabilities:

| | accuracy | NLL | Brier | ECE | adaptive ECE | AURC | T | NLL at T | ECE at T |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{ensembles}

{spread}{_describe_classes(metrics)}{_describe_outliers(metrics)}{_describe_norms(metrics)}"""


def _describe_classes(metrics: ClassificationMetrics) -> str:
    """Recalls, of up to 20 classes; of more, the lowest."""
    known = [(c.name, c.recall) for c in metrics.classes if c.recall]
    if not known or metrics.majority_accuracy is None or metrics.balanced_accuracy is None:
        return ""
    shown = known if len(known) <= MOST_CLASSES else sorted(known, key=lambda c: c[1].share)[:MOST_CLASSES]
    rows = "\n".join(f"| {n} | {r.images:,} | {r.share:.1%} | {r.low:.1%} to {r.high:.1%} |" for n, r in shown)
    whole = estimate_share(metrics.whole.accuracy, metrics.test_inputs)
    left = "" if shown is known else f" The {MOST_CLASSES} lowest recalls of {len(known)} classes:"
    return f"""The largest ensemble's accuracy, measured on {whole.images:,} images, is {whole.share:.2%}: 95 % sure that it is between {whole.low:.1%}
and {whole.high:.1%}. Always answering the most frequent class would be right for {metrics.majority_accuracy:.1%}; the balanced accuracy, the mean of
the classes' recalls, is {metrics.balanced_accuracy:.1%}.{left}

| class | test images | recall | 95 % sure |
| --- | --- | --- | --- |
{rows}

"""


def _describe_outliers(metrics: ClassificationMetrics) -> str:
    if not metrics.outliers:
        return ""
    rows = "\n".join(
        f"| {o.dataset} | {score.replace('_', ' ')} | {s.auroc:.4f} | {s.aupr:.4f} | {s.id_flagged_at_95_ood:.1%} "
        f"| {s.ood_missed_at_5_id:.1%} |"
        for o in metrics.outliers
        for score, s in o.scores.items()
        if metrics.networks > 1 or score not in OF_SEVERAL
    )
    sizes = "\n".join(
        f"| {o.dataset} | " + " | ".join(f"{s.auroc:.4f}" for s in o.by_size.values()) + " |" for o in metrics.outliers
    )
    header = " | ".join(map(str, metrics.outliers[0].by_size))
    table = f"""Images that the model was not trained on, told from the test images by {_count(metrics.networks)}; the last two columns are
both meanings of FPR95:

| images | by | AUROC | AUPR | test images flagged where 95 % of these are | of these missed where 5 % of the test images are flagged |
| --- | --- | --- | --- | --- | --- |
{rows}

"""
    if metrics.networks == 1:
        return table
    return f"""{table}AUROC by predictive entropy, by the number of networks:

| images | {header} |
| --- |{" --- |" * len(metrics.outliers[0].by_size)}
{sizes}

"""


def _name_members(networks: int, seed: int) -> str:
    return "its only network" if networks == 1 else f"members 0 to {networks - 1} of seed {seed}"


def _count(networks: int) -> str:
    return "1 network" if networks == 1 else f"{networks} networks"


def _describe_regression(metrics: RegressionMetrics, config: CheckpointConfig) -> str:
    beyond = "".join(
        f"""

On {b.inputs:,} inputs of {b.dataset}, where there was no data, the networks' standard deviation is {b.deviation:.2f}.
Telling them from test inputs by it has an AUROC of {b.auroc:.4f}; {b.flagged:.1%} of them are flagged."""
        for b in metrics.beyond
    )
    return f"""## Figures

On {metrics.test_inputs:,} test examples of {config.training.dataset}, with members 0 to {metrics.networks - 1} of seed
{metrics.seed}, in the output's own units, measured on this very checkpoint by `hyperdraw-train evaluate DIR`:

| | |
| --- | --- |
| root mean square error of a single network | {metrics.single_error:.3f} |
| of the mean of {metrics.networks} | {metrics.ensemble_error:.3f} |
| NLL of the {metrics.networks} together | {metrics.nll:.4f} |
| within three predictive standard deviations | {metrics.covered:.2%} |
| standard deviation of the networks | {metrics.deviation:.3f} |{beyond}

{_describe_norms(metrics)}"""


def _describe_density(metrics: DensityMetrics) -> str:
    rows = "\n".join(
        f"| ({p.position[0]:.2f}, {p.position[1]:.2f}) | {p.distance:.3f} | {p.density:.3f} |" for p in metrics.peaks
    )
    return f"""## Figures

{metrics.networks:,} members of seed {metrics.seed} are points of a curve. It passes {metrics.passed} of the density's
{len(metrics.peaks)} peaks within a distance of 1, about a Gaussian's σ; the mean density of its points is {metrics.density:.3f}, their entropy along the curve
{metrics.entropy:.3f} nats. Measured on this very checkpoint by `hyperdraw-train evaluate DIR`.

| peak | distance to the nearest point | largest density within a distance of 1, relative to the peak's |
| --- | --- | --- |
{rows}"""


def _describe_norms(metrics: ClassificationMetrics | RegressionMetrics) -> str:
    several = metrics.networks > 1
    figures = {
        layer: f"{norm.mean:.2f} ± {norm.std:.2f}" if several else f"{norm.mean:.2f}"
        for layer, norm in metrics.layer_norms.items()
    }
    rows = "\n".join(f"| {layer} | {figure} |" for layer, figure in figures.items())
    return f"""2-norms of the layers{" over sampled networks" if several else ""} (Table 1 of HyperGAN's paper):

| layer | {"mean ± σ" if several else "2-norm"} |
| --- | --- |
{rows}"""


def _show_figures(directory: Path) -> list[str]:
    """The drawn figures, if any; other weights lose them, another calibration keeps them, as they hang on none."""
    captions = [(FIGURES[path.stem], path.name) for path in sorted((directory / "figures").glob("*.svg"))]
    if not captions:
        return []
    pictures = "\n\n".join(f"![{caption}](figures/{name})\n\n{caption}" for caption, name in captions)
    numbers = " The numbers are in `figures/study.json`." if (directory / "figures" / "study.json").exists() else ""
    return [f"## Pictures\n\nDrawn from these very weights by `hyperdraw-train figures DIR`.{numbers}\n\n{pictures}"]


def _describe_calibration(checkpoint: Checkpoint, metrics: Metrics | None) -> str:
    calibration = checkpoint.calibration
    if calibration is None:
        return "## Flags\n\nNot calibrated: no flags."
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

A threshold is the conformal quantile of the {calibration.n:,} inputs of `{calibration.split}`, which served for nothing
else, {_describe_draws(calibration)}.
With {_count(largest.ensemble_size)}, and draws of {len(PROMISE_SEEDS)} other seeds for the test set:

| flag | budget of false alarms | threshold | flagged of the test set |
| --- | --- | --- | --- |
{rows}
{_describe_catches(metrics, calibration.default_rate)}
{CAVEATS[checkpoint.config.task.kind]}{_describe_sets(metrics)}"""


def _describe_draws(calibration: Calibration) -> str:
    """Which networks judge the inputs of the calibration, and those of ensembles of other sizes."""
    own = len(calibration.seeds) == calibration.n
    seeds = (
        "each judged by networks of a seed of its own" if own else f"judged by draws of {len(calibration.seeds)} seeds"
    )
    sizes = [size.ensemble_size for size in calibration.sizes]
    if len(sizes) == 1:
        return seeds
    unbroken = sum(size == i for i, size in enumerate(sizes, start=1))
    names = [f"1 to {unbroken}"] if unbroken > 2 else sizes[:unbroken]
    named = ", ".join(map(str, [*names, *sizes[unbroken:]]))
    return f"{seeds}. Ensembles of {named} are calibrated; others\nare judged by their first networks"


def _describe_score(calibration: Calibration, flag: Flag) -> str:
    """What raises a flag at the largest ensemble size, and at those for which it is another score."""
    *smaller, largest = calibration.sizes
    others: dict[ScoreName, list[str]] = {}
    for size in smaller:
        if size.scores[flag] != largest.scores[flag]:
            others.setdefault(size.scores[flag], []).append(str(size.ensemble_size))
    exceptions = [f"; with ensembles of {', '.join(sizes)} by {SCORES[score]}" for score, sizes in others.items()]
    return SCORES[largest.scores[flag]] + "".join(exceptions)


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
At the default budget of {rate:g} for each flag, of all images of a kind:

| images | {" | ".join(f"`{flag}`" for flag in flags)} | some flag |
| --- |{" --- |" * (len(flags) + 1)}
| test set | {" | ".join(f"{share:.1%}" for share in (*own, metrics.flagged_by_any))} |
{rows}
"""


def _describe_sets(metrics: ClassificationMetrics | RegressionMetrics | None) -> str:
    if not isinstance(metrics, ClassificationMetrics):
        return ""
    rows = "\n".join(f"| {s.coverage:.1%} | {s.covered:.2%} | {s.size:.3f} |" for s in metrics.sets)
    return f"""

Prediction sets, on the test set:

| coverage that is asked for | label in the set | classes in a set |
| --- | --- | --- |
{rows}"""


def _describe_attacks(report: Report, checkpoint: Checkpoint) -> str:
    rows = "\n".join(
        f"| {o.norm}, {o.epsilon:g} | {o.tier} | {o.wrong:.1%} | {'–' if o.auroc is None else f'{o.auroc:.3f}'} | "
        + " | ".join(f"{o.evades_out_of_distribution[rate]:.1%} | {o.evades[rate]:.1%}" for rate in RATES)
        + " |"
        for o in report.outcomes
    )
    budget = report.budget
    failed = [check.what for check in report.checks if not check.holds]
    checks = f"Of {len(report.checks)} checks of the attacks' strength {'all hold' if not failed else 'these fail: ' + '; '.join(failed)}."
    surrogate = f" Transfer is from the model of version `{report.surrogate[:12]}…`." if report.surrogate else ""
    return f"""## Attacks

On the first {budget.images} test images, by somebody who knows everything but the seed, and minimises one loss for the error and
both flags, in expectation over networks drawn anew in each step: {budget.steps} steps, {budget.restarts} restarts, no early stop
(`hyperdraw-train attack DIR`). Judged by {JUDGES} fresh draws of {report.networks} networks. *Evades* is the share of images that
are answered wrongly without a flag: first without `out_of_distribution`, then without either flag. Without an attack
{report.clean_wrong:.1%} are wrong.{surrogate} The paper's protocol attacks 10 fixed networks, stops at success and ignores the
flags: it flatters them.{_name_thresholds(report, checkpoint)}

| norm, ε | attacker | wrong | AUROC of the first flag's score | {" | ".join(f"evades the first at {rate:g} | evades both at {rate:g}" for rate in RATES)} |
| --- | --- | --- | --- |{" --- | --- |" * len(RATES)}
{rows}

{checks}"""


def _name_thresholds(report: Report, checkpoint: Checkpoint) -> str:
    """At what thresholds attacks were measured, if they are not those of this version."""
    if report.version == checkpoint.version:
        return ""
    text = f"""

These weights were attacked at an earlier calibration, version `{report.version[:12]}…`."""
    if report.thresholds and checkpoint.calibration:
        now = list_thresholds(checkpoint.calibration, report.networks)
        then, since = (
            " and ".join(f"{thresholds[flag][DEFAULT_RATE]:.3g}" for flag in FLAGS)
            for thresholds in (report.thresholds, now)
        )
        flags = " and ".join(f"`{flag}`" for flag in FLAGS)
        text += f""" The thresholds of {flags}, at a
budget of {DEFAULT_RATE:g}, were {then} then, and are {since} now."""
    return text


def _describe_use(name: str, config: CheckpointConfig) -> str:
    inputs = (
        "-F images=@image.png"
        if config.input.kind == "image"
        else f"--json '{{\"inputs\": [[{', '.join('0.5' for _ in config.input.shape)}]]}}'"
    )
    return f"""## Use

```sh
hyperdraw-serve --checkpoints DIR
curl {inputs} localhost:8000/v1/models/{name}/predict
curl -o net.safetensors 'localhost:8000/v1/models/{name}/weights?seed=7&member=0'
```"""
