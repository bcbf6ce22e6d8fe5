"""Requests to models of sequences, by what these consist of."""

from fastapi import Request

from models.sequences.model import SequenceModel
from models.sequences.strokes import StrokesSpec
from service.api.asking import set_deadline
from service.api.drawings import Drawing
from service.api.writing import Writing, open_writing
from service.parts import Parts


def open_sequences(request: Request, parts: Parts, model: SequenceModel, timeout: float | None) -> Writing | Drawing:
    """Begins a request to a model of sequences."""
    deadline = set_deadline(request, timeout, parts)
    if isinstance(model.input, StrokesSpec):
        return Drawing(request, parts, model, timeout, deadline, model.input)
    return open_writing(request, parts, model, timeout, deadline)
