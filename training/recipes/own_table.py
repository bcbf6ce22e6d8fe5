"""The recipe for a user's own table."""

import shlex
from dataclasses import replace
from urllib.parse import unquote

from models.samplers.hyperdraw import HyperDrawConfig
from models.targets.layers import Activation, Linear
from models.targets.target import TargetNetwork
from training.data.table import Table
from training.recipes.recipe import Recipe

MODES, HIDDEN = 8, 64
EPOCHS, LEAST_STEPS, MOST_STEPS = 60, 600, 6_000
INPUTS_PER_NETWORK = 32

PRIOR_VARIANCE = 0.5
"""Variance of a normal prior of each weight. Its penalty shrinks with the number of rows. It lowers the NLL of small
regressions on validation rows, where a constant penalty of that strength would make large tables worse."""


def own_vectors(table: Table) -> Recipe:
    """The same recipe for vectors from an npz file."""
    file, inputs, labels = table.name.rsplit("@", 1)[0].rsplit(":", 2)
    options = f" --inputs {shlex.quote(unquote(inputs))} --labels {shlex.quote(unquote(labels))}"
    return replace(own_table(table), name=f"vectors {shlex.quote(file)}", options=options)


def own_table(table: Table) -> Recipe:
    """A recipe for a perceptron of two hidden layers, in eight modes that see the rows in orders of their own."""
    dataset = table.dataset
    inputs = min(INPUTS_PER_NETWORK, max(1, len(dataset.train) // 2))
    steps = min(max(EPOCHS * len(dataset.train) // inputs, LEAST_STEPS), MOST_STEPS)
    (features,) = dataset.input.prepared_shape
    layers = Linear(HIDDEN), Activation(), Linear(HIDDEN), Activation(), Linear(dataset.task.num_outputs)
    file = table.name.rsplit("@", 1)[0].rsplit(":", 1)[0]
    return Recipe(
        name=f"table {shlex.quote(file)}",
        dataset=table.name,
        method=HyperDrawConfig(MODES),
        target=TargetNetwork((features,), layers),
        steps=steps,
        learning_rates={"modes": 1e-3, "gains": 5e-4},
        weight_decays={"modes": 1 / (PRIOR_VARIANCE * len(dataset.train)) / MODES},
        networks_per_step=MODES,
        inputs_per_network=inputs,
        own_epochs=True,
        options=f" --target {shlex.quote(table.target)}",
    )
