"""A model's signature: the named tensors that it takes and gives by the Open Inference Protocol.

Shapes: B inputs, S sampled networks, K classes or numbers.
"""

import struct
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from fastapi import Request
from torch import Tensor

from models.checkpoint import Checkpoint
from models.inputs.spec import ImageSpec, InputSpec
from models.tasks.task import Classification
from models.tasks.uncertainty import Uncertainty
from service.api.answers import Findings
from service.api.asking import Deadline, check_number, convert_vectors, decode_images
from service.api.uploads import decode_base64
from service.engine.batches import Answer
from service.errors import ServiceError
from service.open_inference.messages import (
    InferenceParameters,
    InferenceRequest,
    InputParameters,
    InputTensor,
    RequestedOutput,
    TensorMetadata,
)
from service.open_inference.tensors import Array, Datatype, decode_binary, decode_json
from service.settings import Settings

IMAGES = "images"
ENCODED_IMAGES = "encoded_images"
VECTORS = "inputs"

_REGRESSION = ("mean", "standard_deviation", "variance", "noise_variance", "epistemic_variance")


def describe_inputs(spec: InputSpec) -> list[TensorMetadata]:
    """The inputs that a request gives one of; what is FP32 may be FP64, too."""
    if isinstance(spec, ImageSpec):
        pixels = TensorMetadata(name=IMAGES, datatype="UINT8", shape=[-1, *spec.shape])
        return [pixels, TensorMetadata(name=ENCODED_IMAGES, datatype="BYTES", shape=[-1])]
    return [TensorMetadata(name=VECTORS, datatype="FP32", shape=[-1, *spec.shape])]


def describe_outputs(checkpoint: Checkpoint) -> list[TensorMetadata]:
    """The outputs that a request may ask for; `prediction_set` only together with a coverage."""
    task, calibration = checkpoint.config.task, checkpoint.calibration
    each, wide = [-1], [-1, task.num_outputs]
    outputs: list[tuple[str, Datatype, list[int]]]
    if isinstance(task, Classification):
        measures = [field.name for field in fields(Uncertainty) if field.name != "probabilities"]
        outputs = [("probabilities", "FP32", wide), ("label", "BYTES", each)]
        outputs += [(name, "FP32", each) for name in measures]
        if calibration:
            outputs.append(("prediction_set", "BOOL", wide))
    else:
        outputs = [(name, "FP32", wide) for name in _REGRESSION]
    for flag in calibration.flags if calibration else ():
        outputs += [(flag, "BOOL", each), (f"{flag}_score", "FP32", each)]
    outputs.append(("members", "FP32", [-1, -1, task.num_outputs]))
    return [TensorMetadata(name=name, datatype=datatype, shape=shape) for name, datatype, shape in outputs]


def read_raw(body: bytes, spec: InputSpec) -> tuple[InferenceRequest, memoryview]:
    """The request that a body without JSON is: one input, all outputs in binary.

    To a model of images it is an encoded file, to one of vectors FP32.
    """
    name, datatype, shape = VECTORS, "FP32", [1, *spec.shape]
    if isinstance(spec, ImageSpec):
        name, datatype, shape = ENCODED_IMAGES, "BYTES", [1]
        body = struct.pack("<I", len(body)) + body
    size = InputParameters(binary_data_size=len(body))
    tensor = InputTensor(name=name, shape=shape, datatype=datatype, parameters=size)
    return InferenceRequest(inputs=[tensor], parameters=InferenceParameters(binary_data_output=True)), memoryview(body)


