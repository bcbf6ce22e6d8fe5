"""Training runs, from their first step to a checkpoint."""
