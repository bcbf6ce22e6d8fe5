"""Calls of the service, as generators of what a client is to carry out. This module does no input or output itself."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, Union

from hyperdraw.transfer import Transfer

T = TypeVar("T")

Attempts = Generator[Union[Transfer, "Together"], None, T]
"""A call: it yields the attempts to carry out, one after the other, and returns their result.

Instead of an attempt it may yield other calls, to be carried out at the same time.
"""


@dataclass(frozen=True)
class Together:
    """Calls to carry out at the same time. If one fails, no other begins, and its failure is raised."""

    calls: Iterator[Attempts[None]]
    """The calls. Each is taken when its turn comes, in no two threads at once."""
    most: int
    """Most calls at the same time."""


class Outcome(Generic[T]):
    """A call to iterate over: attempt by attempt, and then the result."""

    result: T
    """What the call returned, after its last attempt."""

    def __init__(self, attempts: Attempts[T]) -> None:
        self._attempts = attempts

    def __iter__(self) -> Iterator[Transfer | Together]:
        return self

    def __next__(self) -> Transfer | Together:
        try:
            return next(self._attempts)
        except StopIteration as end:
            self.result = end.value
            raise

    def close(self) -> None:
        """Ends the call early, so that it cleans up."""
        self._attempts.close()
