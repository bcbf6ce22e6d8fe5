"""Target networks: their layers, one batched forward pass for many sampled networks, and gauge fixing."""
