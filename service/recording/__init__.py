"""The opt-in log of predictions: what was answered, for audit and for review."""
