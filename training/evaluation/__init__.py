"""What a checkpoint is worth: calibration, metrics and attacks."""
