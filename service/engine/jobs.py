"""Jobs: work for the device in steps, between which other jobs have their turn."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Generic, TypeVar

from models.model import Model

Result = TypeVar("Result")


class Job(ABC):
    """Work in steps. The scheduler knows work only through this interface."""

    model: Model | None = None
    """Model for which steps of equal cost take about equally long; None if the cost of steps is unknown."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether there is nothing left to do, or nobody wants the result."""

    @abstractmethod
    def step(self, budget: int) -> int:
        """Does the next step.

        Args:
            budget: most inputs × networks for the step, but at least one input and one network are done.

        Returns:
            the inputs × networks that were done; 0 if unknown.
        """

    def relieve(self) -> bool:
        """Makes the next step smaller after the last one ran out of memory. Returns whether that is possible."""
        return False

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Ends the job with an error that a step raised."""


class Computation(Job, Generic[Result]):
    """A computation whose generator yields between its steps."""

    def __init__(self, steps: Generator[None, None, Result]) -> None:
        self.future: Future[Result] = Future()
        self._steps = steps

    @property
    def finished(self) -> bool:
        return self.future.done()

    def step(self, budget: int) -> int:
        try:
            next(self._steps)
        except StopIteration as end:
            settle(self.future, end.value)
        return 0

    def fail(self, error: Exception) -> None:
        settle(self.future, error)


def do_at_once(function: Callable[[], Result]) -> Computation[Result]:
    """Wraps a function as a computation of one step."""

    def steps() -> Generator[None, None, Result]:
        return function()
        yield

    return Computation(steps())


def settle(future: Future[Result], outcome: Result | Exception) -> None:
    """Gives a future its outcome, unless it is done or cancelled, even at this very moment."""
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
