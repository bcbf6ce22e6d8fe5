"""Target networks, samplers of their weights, uncertainty, and checkpoints: what training and the service share."""