def read_input(tensors: Sequence[InputTensor], content: memoryview, spec: InputSpec, settings: Settings) -> Array:
    """The tensor of a request, by the model's signature: UINT8 [B, C, H, W], BYTES [B] of encoded images, or FP64
    [B, numbers].

    Args:
        tensors: the request's inputs.
        content: the bytes behind its JSON.
        spec: the model's input.
        settings: that limit B.

    Raises:
        ServiceError: 400 for other tensors, 413 for too many inputs.
    """
    known = {metadata.name: metadata for metadata in describe_inputs(spec)}
    names = [tensor.name for tensor in tensors]
    if len(names) != 1 or names[0] not in known:
        raise _refuse(f"The inputs are {_list(names)}", f"Give exactly one input, {' or '.join(known)}.")
    (tensor,), expected = tensors, known[names[0]]
    datatypes: dict[str, Datatype] = {expected.datatype: expected.datatype}
    if expected.datatype == "FP32":
        datatypes["FP64"] = "FP64"
    if tensor.datatype not in datatypes:
        raise _refuse(f"{tensor.name} is of datatype {tensor.datatype[:20]!r}", f"It takes {' or '.join(datatypes)}.")
    if len(tensor.shape) != len(expected.shape) or tensor.shape[1:] != expected.shape[1:] or tensor.shape[0] == 0:
        hint = f"It takes {expected.shape}, where −1 is any number from 1 to {settings.max_inputs}."
        raise _refuse(f"{tensor.name} has shape {_list(tensor.shape)}", hint)
    check_number(tensor.shape[0], "images" if isinstance(spec, ImageSpec) else "vectors", settings)
    size, datatype = tensor.parameters.binary_data_size, datatypes[tensor.datatype]
    if (size is None) == (tensor.data is None):
        message = f"{tensor.name} has {'neither data nor' if size is None else 'both data and'} a binary_data_size"
        raise _refuse(message, "Give data in the JSON, or the size of what follows it.")
    if (size or 0) != len(content):
        message = f"The sum of binary_data_size is {size or 0}, and {len(content)} bytes follow the JSON"
        raise _refuse(message, "Inference-Header-Content-Length is to count the bytes of the JSON alone.")
    if tensor.data is None:
        array = decode_binary(content, datatype, tensor.shape)
    else:
        array = decode_json(tensor.data, datatype, tensor.shape)
        if datatype == "BYTES":  # which are strings in JSON, and no file is a string
            array[:] = list(decode_base64(array.tolist()).values())
    if isinstance(spec, ImageSpec):
        return array
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise _refuse(f"{tensor.name} has a number that is not finite", "Leave NaN and infinity out.")
    return array


async def convert_input(request: Request, array: Array, spec: InputSpec, deadline: Deadline) -> Tensor:
    """The inputs [B, …] as the model takes them.

    Raises:
        ServiceError, OverloadedError: as `decode_images` and `convert_vectors` do.
    """
    if array.dtype == object:
        assert isinstance(spec, ImageSpec)
        files = {f"image {index}": content for index, content in enumerate(array)}
        return await decode_images(request, files, spec, deadline)
    tensor = torch.tensor(array)
    return tensor if isinstance(spec, ImageSpec) else convert_vectors(tensor, spec)


def choose_outputs(
    requested: Sequence[RequestedOutput], checkpoint: Checkpoint, coverage: float | None
) -> list[RequestedOutput]:
    """The outputs that a request asks for, or those that are usual.

    Raises:
        ServiceError: 400 for outputs that are unknown, or asked for twice, or that no classes can be named of.
    """
    names = [output.name for output in describe_outputs(checkpoint)]
    if coverage is None and "prediction_set" in names:
        names.remove("prediction_set")
    if not requested:
        return [RequestedOutput(name=name) for name in names if name != "members"]
    asked = [output.name for output in requested]
    if unknown := [name for name in asked if name not in names]:
        needs = " without the parameter coverage" if unknown[0] == "prediction_set" else ""
        raise _refuse(f"There is no output {unknown[0][:100]!r}{needs}", f"The outputs are {', '.join(names)}.")
    if len(set(asked)) < len(asked):
        raise _refuse(f"Among the outputs {_list(asked)} is one twice", "Ask for each once.")
    if wrong := [o.name for o in requested if o.parameters.classification and o.name != "probabilities"]:
        raise _refuse(f"classification is asked of {wrong[0]}", "Ask it of probabilities.")
    return list(requested)


def collect_output(output: RequestedOutput, checkpoint: Checkpoint, answer: Answer, findings: Findings) -> Array:
    """An output of those that `choose_outputs` chose."""
    name, task = output.name, checkpoint.config.task
    if name == "members":
        return answer.prediction.members.transpose(0, 1).float().numpy()
    if name == "prediction_set":
        assert findings.sets is not None
        return findings.sets.members.numpy()
    for flag, judgement in findings.judgements.items():
        if name == flag:
            return judgement.flagged.numpy()
        if name == f"{flag}_score":
            return judgement.scores.float().numpy()
    if isinstance(task, Classification):
        probabilities = findings.tensors["probabilities"]
        if name == "label":
            labels = probabilities.argmax(-1).tolist()
            return np.array([task.classes[label].encode() for label in labels], dtype=object)
        if output.parameters.classification:
            return _rank(probabilities, output.parameters.classification, task.classes)
    return findings.tensors[name].float().numpy()


def _rank(probabilities: Tensor, count: int, classes: Sequence[str]) -> Array:
    """The best classes of each input, BYTES [B, count], by Triton's "Classification Extension"."""
    best = probabilities.topk(min(count, len(classes)))
    rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return np.array(
        [[f"{p:f}:{k}:{classes[k]}".encode() for p, k in zip(*row, strict=True)] for row in rows], dtype=object
    )


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:5]))[:100]


def _refuse(message: str, hint: str) -> ServiceError:
    return ServiceError(400, "invalid_request", f"{message}.", hint)
