"""A model's signature: its named input and output tensors in the Open Inference Protocol.

Shapes: B inputs, S sampled networks, K classes or numbers.
"""

import struct
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.inputs.kind import Datatype
from models.inputs.spec import InputSpec
from models.model import Model
from models.predictions.prediction import Part, order_parts
from service.api.asking import Asking, check_number, explain_inputs
from service.api.findings import Findings
from service.api.uploads import decode_base64
from service.errors import ServiceError
from service.open_inference.messages import (
    InferenceParameters,
    InferenceRequest,
    InputParameters,
    InputTensor,
    RequestedOutput,
    TensorMetadata,
)
from service.open_inference.tensors import Array, decode_binary, decode_json
from service.settings import Settings

SELDOM = ("ensemble_size", "members")
"""Outputs that a request must ask for; but `ensemble_size` is also given if ensembles grow."""

COVERING = ("prediction_set", "interval_lower", "interval_upper")
"""Outputs that need a coverage."""


def describe_inputs(spec: InputSpec) -> list[TensorMetadata]:
    """The inputs, of which a request gives one. An FP32 input may also be sent as FP64."""
    return [
        TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=[-1, *tensor.shape])
        for tensor in spec.signature
    ]


def describe_outputs(model: Model) -> list[TensorMetadata]:
    """The outputs that a request may ask for; those of `COVERING` need a coverage."""
    task, calibration = model.task, model.calibration
    each, wide = [-1], [-1, len(task.outputs)]
    outputs: list[tuple[str, Datatype, list[int]]] = []
    if task.has_classes:
        outputs += [("probabilities", "FP32", wide), ("label", "BYTES", each)]
    for name, quantity in task.quantities.items():
        outputs.append((name, "FP32", wide if "outputs" in quantity.axes else each))
    if task.has_classes and calibration:
        outputs.append(("prediction_set", "BOOL", wide))
    if calibration and calibration.sizes[0].numbers:
        outputs += [("interval_lower", "FP32", wide), ("interval_upper", "FP32", wide)]
    for flag in calibration.flags if calibration else ():
        outputs += [(flag, "BOOL", each), (f"{flag}_score", "FP32", each)]
    outputs += [("ensemble_size", "INT64", each), ("members", "FP32", [-1, -1, len(task.outputs)])]
    return [TensorMetadata(name=name, datatype=datatype, shape=shape) for name, datatype, shape in outputs]


def read_raw(body: bytes, spec: InputSpec) -> tuple[InferenceRequest, memoryview]:
    """Reads a body without JSON: one input, in the signature's last form. All outputs are binary."""
    name, datatype, shape = spec.signature[-1]
    if datatype == "BYTES":
        body = struct.pack("<I", len(body)) + body
    size = InputParameters(binary_data_size=len(body))
    tensor = InputTensor(name=name, shape=[1, *shape], datatype=datatype, parameters=size)
    return InferenceRequest(inputs=[tensor], parameters=InferenceParameters(binary_data_output=True)), memoryview(body)


def read_input(tensors: Sequence[InputTensor], content: memoryview, spec: InputSpec, settings: Settings) -> Array:
    """Reads the tensor of a request: finite numbers [B, …], with FP64 for FP32, files [B], or text [B, columns].

    Args:
        tensors: the request's inputs.
        content: the bytes after its JSON.
        spec: the model's input.
        settings: settings with the limit on B.

    Raises:
        ServiceError: 400 for tensors outside the model's signature, 413 for too many inputs.
    """
    known = {metadata.name: metadata for metadata in describe_inputs(spec)}
    names = [tensor.name for tensor in tensors]
    if len(names) != 1 or names[0] not in known:
        raise _refuse(f"The inputs are {_list(names)}", f"Give exactly one input: {' or '.join(known)}.")
    (tensor,), expected = tensors, known[names[0]]
    datatypes: dict[str, Datatype] = {expected.datatype: expected.datatype}
    if expected.datatype == "FP32":
        datatypes["FP64"] = "FP64"
    if tensor.datatype not in datatypes:
        hint = f"It must be {' or '.join(datatypes)}."
        raise _refuse(f"{tensor.name} has datatype {tensor.datatype[:20]!r}", hint)
    if len(tensor.shape) != len(expected.shape) or tensor.shape[1:] != expected.shape[1:] or tensor.shape[0] == 0:
        hint = f"It must be {expected.shape}, where −1 means 1 to {settings.max_inputs}."
        raise _refuse(f"{tensor.name} has shape {_list(tensor.shape)}", hint)
    check_number(tensor.shape[0], spec.noun, settings.max_inputs)
    size, datatype = tensor.parameters.binary_data_size, datatypes[tensor.datatype]
    if (size is None) == (tensor.data is None):
        message = f"{tensor.name} has {'neither data nor' if size is None else 'both data and'} a binary_data_size"
        raise _refuse(message, "Give either data in the JSON, or the size of the binary data after it.")
    if (size or 0) != len(content):
        message = f"The sum of binary_data_size is {size or 0}, but {len(content)} bytes follow the JSON"
        raise _refuse(message, "Inference-Header-Content-Length must be the length of the JSON alone.")
    if tensor.data is None:
        array = decode_binary(content, datatype, tensor.shape)
    else:
        array = decode_json(tensor.data, datatype, tensor.shape)
        if datatype == "BYTES" and spec.form == "files":  # JSON has strings, but files are bytes
            array[:] = list(decode_base64(array.tolist()).values())
    if datatype not in ("FP32", "FP64"):
        return array
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise _refuse(f"{tensor.name} has a number that is not finite", "Send no NaN and no infinity.")
    return array


