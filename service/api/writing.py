"""A request for text, from its networks to what they have written, for every protocol."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from models.sequences.model import SequenceModel
from models.sequences.text import TextSpec
from service.api.asking import Deadline, check_members, choose_size, explain_inputs, find_exchange, wait_for
from service.api.sequence_schemas import NetworkParameters
from service.engine.ensembles import choose_seed
from service.errors import ServiceError
from service.parts import Parts


@dataclass(frozen=True)
class Writing:
    """A request to a model for text."""

    request: Request
    parts: Parts
    model: SequenceModel
    spec: TextSpec
    timeout: float | None
    deadline: Deadline

    def choose_networks(self, asked: NetworkParameters) -> tuple[int, list[int]]:
        """The seed and the members that answer.

        Raises:
            ServiceError: 422 if they do not exist.
        """
        seed = choose_seed() if asked.seed is None else asked.seed
        if asked.member is not None:
            check_members(self.model, asked.member + 1)
            return seed, [asked.member]
        return seed, list(range(choose_size(self.model, asked.ensemble_size, self.parts.settings.max_ensemble_size)))

    def encode(self, text: str) -> list[int]:
        """Numbers of a text's characters.

        Raises:
            ServiceError: 422 if the model cannot read one.
        """
        with explain_inputs():
            return self.spec.encode(text)

    async def wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Waits for the work on an answer that is sent as a whole.

        Raises:
            ServiceError: 499 if the client leaves, 503 if the service is shutting down, 504 after the deadline, and
                what the work raises.
        """
        await wait_for(asyncio.ensure_future(work), self.request, self.deadline)

    @property
    def stream_deadline(self) -> Deadline | None:
        """The deadline of an answer that is sent in events, if the client has named one."""
        return None if self.timeout is None else Deadline(self.timeout, self.deadline.start)

    @property
    def client(self) -> str:
        """Name of the client, for its share of what may be live."""
        return find_exchange(self.request).client


def open_writing(
    request: Request, parts: Parts, model: SequenceModel, timeout: float | None, deadline: Deadline
) -> Writing:
    """Begins a request to a model for text.

    Raises:
        ServiceError: 422 for a model of another kind.
    """
    if model.text is None:
        message = f"{model.name} is a model of {model.input.kind}, not of text."
        raise ServiceError(422, "wrong_kind", message, "Ask a model of text.")
    return Writing(request, parts, model, model.text, timeout, deadline)
