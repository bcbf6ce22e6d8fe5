"""The route that certifies images, its parameters and its answer."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from models.model import Model
from models.predictions.smoothing import SELECTING, Certificate, Smoothing
from service.api.answers import identify
from service.api.dependencies import AskingDependency, describe_errors
from service.api.schemas import EnsembleIdentity, ModelIdentity, ModelParameters, Seed
from service.api.uploads import describe_upload, read_inputs
from service.engine.ensembles import choose_seed
from service.errors import ServiceError
from service.operation.access import require

MOST_SAMPLES, MOST_AVERAGED, MOST_CERTIFIED = 100_000, 100, 16
"""Most samples, networks for each, and images of a request."""


class CertifyParameters(ModelParameters):
    """Query parameters of a certificate."""

    sigma: float = Field(
        0.25,
        ge=0.001,
        le=10,
        description="Standard deviation of the noise, in units of the pixels' range. Choose the one that the model was "
        "trained with. A larger one certifies larger radii, but the noise hides more of the image.",
    )
    samples: int = Field(
        1_000,
        ge=100,
        le=MOST_SAMPLES,
        description="Most noisy copies of each image. More certify larger radii: at most 2.4 σ with 1,000, and 3.1 σ "
        "with 10,000.",
    )
    ensemble_size: int = Field(
        1,
        ge=1,
        le=MOST_AVERAGED,
        description="Number of networks whose mean probabilities answer for each noisy copy. Every copy has networks "
        "of its own.",
    )
    alpha: float = Field(0.001, gt=0, le=0.1, description="Probability that a certificate is wrong.")
    radius: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="A radius that is enough: sampling stops as soon as it is certified, or is clearly out of reach.",
    )
    seed: Seed = None


class CertificateAnswer(BaseModel):
    """What is proved about one image."""

    label: str | None = Field(
        description="The most probable class; null if the samples do not prove that there is one."
    )
    class_index: int | None
    radius: float = Field(
        description="No change of the image whose L2 norm is smaller makes another class the most probable; in units "
        "of the pixels' range."
    )
    least_probability: float = Field(description="Lower bound on the probability of the class.")
    votes: int = Field(description="Noisy copies in which it was found.")
    samples: int = Field(description=f"Noisy copies that were asked, besides {SELECTING} that selected the class.")


class CertifyAnswer(BaseModel):
    """Certificates of a request's images."""

    model: ModelIdentity
    ensemble: EnsembleIdentity = Field(description="The networks of each noisy copy.")
    networks: int | None = Field(
        description="Number of the model's networks, if a new seed gives no new ones. Certificates hold for fresh "
        "networks of the model, or for these."
    )
    sigma: float
    alpha: float
    certificates: list[CertificateAnswer] = Field(
        description="One for each image. Each holds with the confidence 1 − alpha, but they share noise and networks."
    )


router = APIRouter(
    prefix="/v1/models/{model}",
    tags=["exploration"],
    responses=describe_errors(401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    dependencies=[Depends(require("predict"))],
)


@router.post("/certify", openapi_extra=describe_upload())
async def certify(asking: AskingDependency, parameters: Annotated[CertifyParameters, Query()]) -> CertifyAnswer:
    """Prove that no small change of an image changes the most probable answer, by randomised smoothing.

    What is certified answers with the class that fresh networks most probably find in the image with fresh Gaussian
    noise. That is not the answer of `predict`, whose networks see no noise. The certificate is about the image after
    it was resized to the model's input.
    """
    model = asking.model
    if not model.certifiable:
        message = f"{model.name} does not classify images that its networks see themselves."
        raise ServiceError(422, "not_certifiable", message, "Only such models, without a backbone, can be certified.")
    size = asking.choose_size(parameters.ensemble_size)
    seed = choose_seed() if parameters.seed is None else parameters.seed
    smoothing = Smoothing(parameters.sigma, parameters.samples, size, parameters.alpha, parameters.radius)
    cost = size * (SELECTING + parameters.samples)
    pixels = await read_inputs(asking, cost, most_inputs=MOST_CERTIFIED)
    found = await asking.compute(model.certify(pixels, seed, smoothing), cost * len(pixels))
    return CertifyAnswer(
        model=identify(model),
        ensemble=EnsembleIdentity(size=size, seed=seed, precision=model.precision),
        networks=model.num_networks,
        sigma=parameters.sigma,
        alpha=parameters.alpha,
        certificates=[_describe(model, certificate) for certificate in found],
    )


def _describe(model: Model, certificate: Certificate) -> CertificateAnswer:
    label = certificate.label
    return CertificateAnswer(
        label=None if label is None else model.task.outputs[label],
        class_index=label,
        radius=certificate.radius,
        least_probability=certificate.least_probability,
        votes=certificate.votes,
        samples=certificate.samples,
    )
