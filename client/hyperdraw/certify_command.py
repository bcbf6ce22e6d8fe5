"""The command that asks for certificates."""

import dataclasses
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from hyperdraw.certificates import Certification
from hyperdraw.client import TIMEOUT
from hyperdraw.commands import (
    LOCAL,
    JSONOption,
    KeyOption,
    ModelOption,
    SeedOption,
    UrlOption,
    make_console,
    open_client,
    show_json,
)
from hyperdraw.sources import find_inputs
from hyperdraw.terminal import printable


def certify_command(
    paths: Annotated[
        list[str], typer.Argument(help="Picture files, or folders of them.", metavar="PICTURE…", show_default=False)
    ],
    sigma: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the noise, as a share of the pixels' range.", show_default="0.25"),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Most noisy copies of each picture.", show_default="1000")] = None,
    ensemble_size: Annotated[
        int | None, typer.Option(help="Networks whose mean answers for each copy.", show_default="1")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Probability that a certificate is wrong.", show_default="0.001")
    ] = None,
    radius: Annotated[
        float | None, typer.Option(help="A radius that is enough.", show_default="as large as possible")
    ] = None,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    model: ModelOption = None,
    seed: SeedOption = None,
    as_json: JSONOption = False,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that each request may take.")] = TIMEOUT,
) -> None:
    """Prove within which radius no change of a picture changes the most probable class."""
    with open_client(url, api_key, timeout) as client:
        sources = [source for path in paths for source in find_inputs(path)]
        answer = client.certify(
            [source for _, source in sources],
            model=model,
            sigma=sigma,
            samples=samples,
            ensemble_size=ensemble_size,
            alpha=alpha,
            radius=radius,
            seed=seed,
        )
    names = [name for name, _ in sources]
    if as_json:
        show_json({"inputs": names, **dataclasses.asdict(answer)})
    else:
        _show(names, answer)


def _show(names: list[str], answer: Certification) -> None:
    console = make_console()
    table = Table("picture", "class", box=None, pad_edge=False, header_style="dim")
    for heading in ("radius", "probability", "copies"):
        table.add_column(heading, justify="right")
    for name, own in zip(names, answer.certificates, strict=True):
        label = Text("undecided", "yellow") if own.label is None else Text(printable(own.label), "bold green")
        cells = f"{own.radius:.3f}", f"≥ {own.least_probability:.4f}", f"{own.votes} of {own.samples}"
        table.add_row(Text(printable(name)), label, *cells)
    console.print(table)
    networks = "fresh networks" if answer.networks is None else f"its {answer.networks} networks"
    each = "one" if answer.ensemble_size == 1 else f"the mean of {answer.ensemble_size}"
    console.print(
        Text(
            printable(
                f"{answer.model.name}, seed {answer.seed}: certificates for {networks}, {each} for each noisy copy, "
                f"σ = {answer.sigma:g}; each is wrong with a probability of at most {answer.alpha:g}"
            ),
            "dim",
        )
    )
