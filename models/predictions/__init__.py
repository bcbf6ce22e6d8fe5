"""What ensembles predict: calibrated flags, perturbed inputs, and paths between networks."""
