"""The evaluation of checkpoints: calibration, metrics and attacks."""
