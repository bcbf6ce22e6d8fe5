"""The command that trains on a user's own images."""

import shlex
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer

from models.checkpoint import load_checkpoint
from models.checkpoint_files import dump_json, write_file
from models.inputs.image import ImageSpec
from training.backbones.efficientnet import EFFICIENTNETS
from training.backbones.source import USUAL_SIZE as BACKBONE_SIZE
from training.backbones.source import open_backbone, place_backbone
from training.data.features import CachedBackbone, default_feature_folder
from training.data.image_folders import LARGEST_SIZE, LEAST_SIZE, OWN_SIZE, USUAL_SIZE, load_image_folder
from training.endings import conclude_with_report, explain_errors
from training.evaluation.metrics import ClassificationMetrics, load_metrics
from training.options import (
    DeviceOption,
    ExamplesOption,
    FoldsOption,
    JSONOption,
    MinutesOption,
    OutOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    WithoutOption,
    check_length,
)
from training.progress import announce, be_quiet, warn
from training.recipes.own_images import Method, own_images, plain_network
from training.recipes.variation import vary
from training.report.own_images import FILE as REPORT_FILE
from training.report.own_images import describe_images, describe_omissions, describe_report, make_report
from training.runs.examples import write_examples
from training.runs.output import check_output
from training.runs.plain import train_plain_network
from training.runs.ranks import join_ranks
from training.runs.session import Session, train

SUGGESTED = next(iter(EFFICIENTNETS))
LARGEST_WITHOUT = 128
"""Largest size of images, in pixels, that are trained on without a backbone."""


def images_command(
    folder: Annotated[
        Path, typer.Argument(help="Folder with a folder for each class, as in DIR/cat/1.jpg.", metavar="DIR")
    ],
    out: OutOption,
    size: Annotated[
        int | None,
        typer.Option(
            min=LEAST_SIZE,
            max=LARGEST_SIZE,
            help=f"Width and height that images are resized to; at most {LARGEST_WITHOUT} without a backbone.",
            show_default=f"their own size if it is the same for all and at most {OWN_SIZE}; otherwise {USUAL_SIZE}; "
            f"with a backbone {BACKBONE_SIZE}",
        ),
    ] = None,
    grey: Annotated[
        bool | None,
        typer.Option(
            "--grey/--colour",
            help="Train on grey or on colour images.",
            show_default="grey if no image is stored in colour",
        ),
    ] = None,
    flip: Annotated[
        bool,
        typer.Option(
            "--flip", help="Train on mirrored images too. Not for letters: their mirror images mean something else."
        ),
    ] = False,
    balance: Annotated[
        bool, typer.Option("--balance", help="Give rare classes the same weight in the loss as frequent ones.")
    ] = False,
    backbone: Annotated[
        Path | None,
        typer.Option(
            help="ONNX file of a pretrained network, whose features the sampled networks read.", metavar="FILE"
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Output of the backbone to read, if it has several.", show_default="as FILE.json says"),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Folder in which features are kept.", show_default="in the user's cache")
    ] = None,
    folds: FoldsOption = None,
    method: Annotated[Method, typer.Option(help="Method that samples the networks.")] = Method.HYPERDRAW,
    without: WithoutOption = None,
    examples: ExamplesOption = True,
    device: DeviceOption = "auto",
    seed: SeedOption = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of training steps.",
            show_default="by the number of images; at least 1300, or 800 with a backbone",
        ),
    ] = None,
    minutes: MinutesOption = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Train on your own images, in a folder for each class, and report how good the model is; minutes on 2 cores.

    Images are PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF files, such as DIR/cat/1.jpg. Each class is divided: 60 % train,
    10 % choose the temperature, 15 % calibrate flags and 15 % test. Instead of the classes, DIR can hold `train` with
    `test`, `val` or both, and the classes within them. Then `test` is the test set, or `val` if there is no `test`.
    With `--folds`, all but the test set train.

    With `--backbone`, the features of all images and of some distorted views are computed once, and kept.
    """
    if backbone is None and (size or 0) > LARGEST_WITHOUT:
        raise typer.BadParameter(f"without --backbone, --size may be at most {LARGEST_WITHOUT}")
    if backbone is None and output is not None:
        raise typer.BadParameter("--output names an output of a --backbone")
    if backbone is not None and grey is not None:
        raise typer.BadParameter("the backbone decides whether images are grey; leave out --grey and --colour")
    check_length(steps, minutes, resume)
    if out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve()):
        raise typer.BadParameter(f"--out {out} and the images' folder {folder} must not contain each other")
    with explain_errors(), be_quiet(quiet):
        ranks, chosen = join_ranks(device)
        check_output(out, resume)
        if backbone is None and find_spec(EFFICIENTNETS[SUGGESTED].module):
            announce(
                "Photographs are recognised better through a pretrained network. Make one, and pass it as --backbone: "
                f"hyperdraw-train backbone {SUGGESTED} --out backbones"
            )
        opened = None if backbone is None else open_backbone(backbone, size or BACKBONE_SIZE, output)
        if opened is None:
            images = load_image_folder(folder, size, grey)
        else:
            spec, plain = opened
            images = load_image_folder(folder, spec.height, spec.channels == 1)
            torch.set_num_threads(1)  # more would wait for one another, as the networks on features are small
            images = images.see_through(spec, CachedBackbone(plain, features or default_feature_folder()))
        images = images.in_folds(folds)
        for text in describe_omissions(images):
            warn(text)
        dataset = images.dataset
        assert isinstance(dataset.input, ImageSpec)
        shape, counts = dataset.input.shape, images.count()
        announce(describe_images(images))
        feature_shape = None if dataset.backbone is None else dataset.backbone.spec.feature_shape
        recipe = own_images(images.name, shape, len(counts), len(dataset.train), method, flip, balance, feature_shape)
        try:
            recipe = vary(recipe, without or ())
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        options = f" --method {method}" if method is not Method.HYPERDRAW else ""
        options += f" --backbone {shlex.quote(str(backbone))}" if backbone else ""
        options += f" --output {shlex.quote(output)}" if output else ""
        options += f" --size {size}" if size else ""
        options += "" if grey is None else " --grey" if grey else " --colour"
        options += " --flip" if flip else ""
        options += " --balance" if balance else ""
        options += "" if examples else " --no-examples"
        options += f" --folds {folds}" if folds else ""
        recipe = replace(recipe, options=options + recipe.options)
        if backbone is not None and dataset.backbone is not None and not resume and ranks.leads:
            place_backbone(backbone, dataset.backbone.spec, out)
        finished = train(Session(recipe, out, folder, chosen, seed, steps, minutes, resume, ranks), dataset)
        report = None
        if finished:
            checkpoint = replace(load_checkpoint(out, chosen), backbone=dataset.backbone)
            metrics = load_metrics(checkpoint)
            assert isinstance(metrics, ClassificationMetrics)
            alone = None
            if dataset.backbone is None:
                made, used = checkpoint.config.training, checkpoint.sampler.device
                alone = train_plain_network(plain_network(recipe), dataset, made.seed, made.planned_steps, used)
            report = make_report(out, folder, images, checkpoint, metrics, alone)
            write_file(out / REPORT_FILE, dump_json(report))
            if examples:
                write_examples(out, images)
    conclude_with_report(report, out, describe_report, as_json)
