"""What answers say about the stream of a model's inputs."""

from pydantic import BaseModel, Field

from service.api.schemas import ModelIdentity


class ShareAnswer(BaseModel):
    """A share of inputs that were flagged, at the model's default budget."""

    flagged: int
    share: float = Field(description="0 without inputs.")
    lower: float = Field(description="Lower end of the share's 95 % interval (Wilson's score).")
    upper: float


class AlarmAnswer(BaseModel):
    """When a martingale reached the level of the alarm for the first time."""

    time: float = Field(description="Seconds since 1970.")
    inputs: int = Field(description="Number of inputs until then, from the start of the watch.")


class FlagMonitorAnswer(ShareAnswer):
    """What the scores of a flag say about drift."""

    log10_martingale: float = Field(
        description="Decimal logarithm of the martingale, which is at most 1 on average while nothing changes."
    )
    alarm: AlarmAnswer | None = Field(description="The alarm, which stays until the watch begins anew.")
    bets: int = Field(description="Number of inputs that were bet on.")
    false_alarm_rate: float = Field(description="Share of inputs like those of the calibration that may be flagged.")
    counts: list[int] = Field(
        description="Inputs whose scores are above the thresholds of all rates, between each two, and above none."
    )


class FlagBucketAnswer(ShareAnswer):
    """A flag in a part of the stream."""

    highest_log10: float = Field(description="Decimal logarithm of the martingale's highest value.")
    counts: list[int]


class BucketAnswer(BaseModel):
    """Successive inputs of the stream."""

    inputs: int
    end: float = Field(description="Time of the last one, in seconds since 1970.")
    flags: dict[str, FlagBucketAnswer]


class ClassMonitorAnswer(BaseModel):
    """How often a class was predicted."""

    label: str
    inputs: int = Field(description="Inputs for which it was the most probable class.")
    test_share: float | None = Field(description="Its share of the labels of the test inputs, if that is known.")


class MonitorAnswer(BaseModel):
    """What is known of a model's inputs since the watch began. Warm-ups, attacks and walks do not count."""

    model: ModelIdentity
    since: float = Field(description="Start of the watch, in seconds since 1970.")
    inputs: int
    level: float = Field(
        description="δ: while nothing changes, a flag's martingale ever reaches 1/δ, which raises the alarm, with at "
        "most this probability."
    )
    rates: list[float] = Field(description="Calibrated rates of false alarms, which divide the counts of scores.")
    flags: dict[str, FlagMonitorAnswer] = Field(description="Flags by name. Empty if the model has no calibration.")
    classes: list[ClassMonitorAnswer] | None = Field(description="None if the model predicts numbers.")
    history: list[BucketAnswer] = Field(description="The whole stream in few parts, the first part first.")