async def convert_input(asking: Asking, array: Array) -> Tensor:
    """Converts a tensor to raw inputs [B, …].

    Raises:
        ServiceError, OverloadedError: as in `decode_files`, and 422 for inputs that the model does not accept.
    """
    spec = asking.model.input
    if array.dtype != object:
        with explain_inputs():
            return spec.decode(torch.tensor(array))
    if spec.form == "files":
        return await asking.decode_files({f"image {index}": content for index, content in enumerate(array)})
    try:
        rows = [[cell.decode() for cell in row] for row in array.tolist()]
    except UnicodeDecodeError as error:
        raise _refuse("A value is not valid UTF-8", "Send the text of each value in UTF-8.") from error
    with explain_inputs():
        return spec.read_rows(rows)


def choose_outputs(
    requested: Sequence[RequestedOutput], model: Model, coverage: float | None, *, grows: bool
) -> list[RequestedOutput]:
    """The outputs that a request asks for, or the default ones, which depend on whether ensembles grow.

    Raises:
        ServiceError: 400 for outputs that are unknown or requested twice, or for classification of other outputs than
            probabilities.
    """
    names = [output.name for output in describe_outputs(model)]
    if coverage is None:
        names = [name for name in names if name not in COVERING]
    if not requested:
        left_out = SELDOM[1:] if grows else SELDOM
        return [RequestedOutput(name=name) for name in names if name not in left_out]
    asked = [output.name for output in requested]
    if unknown := [name for name in asked if name not in names]:
        needs = " without the parameter coverage" if unknown[0] in COVERING else ""
        raise _refuse(f"There is no output {unknown[0][:100]!r}{needs}", f"The outputs are {', '.join(names)}.")
    if len(set(asked)) < len(asked):
        raise _refuse(f"An output is requested twice: {_list(asked)}", "Request each output once.")
    if wrong := [o.name for o in requested if o.parameters.classification and o.name != "probabilities"]:
        raise _refuse(f"{wrong[0]} has the parameter classification", "Only probabilities may have it.")
    return list(requested)


def collect_output(output: RequestedOutput, model: Model, parts: Sequence[Part], findings: Sequence[Findings]) -> Array:
    """The array for an output that `choose_outputs` returned, from the findings of each part of an answer."""
    arrays = [_collect_part(output, model, part, own) for part, own in zip(parts, findings, strict=True)]
    if len(arrays) == 1:
        return arrays[0]
    joined: Array = np.concatenate(arrays)[order_parts(parts).numpy()]
    return joined


def _collect_part(output: RequestedOutput, model: Model, part: Part, findings: Findings) -> Array:
    name, classes = output.name, model.task.outputs
    if name == "members":
        return part.prediction.members.transpose(0, 1).float().numpy()
    if name == "ensemble_size":
        return np.full(len(part.positions), findings.ensemble.size)
    if name == "prediction_set":
        assert findings.sets is not None
        return findings.sets.members.numpy()
    if name in COVERING:
        assert findings.intervals is not None
        ends = {"interval_lower": findings.intervals.lower, "interval_upper": findings.intervals.upper}
        return ends[name].float().numpy()
    for flag, judgement in findings.judgements.items():
        if name == flag:
            return judgement.flagged.numpy()
        if name == f"{flag}_score":
            return judgement.scores.float().numpy()
    if name == "label":
        labels = findings.tensors["probabilities"].argmax(-1).tolist()
        return np.array([classes[label].encode() for label in labels], dtype=object)
    if output.parameters.classification:
        return _rank(findings.tensors["probabilities"], output.parameters.classification, classes)
    return findings.tensors[name].float().numpy()


def _rank(probabilities: Tensor, count: int, classes: Sequence[str]) -> Array:
    """The best classes of each input, BYTES [B, count], in the form of Triton's "Classification Extension"."""
    best = probabilities.topk(min(count, len(classes)))
    rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return np.array(
        [[f"{p:f}:{k}:{classes[k]}".encode() for p, k in zip(*row, strict=True)] for row in rows], dtype=object
    )


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:5]))[:100]


def _refuse(message: str, hint: str) -> ServiceError:
    return ServiceError(400, "invalid_request", f"{message}.", hint)
