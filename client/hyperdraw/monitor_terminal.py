"""What is known of a stream as text for a terminal."""

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hyperdraw.monitoring import FlagMonitor, Monitor
from hyperdraw.terminal import printable

BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "._-=+*%#"
"""Heights of a column, from the least to the greatest."""

COLUMNS = 60
"""Most columns of a chart."""


def show_monitor(console: Console, known: Monitor) -> None:
    """Shows whether inputs have changed, how many are flagged, and which classes are predicted."""
    inputs = "1 input" if known.inputs == 1 else f"{known.inputs} inputs"
    title = f"{known.model.name}: {inputs} since {known.since:%Y-%m-%d %H:%M:%S}"
    console.print(Text(printable(title), "bold"))
    if not known.flags:
        console.print(Text("The model has no calibration, so there are no flags to watch.", "dim"))
    for flag, own in known.flags.items():
        _show_flag(console, flag, own, known)
    if known.classes and known.inputs:
        _show_classes(console, known)


def _show_flag(console: Console, name: str, flag: FlagMonitor, known: Monitor) -> None:
    said, style = ("the inputs have not changed", "green") if known.inputs else ("there are no inputs so far", "dim")
    if flag.alarm:
        when = f"{flag.alarm.time:%Y-%m-%d %H:%M:%S}"
        said, style = f"the inputs have changed; this was certain after {flag.alarm.inputs} of them, {when}", "bold red"
    console.print()
    console.print(Text.assemble((printable(name.replace("_", " ")), "bold"), ": ", (said, style)))
    interval = f"95 % interval {flag.lower:.1%} to {flag.upper:.1%}"
    expected = f"at most {flag.false_alarm_rate:.1%} are expected while nothing changes"
    console.print(Text(f"flagged {flag.share:.1%} ({interval}); {expected}"))
    value = f"10^{flag.log10_martingale:.2f}"
    bets = "1 input was" if flag.bets == 1 else f"{flag.bets} inputs were"
    console.print(Text(f"martingale {value}, alarm at {1 / known.level:g}; {bets} bet on"))
    heights = [part.highest_log10[name] for part in known.history]
    if len(heights) > COLUMNS:
        heights = [max(heights[i : i + 2]) for i in range(0, len(heights), 2)]
    if heights:
        console.print(Text(_draw(heights, 1 / known.level, console.options.ascii_only), style))


def _draw(heights: list[float], alarm: float, ascii_only: bool) -> str:
    """A row of columns, of which only the highest reach an alarm."""
    blocks = PLAIN_BLOCKS if ascii_only else BLOCKS
    top = math.log10(alarm)
    steps = [min(len(blocks) - 1, math.floor(max(0.0, height) / top * (len(blocks) - 1))) for height in heights]
    return "".join(blocks[step] for step in steps)


def _show_classes(console: Console, known: Monitor) -> None:
    assert known.classes is not None
    console.print()
    table = Table("class", box=None, pad_edge=False, header_style="dim")
    table.add_column("predicted", justify="right")
    table.add_column("in the test set", justify="right")
    shown = sorted(known.classes, key=lambda own: -own.inputs)[:10]
    for own in known.classes:
        if own in shown:
            expected = "–" if own.test_share is None else f"{own.test_share:.1%}"
            table.add_row(Text(printable(own.label)), f"{own.inputs / known.inputs:.1%}", expected)
    console.print(table)
    if len(known.classes) > len(shown):
        console.print(Text(f"and {len(known.classes) - len(shown)} classes that were predicted less often", "dim"))
