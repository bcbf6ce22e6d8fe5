"""The command that certifies a finished checkpoint."""

from pathlib import Path

import torch

from models.checkpoint import load_checkpoint
from models.checkpoint_files import CheckpointError, dump_json, write_file
from models.precision import Precision
from models.predictions.smoothing import Smoothing
from training.data.dataset import Dataset
from training.data.datasets import load_training_data
from training.denormals import flush_denormals
from training.evaluation.certification import (
    FILE,
    Certification,
    add_certification,
    certify_examples,
    check_certifiable,
    load_certification_report,
)
from training.evaluation.metrics import load_metrics
from training.report.card import save_card


@flush_denormals()
def certify_directory(
    directory: Path, data: Path, device: torch.device, images: int, smoothing: Smoothing, precision: Precision
) -> Certification:
    """Certifies a classifier's answers for the first test images, and writes certificates.json and the card.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded or certified.
        DatasetError: if data is missing or damaged.
    """
    checkpoint = load_checkpoint(directory, device)
    report = load_certification_report(directory)  # before the work, if it is damaged
    try:
        check_certifiable(checkpoint)
        dataset = load_training_data(checkpoint.config, data)
        assert isinstance(dataset, Dataset)  # as there are classes
        found = certify_examples(checkpoint, dataset.test[:images], smoothing, precision)
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    write_file(directory / FILE, dump_json(add_certification(report, found)))
    save_card(directory, checkpoint, load_metrics(checkpoint))
    return found
