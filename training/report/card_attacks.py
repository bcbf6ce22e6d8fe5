"""The section of a model card on attacks."""

from models.checkpoint import Checkpoint
from models.predictions.detection import DEFAULT_RATE
from training.evaluation.attack import JUDGES, TIERS
from training.evaluation.attack_report import FLAGS, RATES, AttackReport, list_thresholds


def describe_attacks(report: AttackReport, checkpoint: Checkpoint) -> str:
    """The section: how often attacks succeeded, and at which version's thresholds."""
    order = {tier.name: number for number, tier in enumerate(TIERS)}
    rows = "\n".join(
        f"| {o.norm}, {o.epsilon:g} | {o.tier} | {o.wrong:.1%} | {'–' if o.auroc is None else f'{o.auroc:.3f}'} | "
        + " | ".join(f"{o.evades_out_of_distribution[rate]:.1%} | {o.evades[rate]:.1%}" for rate in RATES)
        + " |"
        for o in sorted(report.outcomes, key=lambda o: (o.norm, o.epsilon, order.get(o.tier, -1)))
    )
    budget = report.budget
    precision = "" if budget.precision == "float32" else f" All networks are computed in {budget.precision}."
    failed = [check.what for check in report.checks if not check.holds]
    checks = f"All {len(report.checks)} checks of the attacks' strength hold."
    if failed:
        checks = f"{len(failed)} of {len(report.checks)} checks of the attacks' strength fail: {'; '.join(failed)}."
    surrogate = (
        f" Transfer attacks come from the model of version `{report.surrogate[:12]}…`." if report.surrogate else ""
    )
    return f"""## Attacks

`hyperdraw-train attack DIR` attacked the first {budget.images} test images. The attacker knows everything except the seed. It minimises
one loss for the error and both flags, in expectation over networks that are drawn again in each step, with {budget.effort},
and does not stop early. {JUDGES} fresh draws of {report.networks} networks judge the result.{precision} *Evades* is the share of
images with a wrong answer and no flag: without `out_of_distribution`, or without both flags. Without an attack,
{report.clean_wrong:.1%} of the answers are wrong.{surrogate} The paper's protocol attacks 10 fixed networks, stops at success and
ignores the flags, so it makes them look better than they are.{_name_thresholds(report, checkpoint)}

| norm, ε | attacker | wrong | AUROC of the first flag's score | {" | ".join(f"evades `out_of_distribution` at {rate:g} | evades both at {rate:g}" for rate in RATES)} |
| --- | --- | --- | --- |{" --- | --- |" * len(RATES)}
{rows}

{checks}"""


def _name_thresholds(report: AttackReport, checkpoint: Checkpoint) -> str:
    """The thresholds that attacks were measured at, if they are another version's."""
    if report.version == checkpoint.version:
        return ""
    text = f"""

These weights were attacked with an earlier calibration, version `{report.version[:12]}…`."""
    if report.thresholds and checkpoint.calibration:
        now = list_thresholds(checkpoint.calibration, report.networks)
        then, since = (
            " and ".join(f"{thresholds[flag][DEFAULT_RATE]:.3g}" for flag in FLAGS)
            for thresholds in (report.thresholds, now)
        )
        flags = " and ".join(f"`{flag}`" for flag in FLAGS)
        text += f""" At a budget of {DEFAULT_RATE:g},
the thresholds of {flags} were {then} then, and are {since} now. If another
score raises a flag now, its thresholds cannot be compared."""
    return text
