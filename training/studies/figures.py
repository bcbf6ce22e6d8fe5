"""Figures of a checkpoint: SVG files beside it, and the numbers behind them.

They are drawn without global state, and the same numbers give the same bytes.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from models.checkpoint import Checkpoint
from models.checkpoint_files import CheckpointError, dump_json, write_file
from models.predictions.prediction import evaluate_members
from models.tasks.regression import Regression
from training.data.dataset import Dataset
from training.data.mixture import Mixture
from training.data.outlier_sets import load_outliers
from training.denormals import flush_denormals
from training.evaluation.evaluation import SEED
from training.evaluation.metrics import load_metrics
from training.report.card import save_card
from training.runs.checkpoints import load_with_dataset
from training.studies.study import Study, study_networks

FOLDER = "figures"
STYLE: Any = {
    "svg.hashsalt": "hyperdraw",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's colours, which colour-blind people can tell apart."""
LINES = ("-", "-", "-", "-", "--", "--", "--", "--")
CURVES = 30
"""Number of networks whose functions are drawn."""


@flush_denormals()
def draw_figures(directory: Path, data: Path, device: torch.device, networks: int) -> None:
    """Draws a checkpoint's figures below its directory, and adds them to its card.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded or drawn.
        DatasetError: if data is missing or damaged.
    """
    checkpoint, dataset = load_with_dataset(directory, data, device)
    try:
        if isinstance(dataset, Mixture):
            draw_mixture(directory, checkpoint, dataset, networks)
        elif dataset.task.has_classes:
            outliers = load_outliers(checkpoint.config.training.dataset, data)
            draw_study(directory, study_networks(checkpoint, dataset, outliers, networks))
        else:
            draw_regression(directory, checkpoint, dataset, networks)
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    save_card(directory, checkpoint, load_metrics(checkpoint))


def draw_study(directory: Path, study: Study) -> None:
    """Draws a classifier's figures and writes `study.json`, all below `directory / "figures"`."""
    folder = directory / FOLDER
    drawings: dict[str, Callable[[Study], Figure]] = {
        "accuracies": _draw_accuracies,
        "ensembles": _draw_ensembles,
        "paths": _draw_paths,
        "components": _draw_components,
        "disagreement": _draw_disagreement,
        "uncertainty": _draw_uncertainty,
    }
    if study.filters is not None:
        drawings["filters"] = _draw_filters
    with mpl.rc_context(STYLE):
        for name, draw in drawings.items():
            _save(folder / f"{name}.svg", draw(study))
    write_file(folder / "study.json", dump_json(study.summary))


def draw_regression(directory: Path, checkpoint: Checkpoint, dataset: Dataset, networks: int) -> None:
    """Draws the predictive band of a regression with one input and one output.

    Raises:
        ValueError: if the checkpoint has more inputs or outputs than can be drawn.
    """
    task, spec = checkpoint.config.task, checkpoint.config.input
    assert isinstance(task, Regression)
    if spec.shape != (1,) or len(task.outputs) != 1:
        raise ValueError("only a regression with one input and one output can be drawn")
    train = dataset.train
    margin = float(train.inputs.max() - train.inputs.min()) / 4
    x = torch.linspace(float(train.inputs.min()) - margin, float(train.inputs.max()) + margin, 400)[:, None]
    outputs = evaluate_members(checkpoint.sampler, spec.prepare(x), SEED, networks)
    members, uncertainty = task.predict(outputs), task.measure(outputs)
    mean, across = uncertainty.mean[:, 0].numpy(), x[:, 0].numpy()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.6))
        axes: Axes = figure.subplots()
        for variance, color, label in (
            (uncertainty.variance, "#dde9f3", "± 3σ with noise"),
            (uncertainty.epistemic_variance, "#9cc4e0", "± 3σ of the networks"),
        ):
            deviation = 3 * variance[:, 0].sqrt().numpy()
            axes.fill_between(across, mean - deviation, mean + deviation, color=color, label=label, linewidth=0)
        axes.plot(across, members[:CURVES, :, 0].T.numpy(), color="grey", linewidth=0.3, alpha=0.7)
        axes.plot(across, mean, color=COLORS[0], label=f"mean of {networks} networks")
        if checkpoint.config.training.dataset == "cubic":
            axes.plot(across, across**3, color="black", linestyle=":", label="x³")
        axes.scatter(
            train.inputs[:, 0].numpy(),
            train.labels[:, 0].numpy(),
            s=14,
            color=COLORS[1],
            zorder=3,
            label="training data",
        )
        axes.set(xlabel="x", ylabel="y")
        axes.legend(frameon=False)
        _save(directory / FOLDER / "regression.svg", figure)


