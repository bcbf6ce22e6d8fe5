"""The service's settings: flags of `hyperdraw-serve`, or environment variables that begin with HYPERDRAW_."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.engine import QUEUE_COST
from service.ensembles import Policy


class Settings(BaseSettings):
    """Serve samplers of neural networks over HTTP.

    Each flag can be given as an environment variable instead: --port as HYPERDRAW_PORT, and so on. For example:

      hyperdraw-serve --checkpoints checkpoints --port 8080
      HYPERDRAW_PORT=8080 hyperdraw-serve

    Then open http://127.0.0.1:8080 for a page to try it, and /docs for the API.
    """

    model_config = SettingsConfigDict(
        env_prefix="HYPERDRAW_",
        env_ignore_empty=True,  # as compose files pass what is not set
        cli_prog_name="hyperdraw-serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        frozen=True,
    )

    checkpoints: Path = Field(
        default=Path("checkpoints"), description="A checkpoint, or a directory with one in each subdirectory."
    )
    default_model: str | None = Field(
        default=None, description="The model listed first; without it, the first one in alphabetical order."
    )
    device: str = Field(default="auto", description="cpu, cuda, cuda:N, or auto: cuda where there is one, else cpu.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 for any free one.")] = 8000
    max_body_bytes: Annotated[int, Field(gt=0, description="Largest request body.")] = 32 * 2**20
    max_decompressed_bytes: Annotated[
        int, Field(gt=0, description="Largest request body under /v2 when its gzip or deflate is undone.")
    ] = 64 * 2**20
    body_timeout: Annotated[float, Field(gt=0, description="Seconds within which a request body must arrive.")] = 30.0
    max_inputs: Annotated[int, Field(gt=0, description="Most images, or vectors, in a request.")] = 256
    max_image_pixels: Annotated[int, Field(gt=0, description="Most pixels of an image, by its header.")] = 16_000_000
    freshness: Annotated[
        Policy,
        Field(
            description="Whether networks are drawn for each request without a seed, for those that run together in a "
            "batch, or for all of an interval; the answer names its seed in any case."
        ),
    ] = "batch"
    freshness_seconds: Annotated[float, Field(gt=0, description="Length of an interval.")] = 60.0
    freshness_predictions: Annotated[
        int, Field(gt=0, description="Images, or vectors, after which an interval ends early.")
    ] = 10_000
    request_timeout: Annotated[
        float, Field(gt=0, description="Seconds that a prediction may take, if the request does not say.")
    ] = 60.0
    max_queue: Annotated[
        int,
        Field(gt=0, description="Most images × networks that may wait; what comes on top is told when to come again."),
    ] = QUEUE_COST
    max_ensemble_size: Annotated[int, Field(gt=0, description="Most networks in an ensemble or a download.")] = 1000
