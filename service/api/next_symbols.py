"""Predicting the character that comes next in texts, in the form of any other classification."""

import json
from dataclasses import asdict

import torch
from fastapi import Response
from safetensors.torch import save

from models.tasks.classification import measure_uncertainty
from models.tasks.probabilities import compute_probabilities
from service.api.answers import answer_classes, describe_sequence_task, identify
from service.api.asking import choose_size
from service.api.downloads import BINARY
from service.api.findings import Findings
from service.api.schemas import EnsembleIdentity, PredictAnswer, PredictParameters, UncertaintyAnswer
from service.api.sequence_schemas import MOST_NETWORKS, TextsBody
from service.api.uploads import read_json
from service.api.writing import Writing
from service.engine.ensembles import choose_seed
from service.errors import ServiceError


async def predict_next(writing: Writing, parameters: PredictParameters) -> Response:
    """Says what comes next after each text of a request.

    Raises:
        ServiceError: if the request is refused, or cannot be answered.
        OverloadedError: if too many sequences are live.
    """
    model, settings = writing.model, writing.parts.settings
    if parameters.false_alarm_rate is not None or parameters.coverage is not None:
        message = f"What {model.name} predicts has no flags, and no sets of characters."
        hint = "Leave out false_alarm_rate and coverage. The route score says which passages are foreign."
        raise ServiceError(422, "invalid_parameter", message, hint)
    if parameters.ensemble_size == "auto":
        hint = "Leave out ensemble_size, or give a number."
        raise ServiceError(422, "invalid_parameter", f"Ensembles of {model.name}, which writes, do not grow.", hint)
    size = choose_size(model, parameters.ensemble_size, min(MOST_NETWORKS, settings.max_ensemble_size))
    hint = 'Send application/json {"inputs": ["To be, or not to b"]}; see /docs for more.'
    asked = await read_json(writing.request, settings, writing.deadline, TextsBody, "this model takes texts", hint)
    seed = choose_seed() if parameters.seed is None else parameters.seed
    texts = [writing.encode(text) for text in asked.inputs]
    outlooks = await writing.look_ahead(
        [model.open(seed, range(size), text, first=len(text), keeps=True) for text in texts]
    )
    logits = torch.stack([outlook.outputs for outlook in outlooks], dim=1)
    found, members = measure_uncertainty(logits), compute_probabilities(logits)
    findings = Findings(
        torch.arange(logits.shape[1]),
        EnsembleIdentity(size=size, seed=seed, precision="float32"),
        {name: getattr(found, name) for name in ("probabilities", *UncertaintyAnswer.model_fields)},
        {},
        None,
        None,
    )
    said = members if parameters.members else None
    identity = identify(model)
    if parameters.format == "safetensors":
        tensors = {**findings.tensors, **({} if said is None else {"members": said})}
        metadata = {
            "model": identity.model_dump_json(),
            "ensemble": findings.ensemble.model_dump_json(exclude_none=True),
            "task": describe_sequence_task(model).model_dump_json(),
            "input": json.dumps(asdict(model.input)),
        }
        content = save({name: tensor.float().contiguous() for name, tensor in tensors.items()}, metadata)
        return Response(content, media_type=BINARY)
    predictions = answer_classes(writing.spec.symbols, findings, [{} for _ in texts], said)
    answer = PredictAnswer(model=identity, ensemble=findings.ensemble, predictions=predictions)
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
