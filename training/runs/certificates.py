"""The command that certifies a finished checkpoint."""

from pathlib import Path

import torch

from models.checkpoint_files import CheckpointError, dump_json, write_file
from models.precision import Precision
from models.predictions.smoothing import Smoothing
from training.data.mixture import Mixture
from training.denormals import flush_denormals
from training.evaluation.certification import (
    FILE,
    Certification,
    add_certification,
    certify_examples,
    load_certification_report,
)
from training.evaluation.metrics import load_metrics
from training.report.card import save_card
from training.runs.checkpoints import load_with_dataset


@flush_denormals()
def certify_directory(
    directory: Path, data: Path, device: torch.device, images: int, smoothing: Smoothing, precision: Precision
) -> Certification:
    """Certifies a classifier's answers for the first test images, and writes certificates.json and the card.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded or certified.
        DatasetError: if data is missing or damaged.
    """
    checkpoint, dataset = load_with_dataset(directory, data, device)
    if isinstance(dataset, Mixture):
        raise CheckpointError(directory, "was fitted to a density; it gives no answers to certify")
    report = load_certification_report(directory)  # before the work, if it is damaged
    try:
        found = certify_examples(checkpoint, dataset.test[:images], smoothing, precision)
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    write_file(directory / FILE, dump_json(add_certification(report, found)))
    save_card(directory, checkpoint, load_metrics(checkpoint))
    return found