def draw_mixture(directory: Path, checkpoint: Checkpoint, mixture: Mixture, networks: int) -> None:
    """Draws sampled points, coloured by their latent, on the density that the sampler was fitted to."""
    latents = checkpoint.sampler.draw_latents(SEED, range(networks))
    points = checkpoint.config.target.flatten_weights(checkpoint.sampler.sample(SEED, range(networks))).cpu()
    border = max(7.0, float(points.abs().max()) + 0.5)
    reach = torch.linspace(-border, border, 201)
    x, y = torch.meshgrid(reach, reach, indexing="xy")
    density = mixture.measure_density(torch.stack([x, y], dim=-1))
    peaks = mixture.find_peaks()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5, 4.4))
        axes: Axes = figure.subplots()
        axes.contourf(x.numpy(), y.numpy(), density.numpy(), levels=12, cmap="Greys")
        axes.scatter(peaks[:, 0].numpy(), peaks[:, 1].numpy(), marker="x", color=COLORS[1], label="peaks")
        dots = axes.scatter(
            points[:, 0].numpy(),
            points[:, 1].numpy(),
            c=latents[:, 0].cpu().numpy(),
            s=3,
            cmap="viridis",
            rasterized=True,
        )
        figure.colorbar(dots, label="latent", shrink=0.7)
        axes.set(xlabel="slope", ylabel="intercept", aspect="equal")
        axes.legend(frameon=False)
        _save(directory / FOLDER / "mixture.svg", figure)


