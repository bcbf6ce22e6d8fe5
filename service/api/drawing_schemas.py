"""Bodies of requests to models that draw, and answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, RootModel, WithJsonSchema, model_validator

from service.api.sequence_schemas import Changes, SequenceIdentity, SequenceParameters

MOST_DRAWINGS = 12

Point = tuple[float, float, Literal[0, 1]]

Points = Annotated[
    list[Any],  # read by `read_drawing`, which knows the model's limits
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "type": "array",
                "prefixItems": [{"type": "number"}, {"type": "number"}, {"enum": [0, 1]}],
                "minItems": 3,
                "maxItems": 3,
            },
        }
    ),
]


class PointsBody(RootModel[Points]):
    """A drawing that is sent by itself."""


class DrawBody(SequenceParameters):
    """The body of a request to draw."""

    prompt: Points = Field(
        [],
        description="The drawing to go on with: points [dx, dy, lifted], by their offsets from the point before, and "
        "whether the pen is lifted after them. By default none: a new drawing begins.",
    )
    max_points: int | None = Field(
        None,
        ge=1,
        description="Most points of a drawing, those of the prompt among them; by default, and at most, the model's.",
    )
    temperature: float = Field(
        1.0,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="Multiplies the variances of points, and flattens the probabilities of where they are and of what "
        "the pen does; at 0, the mean of the heaviest component is drawn.",
    )
    drawings: int = Field(
        1, ge=1, le=MOST_DRAWINGS, description="Number of drawings, all of which go on with the same prompt."
    )
    format: Literal["points", "svg"] = Field(
        "points",
        description="`svg` answers one drawing as image/svg+xml, and several as a JSON list of such texts. They show "
        "the prompt as well.",
    )
    style: Literal["smooth", "lines"] | None = Field(
        None,
        description="Of an SVG: a smooth curve for each stroke, as by default, or a polyline in mm for plotters.",
    )
    stream: bool = Field(False, description="Whether to send each point as a server-sent event, as it is drawn.")

    @model_validator(mode="after")
    def _check_format(self) -> "DrawBody":
        if self.format == "svg" and (self.stream or self.changes):
            raise ValueError("an SVG is not streamed, and has no changes")
        if self.format == "points" and self.style is not None:
            raise ValueError('style is for format "svg"')
        return self


class ScoreDrawingBody(SequenceParameters):
    """The body of a request to score a drawing."""

    drawing: Points = Field(
        description="Points [dx, dy, lifted], by their offsets from the point before, and whether the pen is lifted "
        "after them. The drawing ends with the last."
    )


class PointAnswer(BaseModel):
    """A point, and what the networks said of it before they knew it."""

    point: Point = Field(description="dx, dy, and whether the pen is lifted after the point.")
    nats: float = Field(
        description="Its surprisal: −ln of its density under the mean of the networks, in units of the model's scale, "
        "and of the probability of what the pen does. It may be negative."
    )
    offset: float = Field(description="The part of the surprisal for where the point is.")
    pen: float = Field(description="The part for what the pen does, given where the point is.")
    disagreement: float = Field(
        description="How much the mean of the networks' own surprisals exceeds that of their mean, in nats."
    )
    changes: Changes = None


class DrawingAnswer(BaseModel):
    """A drawing, without the prompt."""

    finish_reason: Literal["end", "length"] = Field(
        description="Whether the networks ended the drawing, or it has as many points as it may have."
    )
    points: list[PointAnswer]


class DrawAnswer(SequenceIdentity):
    """Drawings that were drawn."""

    prompt_points: int = Field(description="Number of the prompt's points.")
    drawings: list[DrawingAnswer]


class ScoreDrawingAnswer(SequenceIdentity):
    """A drawing that was scored."""

    points: list[PointAnswer]
    nats: float = Field(description="Surprisal of the whole drawing.")
    nats_per_point: float
    disagreement: float = Field(description="Mean disagreement on a point, in nats.")
