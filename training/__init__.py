"""Offline training of weight samplers: data, objective, training run, calibration, evaluation, model card."""
