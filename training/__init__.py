"""Offline training of weight samplers: data, objective, training run, calibration, evaluation, model card."""

from importlib.util import find_spec

if find_spec("pooch") is None or find_spec("torch") is None:  # where the client alone is installed, or the service
    raise ImportError("training needs packages that are not installed: pip install '.[train]'")
