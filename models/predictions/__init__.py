"""Predictions of ensembles: calibrated flags, perturbed inputs, and paths between networks."""
