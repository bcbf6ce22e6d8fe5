"""Training of models for sequences."""