def draw_curves(path: Path, panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> None:
    """Draws metrics by the number of networks: a panel for each metric, and a curve for each method."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(panels), 3.4))
        axes: Axes
        for axes, (name, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for color, style, (method, curve) in zip(cycle(COLORS), cycle(LINES), curves.items(), strict=False):
                sizes, values = list(curve), list(curve.values())
                axes.plot(sizes, values, color=color, linestyle=style, marker=".", linewidth=1, label=method)
            axes.set(title=name, xlabel="networks in the ensemble", xscale="log")
        axes.legend(frameon=False, fontsize=7)
        _save(path, figure)


def _draw_accuracies(study: Study) -> Figure:
    figure = Figure(figsize=(5, 2.8))
    axes: Axes = figure.subplots()
    axes.hist(100 * study.accuracies.numpy(), bins=40, color=COLORS[0])
    axes.set(xlabel="accuracy of a single network, %", ylabel=f"of {study.summary.networks} networks")
    return figure


def _draw_ensembles(study: Study) -> Figure:
    figure = Figure(figsize=(5, 3.2))
    axes: Axes = figure.subplots()
    for color, fusion in zip(COLORS, dict.fromkeys(e.fusion for e in study.summary.ensembles), strict=False):
        own = [e for e in study.summary.ensembles if e.fusion == fusion]
        axes.errorbar(
            [e.size for e in own],
            [100 * e.mean for e in own],
            [100 * (e.std or 0) for e in own],
            color=color,
            marker=".",
            linewidth=1,
            capsize=2,
            label=fusion,
        )
    axes.set(xlabel="networks in the ensemble", ylabel="accuracy, %", xscale="log")
    axes.legend(frameon=False)
    return figure


def _draw_paths(study: Study) -> Figure:
    paths = study.summary.paths
    figure = Figure(figsize=(8, 2.8))
    panels: list[Axes] = list(figure.subplots(1, len(paths), sharey=True))
    for axes, path, color in zip(panels, paths, COLORS, strict=False):
        for accuracies in path.accuracies:
            share = np.linspace(0, 1, len(accuracies))
            axes.plot(share, [100 * a for a in accuracies], color=color, linewidth=0.8)
        axes.set(title=f"{path.kind}\ndips by {path.dip:.1%}", xlabel="share of the way")
    panels[0].set_ylabel("accuracy, %")
    return figure


def _draw_components(study: Study) -> Figure:
    figure = Figure(figsize=(8, 2.4))
    panels = figure.subplots(1, len(study.components), squeeze=False)[0]
    for axes, (layer, points) in zip(panels, study.components.items(), strict=True):
        axes.scatter(
            points[:, 0].numpy(), points[:, 1].numpy(), s=2, color=COLORS[0], alpha=0.5, linewidths=0, rasterized=True
        )
        first, second = (f"{share:.0%}" for share in study.summary.explained[layer])
        axes.set(title=layer, xlabel=f"first component ({first})", ylabel=f"second ({second})")
    return figure


def _draw_disagreement(study: Study) -> Figure:
    figure = Figure(figsize=(5, 2.8))
    axes: Axes = figure.subplots()
    axes.hist(100 * study.disagreements.numpy(), bins=40, color=COLORS[0], label="two networks differ")
    error = 100 * (1 - study.summary.accuracy.mean)
    axes.axvline(error, color=COLORS[1], linestyle="--", label="a network errs, on average")
    axes.set(xlabel="share of test images, %", ylabel=f"of {len(study.disagreements)} pairs")
    axes.legend(frameon=False)
    return figure


def _draw_uncertainty(study: Study) -> Figure:
    measures = list(next(iter(study.uncertainties.values())))
    figure = Figure(figsize=(8, 4.6))
    panels = figure.subplots(2, len(measures), squeeze=False)
    for column, measure in enumerate(measures):
        values = {name: uncertainty[measure] for name, uncertainty in study.uncertainties.items()}
        _draw_distributions(panels[0, column], panels[1, column], values)
        panels[1, column].set_xlabel(f"{measure}, nats")
    panels[0, 0].set_ylabel("density")
    panels[1, 0].set_ylabel("empirical CDF")
    panels[0, 0].legend(frameon=False)
    return figure


def _draw_distributions(histogram: Axes, distribution: Axes, values: Mapping[str, Tensor]) -> None:
    reach = max(float(v.max()) for v in values.values())
    for color, (name, own) in zip(COLORS, values.items(), strict=False):
        histogram.hist(
            own.numpy(), bins=60, range=(0, reach), density=True, histtype="step", color=color, label=name, log=True
        )
        shares = np.linspace(0, 1, 400)
        distribution.plot(np.quantile(own.numpy(), shares), shares, color=color)


def _draw_filters(study: Study) -> Figure:
    assert study.filters is not None
    filters = study.filters[:, :8]
    figure = Figure(figsize=(8, 8 * filters.shape[1] / filters.shape[0] + 0.3))
    axes: Axes = figure.subplots()
    height, width = filters.shape[2] + 1, filters.shape[3] + 1
    sheet = np.full((filters.shape[1] * height - 1, filters.shape[0] * width - 1), np.nan)
    for column, network in enumerate(filters):
        for row, kernel in enumerate(network):
            sheet[row * height : (row + 1) * height - 1, column * width : (column + 1) * width - 1] = kernel
    limit = float(filters.abs().max())
    axes.imshow(sheet, cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlabel=f"{filters.shape[0]} networks", ylabel="first filters")
    axes.spines[:].set_visible(False)
    return figure


def _save(path: Path, figure: Figure) -> None:
    content = BytesIO()
    metadata: dict[str, Any] = {"Date": None}
    figure.savefig(content, format="svg", metadata=metadata, dpi=150)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content.getvalue())
