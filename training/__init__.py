"""Offline training of weight samplers: data, objective, training run, calibration, evaluation, model card."""

from importlib.util import find_spec

if find_spec("pooch") is None:
    raise ImportError("training needs the extra `train` of hyperdraw-server: pip install '.[train]'")
