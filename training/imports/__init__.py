"""Networks that were trained elsewhere: a plain PyTorch module, its conversion to a target network, its state dicts."""
