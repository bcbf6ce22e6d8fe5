"""Answers as text for a terminal.

Shapes: S networks, K classes or numbers.
"""

import math
from collections.abc import Iterable

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hyperdraw.answers import Classification, Flag, Floats, ModelList, Prediction, Regression

MAX_CLASSES = 10
"""Most classes that are shown."""
BAR_WIDTH = 32
_BAND = 0.05, 0.95
"""Quantiles of the networks' probabilities that a band shows."""


class _Bar:
    """A bar for a share from 0 to 1, with a band of other shares. Characters tell them apart even without colours."""

    def __init__(self, share: float, band: tuple[float, float] = (0, 0), style: str = "cyan") -> None:
        self._share, self._band, self._style = share, band, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full, both, spread = "#+-" if options.ascii_only else "█▓░"
        low, high = (round(edge * BAR_WIDTH) for edge in self._band)
        filled = round(self._share * BAR_WIDTH)
        cells = [
            (both if i < filled else spread) if low <= i < high else (full if i < filled else " ")
            for i in range(BAR_WIDTH)
        ]
        yield Text("".join(cells), self._style, end="")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(BAR_WIDTH, BAR_WIDTH)


def show_prediction(console: Console, name: str, answer: Prediction) -> None:
    """Shows the answer for one input: the prediction, its uncertainty and the flags."""
    if isinstance(answer, Classification):
        _show_classes(console, name, answer)
    else:
        _show_numbers(console, name, answer)
    for flag, judged in answer.flags.items():
        console.print(_describe_flag(flag, judged))
    console.print()


def show_provenance(console: Console, answer: Prediction) -> None:
    """Shows which networks answered, and how to read the bars."""
    temperature = getattr(answer, "temperature", None)
    calibrated = f", temperature {temperature:.3g}" if temperature else ""
    rounded = "" if answer.precision in (None, "float32") else f", {answer.precision}"
    origin = f"{_count_networks(answer)} of {answer.model.name}, seed {answer.seed}{rounded}{calibrated}"
    console.print(Text(printable(origin), "dim"))
    if np.all(answer.ensemble_size == 1):
        console.print(Text("a single network cannot disagree with others, so nothing is epistemic", "dim"))
        return
    if isinstance(answer, Classification) and answer.members is not None:
        full, both, spread = "#+-" if console.options.ascii_only else "█▓░"
        legend = f"{full}{both} probability, {both}{spread} the networks' 5 % to 95 % quantile"
        console.print(Text(f"{legend}{', before the temperature' if temperature else ''}", "dim"))
    console.print(Text("aleatoric: ambiguity that the networks agree on; epistemic: their disagreement", "dim"))


def _count_networks(answer: Prediction) -> str:
    least, most = int(np.min(answer.ensemble_size)), int(np.max(answer.ensemble_size))
    if most == 1:
        return "1 network"
    return f"{most} networks" if least == most else f"{least} to {most} networks"


def show_models(console: Console, models: ModelList) -> None:
    """Shows a table of the models, and the checkpoints that were refused."""
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)  # other commands need it whole; the other columns share the remaining width
    for heading in ("method", "networks", "input", "task", "version"):
        table.add_column(heading)
    for model in models.models:
        sampler, task = model.sampler, model.task
        networks = "fresh draws" if sampler["fresh_draws"] else f"{sampler['num_networks']}"
        shape = [model.input[key] for key in ("channels", "height", "width")] if "height" in model.input else []
        names = model.input.get("names") or [column["name"] for column in model.input.get("columns", ())]
        given = " × ".join(map(str, shape)) or ", ".join(names) or model.input["kind"]
        asked = f"{len(task['classes'])} classes" if "classes" in task else ", ".join(task["names"])
        cells = model.name, model.method, networks, given, asked, model.version[:12]
        table.add_row(*(Text(printable(cell)) for cell in cells))
        for role, version in (model.versions or {}).items():
            if version != model.version:
                table.add_row("", "", "", "", Text(printable(role), "dim"), Text(printable(version[:12]), "dim"))
    console.print(table)
    console.print(Text(printable(f"The default is {models.default}."), "dim"))
    for name, reason in models.refused.items():
        console.print(Text(printable(f"refused: {name}: {reason}"), "yellow"), soft_wrap=True)


