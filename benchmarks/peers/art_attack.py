"""AutoPGD of the Adversarial Robustness Toolbox (ART) against a checkpoint and its flags, beside this project's attack.

Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks", ICML
2020. Whatever ART evaluates, fresh networks answer, so losses and gradients are in expectation over draws, as in the
version of that attack for randomised defences. Its own losses do not know the flags; with this project's loss, only the
optimisers differ.

`make cross-check` runs this in an environment of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import art
import numpy as np
import torch
import torch.nn.functional as F
import typer
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from models.checkpoint import Checkpoint, load_checkpoint
from models.checkpoint_files import dump_json, write_file
from models.precision import Precision
from models.predictions.perturbation import Norm
from models.tasks.probabilities import average_logits
from training.data.dataset import Dataset
from training.data.datasets import load_training_data
from training.denormals import flush_denormals
from training.evaluation.attack import JUDGES, attack_once, judge
from training.evaluation.attack_report import RATES, Budget, Outcome, Tier
from training.evaluation.attacker import JUDGE_SEED, Attacker, measure_joint_loss
from training.options import DATA_FOLDER, TrainingDataOption

SHIFT = 1000.0
"""Nats by which outputs other than the answer's are lowered, so that ART takes none of them for the answer."""

LOSSES = {
    "ART's AutoPGD, cross-entropy": "cross_entropy",
    "ART's AutoPGD, difference of logits ratio": "difference_logits_ratio",
    "ART's AutoPGD, the loss of `hyperdraw-train attack`": None,
}
"""Names of ART's losses; None for this project's."""


class FreshNetworks(nn.Module):
    """Answers with fresh networks at each call: log-probabilities [n, C] of images [n, C, H, W] between 0 and 1.

    With flags, [n, 2 C + 1]: then come those of the networks that see noise, and minus the score's
    excess over its threshold.
    """

    def __init__(self, attacker: Attacker, with_flags: bool) -> None:
        super().__init__()
        self._attacker, self._with_flags, self._calls = attacker, with_flags, 0

    def forward(self, images: Tensor) -> Tensor:
        logits, jittered = self._attacker.evaluate(images, 0, self._calls)
        self._calls += 1
        answers = average_logits(logits)
        if not self._with_flags:
            return answers
        assert jittered is not None
        excess = self._attacker.measure_excess(images, logits)
        return torch.cat([answers, average_logits(jittered) - SHIFT, -SHIFT - excess[:, None]], dim=1)


class JointLoss(nn.Module):
    """The opposite of this project's loss, as ART maximises."""

    def __init__(self, attacker: Attacker) -> None:
        super().__init__()
        self._most_fragility = attacker.most_fragility
        self.reduction = "mean"
        """What ART changes to have the loss of each image."""

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Takes outputs of `FreshNetworks` and labels, one-hot, [n, C]."""
        classes = labels.shape[1]
        answers, jittered, last = outputs.split([classes, classes, 1], dim=1)
        excess = -SHIFT - last[:, 0]
        losses = -measure_joint_loss(answers[None], jittered[None], labels.argmax(1), excess, self._most_fragility)
        return losses if self.reduction == "none" else losses.mean()


class ToolboxAttacker(Attacker):
    """ART's optimiser with one of its losses, or with this project's if none is named."""

    def __init__(self, victim: Checkpoint, tier: Tier, networks: int, budget: Budget, loss: str | None) -> None:
        super().__init__(victim, None, tier, networks, budget)
        self._loss = loss

    def perturb(self, images: Tensor, labels: Tensor, norm: Norm, epsilon: float) -> Tensor:
        joint, classes = self._loss is None, len(self.victim.config.task.outputs)
        classifier = PyTorchClassifier(
            model=FreshNetworks(self, with_flags=joint),
            loss=JointLoss(self) if joint else nn.CrossEntropyLoss(),
            input_shape=self.spec.shape,
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        attack = AutoProjectedGradientDescent(
            classifier,
            norm=np.inf if norm == "linf" else 2,
            eps=epsilon,
            eps_step=2 * epsilon,
            max_iter=self.budget.steps,
            nb_random_init=self.budget.restarts,
            batch_size=len(images),
            loss_type=self._loss,
            verbose=False,
        )
        one_hot = F.one_hot(labels, classes).float()
        return torch.from_numpy(attack.generate(images.numpy(), one_hot.numpy()))


@flush_denormals()
def cross_check(
    checkpoint: Annotated[Path, typer.Argument(help="Directory of a calibrated classifier of images.")],
    out: Annotated[Path, typer.Option(help="Directory of README.md and outcomes.json.")],
    data: TrainingDataOption = DATA_FOLDER,
    epsilon: Annotated[float, typer.Option(min=0, max=1, help="Largest change of a pixel.")] = 0.2,
    images: Annotated[int, typer.Option(min=1, help="Number of test images, from the first on.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each attack.")] = 100,
    networks: Annotated[int, typer.Option(min=1, help="Fresh networks in each step.")] = 20,
    precision: Annotated[Precision, typer.Option(help="Precision of the networks.")] = "float32",
) -> None:
    """Attack a model with ART's AutoPGD and with this project's attack, from one start each, and write a table."""
    np.random.seed(0)  # noqa: NPY002  (ART draws its starts from it)
    victim = load_checkpoint(checkpoint, torch.device("cpu"))
    dataset = load_training_data(victim.config, data)
    assert isinstance(dataset, Dataset)
    budget, size = Budget(images, steps, 1, precision), victim.config.training.largest_ensemble
    pixels, labels = dataset.test.inputs[:images], dataset.test.labels[:images]
    clean = judge(victim, pixels, labels, range(JUDGE_SEED, JUDGE_SEED + JUDGES), size, precision)
    ours = Attacker(victim, None, Tier("`hyperdraw-train attack`", "expectation", networks), size, budget)
    theirs = [
        ToolboxAttacker(victim, Tier(name, "expectation", networks), size, budget, loss)
        for name, loss in LOSSES.items()
    ]
    outcomes = [attack_once(attacker, pixels, labels, "linf", epsilon, clean) for attacker in (ours, *theirs)]
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "outcomes.json", dump_json(outcomes))
    write_file(out / "README.md", _describe(victim.name, networks, size, budget, outcomes))


def _describe(name: str, networks: int, size: int, budget: Budget, outcomes: Sequence[Outcome]) -> bytes:
    shares = "\n".join(
        f"| {o.tier} | {o.wrong:.1%} | "
        + " | ".join(f"{o.evades_out_of_distribution[rate]:.1%} | {o.evades[rate]:.1%}" for rate in RATES)
        + " |"
        for o in outcomes
    )
    titles = " | ".join(f"evades `out_of_distribution` at {rate:g} | evades both flags at {rate:g}" for rate in RATES)
    return f"""# Another toolbox's attack on {name}

Made by `make cross-check`: the first {budget.images} test images, ε = {outcomes[0].epsilon:g} in the maximum norm,
{budget.steps} steps from one start. Whenever an image is evaluated, {networks} fresh networks answer, in
{budget.precision}. ART is the Adversarial Robustness Toolbox, version {art.__version__}. {JUDGES} fresh draws of {size}
networks judge the result. *Evades* is the share of images with a wrong answer and no flag, at two budgets of false
alarms.

| attack | wrong | {titles} |
| --- | --- | {" | ".join(["---"] * 2 * len(RATES))} |
{shares}
""".encode()


if __name__ == "__main__":
    typer.run(cross_check)
