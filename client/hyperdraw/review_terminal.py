"""What to label next, shown on a terminal."""

from collections.abc import Mapping
from importlib.util import find_spec

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hyperdraw.half_blocks import choose_size, draw_pixels
from hyperdraw.logged import LoggedPrediction
from hyperdraw.review import Review, decode_image
from hyperdraw.terminal import printable

LIKELY = 3
"""Most classes that are named."""

_VALUES = 8
"""Most values of a row that are shown."""


def show_review(console: Console, found: Review) -> None:
    """Shows the records with their images, if the log has them."""
    if not find_spec("PIL") and any(record.image for record in found.records):
        console.print(Text("Install Pillow to see the images here, or write a page with --html.", "yellow"))
    table = Table.grid(padding=(0, 2, 1, 0))
    for record in found.records:
        table.add_row(_draw(console, record), _describe(record, found))
    console.print(table)


def list_likely(record: LoggedPrediction, names: Mapping[int, str]) -> list[tuple[str, float]]:
    """The most probable classes and their probabilities. A class that was never predicted has only its number."""
    order = sorted(range(len(record.probabilities)), key=lambda k: -record.probabilities[k])[:LIKELY]
    return [(names.get(k, f"class {k}"), record.probabilities[k]) for k in order]


def summarize(record: LoggedPrediction, found: Review) -> tuple[str, list[str]]:
    """What was predicted, in one line, and how uncertain that is, in several."""
    likely = list_likely(record, found.name_classes(record))
    answer = ", ".join(f"{name} {share:.0%}" for name, share in likely)
    if not likely:
        numbers = record.numbers.items()
        answer = ", ".join(f"{name} = {number.mean:.4g} ± {number.standard_deviation:.2g}" for name, number in numbers)
    lines = []
    if found.by not in record.flags:
        lines.append(f"{_spell(found.by)} {record.measure(found.by):.3g}")
    for name, flag in record.flags.items():
        if flag.flagged or name == found.by:
            lines.append(f"{_spell(name)}: {flag.score:.3g} {'>' if flag.flagged else '≤'} {flag.threshold:.3g}")
    if record.row is not None:
        values = [f"{name} {value}" for name, value in record.row.items()]
        lines.append(", ".join(values[:_VALUES]) + (", …" if len(values) > _VALUES else ""))
    lines.append(f"request {record.request_id}, input {record.index}")
    lines.append(f"{record.time:%Y-%m-%d %H:%M:%S}, {record.model} {record.version[:12]}")
    return answer, lines


def _draw(console: Console, record: LoggedPrediction) -> Text:
    if record.image is None or not find_spec("PIL"):
        return Text()
    pixels = decode_image(record.image, choose_size)
    if pixels is None:
        return Text("(damaged image)", "dim")
    return draw_pixels(pixels, colours=console.color_system is not None and not console.options.ascii_only)


def _describe(record: LoggedPrediction, found: Review) -> Text:
    answer, lines = summarize(record, found)
    texts = [Text(printable(answer), "bold"), *(Text(printable(line)) for line in lines[:-2])]
    return Text("\n").join([*texts, *(Text(printable(line), "dim") for line in lines[-2:])])


def _spell(name: str) -> str:
    return name.replace("_", " ")
