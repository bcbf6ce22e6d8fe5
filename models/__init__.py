"""Code that training and the service share: target networks, samplers of their weights, uncertainty and checkpoints."""
