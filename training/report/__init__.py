"""What people read of a checkpoint: its card, and the report on own images."""
