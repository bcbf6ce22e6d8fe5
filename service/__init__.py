"""The web service: loads checkpoints, samples networks, answers predictions with their uncertainty."""
