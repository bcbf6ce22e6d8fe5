"""What a calibration was made of."""

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from models.noise import SEED_LIMIT
from models.schema import STRICT


@dataclass(frozen=True, config=STRICT)
class Seeds:
    """Successive seeds."""

    first: Annotated[int, Field(ge=0, lt=SEED_LIMIT)]
    count: Annotated[int, Field(ge=1)]

    def __len__(self) -> int:
        return self.count


def read_seeds(seeds: Any) -> Any:
    """Converts the list of all seeds in files of earlier versions."""
    return Seeds(seeds[0], len(seeds)) if isinstance(seeds, list) and seeds else seeds


@dataclass(frozen=True, config=STRICT)
class Feedback:
    """Answers of a service whose labels arrived later."""

    version: str
    """Version of the checkpoint that gave the answers."""
    first: str
    last: str
    """Days on which the first and the last of them were given, such as 2026-11-30, by UTC."""
    fitted: Annotated[int, Field(ge=0)]
    """Number of further such answers, which the temperature was fitted to."""
