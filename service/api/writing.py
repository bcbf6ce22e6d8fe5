"""A request for text, from its networks to what they have written, for every protocol."""

from dataclasses import dataclass

from fastapi import Request

from models.sequences.model import SequenceModel
from models.sequences.text import TextSpec
from service.api.asking import Deadline, explain_inputs
from service.api.sequence_requests import SequenceRequest
from service.errors import ServiceError
from service.parts import Parts


@dataclass(frozen=True)
class Writing(SequenceRequest):
    """A request to a model for text."""

    spec: TextSpec

    def encode(self, text: str) -> list[int]:
        """Numbers of a text's characters.

        Raises:
            ServiceError: 422 if the model cannot read one.
        """
        with explain_inputs():
            return self.spec.encode(text)

    def read_prompt(self, prompt: str) -> list[int]:
        """What networks read of a prompt. Raises as `encode`."""
        return self.encode(prompt)


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
    return Writing(request, parts, model, timeout, deadline, model.text)
