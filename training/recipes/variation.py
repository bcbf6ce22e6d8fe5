"""Variations of a recipe: without some of its parts, with extra parts, or with other weights."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from models.precision import Precision
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hypergan import HyperGANConfig
from training.data.augmentation import Augmentation
from training.objectives.gaussian_noise import GaussianNoise
from training.objectives.hardening import Hardening
from training.objectives.logitnorm import LogitNorm
from training.objectives.objectives import Diversity, Measure
from training.objectives.repulsion import Repulsion
from training.recipes.recipe import OutlierExposure, Part, Recipe

ADDABLE: Mapping[Part, Any] = {
    Part.AUGMENTATION: Augmentation(),
    Part.OUTLIERS: OutlierExposure(),
    Part.HARDENING: Hardening(),
    Part.NOISE: GaussianNoise(),
    Part.REPULSION: Repulsion(),
    Part.LOGITNORM: LogitNorm(),
}
"""Parts that can be added, with their settings. Each fills the recipe's field of the same name."""


def vary(
    recipe: Recipe,
    without: Collection[Part] = (),
    accuracy_weight: float | None = None,
    measure: Measure | None = None,
    moment_matching_weight: float | None = None,
    extras: Collection[Part] = (),
    precision: Precision = "float32",
    networks: int | None = None,
) -> Recipe:
    """A recipe without some of its parts, with extra parts, with other regularisers, or for more networks.

    Args:
        recipe: the recipe to vary.
        without: parts to leave out. Without the mixer there are no mixed codes, so the losses on them go too.
        accuracy_weight: λ. If the recipe has no diversity, this adds gauge-fixed entropy, normalised by layer.
        measure: how diversity is measured, instead of the recipe's way.
        moment_matching_weight: weight of the distance between the moments of the mixed codes and of their prior.
        extras: parts to add.
        precision: precision of the networks of a step.
        networks: number of separately trained networks.

    Raises:
        ValueError: if the recipe lacks a part to leave out or has a part to add already, if λ is not positive, if there
            are no mixed codes whose moments could be matched, or if the recipe does not train separate networks.
    """
    options = [f" --without {part}" for part in Part if part in without]
    options += [f" --with {part}" for part in Part if part in extras]
    changed = recipe
    if Part.MIXER in without:
        if not isinstance(recipe.method, HyperGANConfig):
            raise ValueError(f"{recipe.name} has no mixer")
        method = replace(recipe.method, mixer=False)
        changed = replace(changed, method=method, moment_matching_weight=0.0, adversarial_weight=0.0)
    if Part.DISCRIMINATOR in without:
        _require(recipe, Part.DISCRIMINATOR, bool(recipe.adversarial_weight))
        changed = replace(changed, adversarial_weight=0.0)
    if Part.DIVERSITY in without:
        _require(recipe, Part.DIVERSITY, recipe.diversity is not None)
        changed = replace(changed, diversity=None)
    for part in without:
        if part in ADDABLE:
            _require(recipe, part, getattr(recipe, part) is not None)
            changed = _set(changed, part, None)
    for part in extras:
        if part not in ADDABLE:
            raise ValueError(f"{part} cannot be added; parts that can be added: {', '.join(ADDABLE)}")
        if getattr(changed, part) is not None:
            raise ValueError(f"{recipe.name} already has {part}")
        changed = _set(changed, part, ADDABLE[part])
    if accuracy_weight is not None:
        if Part.DIVERSITY in without:
            raise ValueError("--accuracy-weight weighs accuracy against diversity; it cannot be used without diversity")
        if recipe.networks_per_step == 1:
            raise ValueError(f"{recipe.name} trains a single network, so there is no diversity to weigh")
        start = recipe.diversity or Diversity(accuracy_weight, equal_layers=True)
        changed = replace(changed, diversity=replace(start, accuracy_weight=accuracy_weight))
        options.append(f" --accuracy-weight {_write(accuracy_weight)}")
    if measure is not None:
        if changed.diversity is None:
            raise ValueError(f"{recipe.name} has no diversity to measure; add it with --accuracy-weight")
        if accuracy_weight is None and measure != changed.diversity.measure:
            raise ValueError(
                f"the weight λ for {changed.diversity.measure} does not suit {measure}; set --accuracy-weight too"
            )
        changed = replace(changed, diversity=replace(changed.diversity, measure=measure))
        options.append(f" --diversity {measure}")
    if moment_matching_weight is not None:
        changed = replace(changed, moment_matching_weight=moment_matching_weight)
        options.append(f" --moment-matching {_write(moment_matching_weight)}")
    if networks is not None:
        changed = _resize(changed, networks)
        options.append(f" --networks {networks}")
    if precision != recipe.precision:
        changed = replace(changed, precision=precision)
        options.append(f" --precision {precision}")
    return replace(changed, options="".join(options))


def _set(recipe: Recipe, part: Part, settings: Any) -> Recipe:
    changes: dict[str, Any] = {part.value: settings}
    return replace(recipe, **changes)


def _resize(recipe: Recipe, networks: int) -> Recipe:
    """The loss is a mean over networks, and so is each one's gradient. The decay is divided like it."""
    if not isinstance(recipe.method, DeepEnsembleConfig):
        raise ValueError(f"{recipe.name} does not train separate networks, so their number cannot be chosen")
    share = recipe.method.networks / networks
    return replace(
        recipe,
        method=replace(recipe.method, networks=networks),
        networks_per_step=networks,
        weight_decays={group: decay * share for group, decay in recipe.weight_decays.items()},
    )


def _write(number: float) -> str:
    """A number as a command-line option: exact, and an integer without a decimal point."""
    return repr(number).removesuffix(".0")


def _require(recipe: Recipe, part: Part, present: bool) -> None:
    if not present:
        raise ValueError(f"{recipe.name} has no {part} to leave out")
