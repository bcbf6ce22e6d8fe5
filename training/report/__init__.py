"""Texts about a checkpoint for people: its card, and the report on a user's own images."""
