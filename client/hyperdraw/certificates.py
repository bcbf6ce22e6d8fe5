"""The call for certificates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyperdraw.answers import ModelIdentity, explain_answers, read_fields
from hyperdraw.asking import ask, ask_model, choose_seed, find_path, set_limit
from hyperdraw.attempts import Attempts
from hyperdraw.inputs import Inputs, encode_body, encode_input, list_inputs
from hyperdraw.transfer import Connection, RequestSpec

TOGETHER = 16
"""Most pictures that the service certifies in a request."""


@dataclass(frozen=True)
class Certificate:
    """What is proved about one picture."""

    label: str | None
    """The most probable class; None if the samples do not prove any to be it."""
    class_index: int | None
    radius: float
    """No change whose L2 norm is smaller makes another class the most probable; in units of the pixels' range."""
    least_probability: float
    """Lower bound on the probability of the class."""
    votes: int
    """Noisy copies in which it was found."""
    samples: int
    """Noisy copies that were asked, besides those that selected the class."""


@dataclass(frozen=True)
class Certification:
    """Certificates of pictures, each of which is wrong with a probability of at most `alpha`."""

    model: ModelIdentity
    seed: int
    """The same seed and version give the same certificates."""
    ensemble_size: int
    """Networks whose mean answers for each noisy copy."""
    precision: str
    networks: int | None
    """Number of the model's networks, for which the certificates hold; None if they hold for fresh networks."""
    sigma: float
    alpha: float
    certificates: Sequence[Certificate]


def certify(
    client: Connection,
    inputs: Inputs,
    *,
    model: str | None = None,
    version: str | None = None,
    sigma: float | None = None,
    samples: int | None = None,
    ensemble_size: int | None = None,
    alpha: float | None = None,
    radius: float | None = None,
    seed: int | None = None,
    timeout: float | None = None,
) -> Attempts[Certification]:
    """Proves that no small change of a picture changes the most probable class, by randomised smoothing.

    What is certified answers with the class that fresh networks most probably find in the picture with fresh Gaussian
    noise. That is not the answer of `predict`, whose networks see no noise.

    Args:
        client: the client that asks.
        inputs: one picture or several, as for `predict`. Each 16 of them are a request.
        model: name of the model; by default the service's default model.
        version: version of the model, as for `predict`.
        sigma: standard deviation of the noise, in units of the pixels' range; by default 0.25. Choose that of the
            model's training.
        samples: most noisy copies of each picture; by default 1,000. More certify larger radii.
        ensemble_size: networks whose mean answers for each noisy copy; by default 1.
        alpha: probability that a certificate is wrong; by default 0.001.
        radius: a radius that is enough: sampling stops once it is certified, or is clearly out of reach.
        seed: seed of noise and networks; by default a fresh one, and the answer names it.
        timeout: seconds that each request may take, retries included.

    Raises:
        ValueError: if inputs are not pictures.
        OSError: if a file cannot be read.
        InvalidRequest: if the model cannot be certified, or a parameter is out of range.
        HyperdrawError: for any other failure; `hyperdraw.errors` lists them.
    """
    items = [encode_input(index, value, None) for index, value in enumerate(list_inputs(inputs))]
    if any(item.name is None for item in items):
        raise ValueError("only pictures can be certified")
    asked = {
        "version": version,
        "sigma": sigma,
        "samples": samples,
        "ensemble_size": ensemble_size,
        "alpha": alpha,
        "radius": radius,
        "seed": choose_seed(seed),
    }
    name, found = model, list[dict[str, Any]]()
    for start in range(0, len(items), TOGETHER):
        content, content_type = encode_body(items[start : start + TOGETHER])

        def send(name: str, content: bytes = content, content_type: str = content_type) -> Attempts[bytes]:
            request = RequestSpec("POST", f"{find_path(name)}/certify", asked, content, content_type)
            return ask(client, request, set_limit(client, timeout))

        name, answer = yield from ask_model(client, name, set_limit(client, timeout), send)
        with explain_answers():
            found.append(json.loads(answer))
    with explain_answers():
        return _read_certification(found)


def _read_certification(answers: list[dict[str, Any]]) -> Certification:
    first = answers[0]
    if any(answer["model"] != first["model"] for answer in answers):
        raise ValueError("the service answered with two versions of the model")
    certificates = [read_fields(Certificate, each) for answer in answers for each in answer["certificates"]]
    return Certification(
        read_fields(ModelIdentity, first["model"]),
        first["ensemble"]["seed"],
        first["ensemble"]["size"],
        first["ensemble"]["precision"],
        first["networks"],
        first["sigma"],
        first["alpha"],
        certificates,
    )
