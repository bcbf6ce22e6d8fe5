"""The command `hyperdraw-train import`."""

import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from models.device import choose_device
from training.endings import conclude_with_report, explain_errors
from training.imports.members import SUFFIX
from training.options import DeviceOption, ExamplesOption, JSONOption, OutOption, QuietOption
from training.progress import be_quiet
from training.report.own_images import describe_report
from training.runs.importing import Import, import_networks


def import_command(
    states: Annotated[
        list[Path],
        typer.Argument(
            help="Safetensors files, each with the state dict of one trained network; or ONNX files, each with one.",
            metavar="FILE…",
        ),
    ],
    classes: Annotated[
        str, typer.Option(help="Names of the classes in the order of the network's outputs, with commas between them.")
    ],
    calibrate: Annotated[
        Path,
        typer.Option(
            help="Folder with a folder for each class, of images that the networks were not trained on. 25 % choose "
            "the temperature, 37.5 % calibrate flags, 37.5 % test.",
            metavar="DIR",
        ),
    ],
    out: OutOption,
    target: Annotated[
        str | None,
        typer.Option(
            help="For state dicts: your Python file, and the name of the network in it: a PyTorch module, or a "
            "function that returns one. The file is run with all your rights, as if you ran it yourself, so name only "
            "files that you trust.",
            metavar="FILE.py:NAME",
        ),
    ] = None,
    fit: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the same kind, of the images that the networks were trained on. With it, flags know how "
            "far an image is from them. A single state dict needs it, as last-layer Laplace is fitted to them.",
            metavar="DIR",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=512,
            help="Width and height that images are resized to.",
            show_default="what an ONNX file takes, or the images' own size, which must then be the same for all",
        ),
    ] = None,
    mean: Annotated[
        str,
        typer.Option(help="Numbers that are subtracted from pixels in [0, 1]: one for all channels, or one for each."),
    ] = "0",
    std: Annotated[str, typer.Option(help="Numbers that pixels are then divided by, as for --mean.")] = "1",
    examples: ExamplesOption = True,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Import networks that you have trained; calibrate and test them, and report how good they are.

    Several ONNX files, or several state dicts of one PyTorch network, become a deep ensemble. A single state dict
    becomes a distribution by last-layer Laplace (Daxberger et al., 2021), fitted to its training images. Flags see
    more that is foreign if they know the training images (--fit).

    ONNX files are run by onnxruntime. Each has one output, logits or probabilities, and may have its own architecture.

    A PyTorch network consists of layers in a row, as in nn.Sequential, ends with a linear layer, and gives logits.
    Batch normalisation is folded into the layer before it. A layer that cannot be converted is refused by name, and the
    outputs of both networks are compared.
    """
    names = tuple(name.strip() for name in classes.split(","))
    if len(names) < 2 or len({*names}) < len(names) or not all(names):
        raise typer.BadParameter(f"--classes needs two or more different names, such as a,b,c, not {classes!r}")
    deviations = _read_numbers("--std", std)
    if min(deviations) <= 0:
        raise typer.BadParameter(f"--std needs numbers above 0, not {std!r}")
    suffixes = {path.suffix.lower() == SUFFIX for path in states}
    if len(suffixes) > 1:
        raise typer.BadParameter("pass state dicts or ONNX files, not both")
    if suffixes == {target is not None}:
        reason = "--target is for state dicts, not for ONNX files" if target else "--target is needed for state dicts"
        raise typer.BadParameter(reason)
    words = ["hyperdraw-train", "import", *(["--target", Path(target).name] if target else [])]
    words += [path.name for path in states]
    words += ["--fit", fit.name] if fit else []
    words += ["--classes", ",".join(names), "--calibrate", calibrate.name]
    words += ["--size", str(size)] if size else []
    words += ["--mean", mean] if mean != "0" else []
    words += ["--std", std] if std != "1" else []
    words += [] if examples else ["--no-examples"]
    words += ["--out", "DIR"]
    with explain_errors(), be_quiet(quiet):
        report = import_networks(
            Import(
                target=target,
                states=states,
                classes=names,
                calibrate=calibrate,
                fit=fit,
                size=size,
                mean=_read_numbers("--mean", mean),
                std=deviations,
                examples=examples,
                out=out,
                device=choose_device(device),
                command=shlex.join(words),
            )
        )
    conclude_with_report(report, out, describe_report, as_json)


def _read_numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise typer.BadParameter(f"{flag} needs numbers, such as 0.5 or 0.49,0.48,0.45, not {text!r}")
    return numbers
