"""The section of a model card on attacks."""

from models.checkpoint import Checkpoint
from models.predictions.detection import DEFAULT_RATE
from training.evaluation.attack import JUDGES
from training.evaluation.attack_report import FLAGS, RATES, AttackReport, list_thresholds


def describe_attacks(report: AttackReport, checkpoint: Checkpoint) -> str:
    """How often attacks succeeded, at the thresholds of which version."""
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


def _name_thresholds(report: AttackReport, checkpoint: Checkpoint) -> str:
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
