"""Watches the streams of inputs of models, and says when they change. It knows no HTTP."""
