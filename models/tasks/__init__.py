"""What the outputs of target networks mean, and the uncertainty of an ensemble of them."""
