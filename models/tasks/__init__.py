"""The meaning of target networks' outputs, and the uncertainty of an ensemble."""
