"""Records of answers for the log of predictions, alike for every protocol."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from models.inputs.pixels import encode_image
from models.inputs.spec import InputSpec
from models.predictions.detection import Calibration
from models.predictions.stopping import StoppingRule
from models.tasks.task import Task
from service.api.answers import answer_inputs, identify
from service.api.asking import Asking, find_exchange
from service.api.findings import Findings
from service.api.schemas import ModelIdentity
from service.engine.batches import Answer
from service.recording.record import Record

DISTANCE_SURPRISE = "distance_surprise"
"""What records name the surprise of the distance from the training examples, beside the task's quantities."""

OBJECT_BYTES = 2**14
"""Bytes of the Python objects in an answer by ensembles of one size, about 11,000, whatever their numbers take."""


@dataclass(frozen=True)
class _Answered:
    """A request that was answered: what its records are made of. It holds neither networks nor their outputs."""

    time: datetime
    request_id: str
    key: str | None
    model: ModelIdentity
    task: Task
    calibration: Calibration | None
    rule: StoppingRule | None
    findings: Sequence[Findings]
    surprises: Sequence[Tensor | None]
    """How surprising the inputs' distances from the training examples are, for each of the findings, if known."""
    spec: InputSpec
    inputs: Tensor | None
    """Raw inputs [B, …], if they are logged."""

    @property
    def nbytes(self) -> int:
        """Bytes that would otherwise be free. What a batch's requests share counts for each of them."""
        tensors = [tensor for own in self.findings for tensor in own.list_tensors()]
        tensors += [tensor for tensor in (*self.surprises, self.inputs) if tensor is not None]
        return OBJECT_BYTES * len(self.findings) + sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def make_records(self) -> list[Record]:
        """The record of each input, in order."""
        whole = {name for name, quantity in self.task.quantities.items() if quantity.axes == ("inputs",)}
        answers = answer_inputs(self.task, self.calibration, self.findings, self.rule)
        given = [None] * len(answers) if self.inputs is None else describe_inputs(self.spec, self.inputs)
        records: dict[int, Record] = {}
        for own, surprise in zip(self.findings, self.surprises, strict=True):
            measured = {name: own.tensors[name].tolist() for name in own.tensors if name in whole}
            measured |= {} if surprise is None else {DISTANCE_SURPRISE: surprise.tolist()}
            for place, index in enumerate(own.positions.tolist()):
                records[index] = Record(
                    time=self.time,
                    request_id=self.request_id,
                    index=index,
                    key=self.key,
                    model=self.model.name,
                    version=self.model.version,
                    method=self.model.method,
                    seed=own.ensemble.seed,
                    ensemble_size=own.ensemble.size,
                    precision=own.ensemble.precision,
                    temperature=own.ensemble.temperature,
                    uncertainty={name: values[place] for name, values in measured.items()},
                    prediction=answers[index].model_dump(exclude={"uncertainty"}, exclude_none=True),
                    input=given[index],
                )
        return [records[index] for index in range(len(records))]


def log_answer(asking: Asking, inputs: Tensor, answer: Answer, findings: Sequence[Findings]) -> None:
    """Passes the answer to a request on to the log of predictions, if there is one. Returns at once.

    Args:
        asking: the request.
        inputs: its raw inputs, [B, …].
        answer: the engine's answer.
        findings: what the calibration makes of it, as the client is told.
    """
    parts, model = asking.parts, asking.model
    if parts.log is None:
        return
    calibration, exchange = model.find_calibration(answer.rule), find_exchange(asking.request)
    answered = _Answered(
        time=datetime.now(UTC),
        request_id=exchange.request_id,
        key=exchange.key or None,
        model=identify(model),
        task=model.task,
        calibration=model.calibration,
        rule=answer.rule,
        surprises=[
            calibration.measure_distance_surprise(part.prediction) if calibration else None for part in answer.parts
        ],
        findings=findings,
        spec=model.input,
        inputs=inputs if parts.settings.log_inputs else None,
    )
    parts.log.add(answered.make_records, len(inputs), answered.nbytes)


def describe_inputs(spec: InputSpec, inputs: Tensor) -> list[Mapping[str, Any]]:
    """Raw inputs [B, …] as JSON: PNG files in base64, or values by the columns' names."""
    if spec.form == "files":
        return [{"image": base64.b64encode(encode_image(pixels)).decode()} for pixels in inputs]
    return [{"row": row} for row in spec.write_rows(inputs)]