def printable(text: str) -> str:
    """Replaces control characters, with which names from files and servers could control the terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _show_classes(console: Console, name: str, answer: Classification) -> None:
    label, chosen = str(answer.labels), int(answer.class_indices)
    console.print(Text.assemble((printable(name), "bold"), "  →  ", (printable(label), "bold green")))
    members = answer.members if answer.ensemble_size > 1 else None
    table = Table("", "", box=None, pad_edge=False, header_style="dim")
    for heading in ("probability",) if members is None else ("probability", "5–95 %", "votes"):
        table.add_column(heading, justify="right")
    for k in _choose_classes(answer.probabilities):
        share, band, spread = float(answer.probabilities[k]), (0.0, 0.0), []
        if members is not None:
            low, high = np.quantile(members[:, k], _BAND).tolist()
            band, spread = (low, high), [f"{low:.1%}–{high:.1%}", f"{(members.argmax(-1) == k).sum()}"]
        table.add_row(
            Text(printable(answer.classes[k]), "bold" if k == chosen else ""),
            _Bar(share, band, "green" if k == chosen else "cyan"),
            f"{share:.1%}",
            *spread,
        )
    console.print(table)
    if answer.prediction_sets is not None:
        held = ", ".join(label for label, member in zip(answer.classes, answer.prediction_sets, strict=True) if member)
        console.print(Text(printable(f"prediction set (coverage {answer.coverage:.4g}): {held or 'empty'}")))
    measures, most = answer.uncertainty, math.log(len(answer.classes))
    parts = float(measures.expected_entropy), float(measures.mutual_information)
    _show_split(console, f"{measures.predictive_entropy:.3g} nats", *parts, most)


def _show_numbers(console: Console, name: str, answer: Regression) -> None:
    console.print(Text(printable(name), "bold"))
    for k, number in enumerate(answer.names):
        console.print(Text(printable(f"{number} = {answer.mean[k]:.4g} ± {answer.standard_deviation[k]:.4g}")))
        if answer.interval_lower is not None and answer.interval_upper is not None:
            ends = f"{answer.interval_lower[k]:.4g} to {answer.interval_upper[k]:.4g}"
            console.print(Text(f"interval (coverage {answer.coverage:.4g}): {ends}"))
        variance, parts = answer.variance[k], (float(answer.noise_variance[k]), float(answer.epistemic_variance[k]))
        _show_split(console, f"variance {variance:.3g}", *parts, most=float(variance))


def _show_split(console: Console, whole: str, aleatoric: float, epistemic: float, most: float) -> None:
    """Shows uncertainty as its two parts, and as a bar whose full length is `most`."""
    first, second = "#-" if console.options.ascii_only else "█░"
    lengths = [round(part / most * BAR_WIDTH) if most else 0 for part in (aleatoric, epistemic)]
    console.print(
        Text.assemble(
            f"uncertainty: {whole} = ",
            (f"{first} {aleatoric:.3g} aleatoric", "yellow"),
            " + ",
            (f"{second} {epistemic:.3g} epistemic", "magenta"),
        )
    )
    if any(lengths):
        console.print(Text.assemble((first * lengths[0], "yellow"), (second * lengths[1], "magenta")))


def _describe_flag(name: str, flag: Flag) -> Text:
    sign, style = (">", "bold red") if flag.flagged else ("≤", "green")
    said = name.replace("_", " ") if flag.flagged else f"not {name.replace('_', ' ')}"
    reason = f" {flag.score_name.replace('_', ' ')} {float(flag.scores):.3g} {sign} {flag.threshold:.3g}"
    return Text.assemble((said, style), f":{reason} (false alarms {flag.false_alarm_rate:.3g})")


def _choose_classes(probabilities: Floats) -> Iterable[int]:
    """The most probable classes, in their own order."""
    most = np.argsort(-probabilities, kind="stable")[:MAX_CLASSES]
    return sorted(most.tolist())
