"""Which version of a model answers a request for a prediction, and which is asked in its shadow."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from models.model import Model
from models.predictions.stopping import StoppingRule
from service.api.asking import Asking, find_exchange
from service.engine.batches import Answer
from service.errors import ServiceError


@dataclass(frozen=True)
class Question:
    """What a request asks about its inputs."""

    ensemble_size: int | Literal["auto"] | None
    false_alarm_rate: float | None
    coverage: float | None
    members: bool
    """Whether the answer of each network is requested."""

    def choose_ensemble(self, asking: Asking) -> tuple[int, StoppingRule | None]:
        """The number of networks that answer, and when ensembles stop growing: `Asking.choose_ensemble`.

        Raises:
            ServiceError: 422 if the model does not offer what is asked.
        """
        asking.check_rates(self.false_alarm_rate, self.coverage)
        return asking.choose_ensemble(self.ensemble_size, self.false_alarm_rate, members=self.members)


def divide(asking: Asking, question: Question) -> Asking:
    """The request to the stable version of a model, or the same to the candidate, whose share the client belongs to.

    The client is the key, or else the request's id. Only a request that names neither version nor seed may be divided:
    a seed names the same networks as long as the stable version is the same. What the candidate does not offer is left
    to the stable version.
    """
    name, exchange = asking.model.name, find_exchange(asking.request)
    served, client = asking.parts.catalog.served.get(name), exchange.key or exchange.request_id
    candidate = served.candidate if served else None
    if served is None or not isinstance(candidate, Model) or not served.versions.chooses_candidate(name, client):
        return asking
    other = asking.to(candidate)
    try:
        question.choose_ensemble(other)
    except ServiceError:
        return asking
    return other


def shadow(asking: Asking, question: Question, inputs: Tensor, answer: Answer) -> None:
    """Lets a candidate that follows the stable version answer the same, once the answer to a request has been sent.

    Args:
        asking: the request.
        question: what it asks.
        inputs: its raw inputs, [B, …].
        answer: the engine's answer.
    """
    model, parts = asking.model, asking.parts
    served = parts.catalog.served.get(model.name)
    candidate = served.candidate if served and served.versions.shadow and model is served.stable else None
    if not isinstance(candidate, Model):
        return

    def ask() -> None:
        try:
            size, rule = question.choose_ensemble(asking.to(candidate))
        except ServiceError:
            parts.shadow.refuse(model, candidate)
        else:
            parts.shadow.ask(model, candidate, inputs, answer, size, rule)

    find_exchange(asking.request).closing.callback(ask)
