"""Target networks: their layers, a batched forward pass for many sampled networks, and gauge fixing."""
