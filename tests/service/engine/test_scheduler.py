"""Whose turn it is, with jobs that only say what they did and a clock that only they move."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from models.model import Model
from service.engine.jobs import Job
from service.engine.scheduler import BATCH_STEPS, INITIAL_BUDGET, STEP_SECONDS, Scheduler

LIMIT = BATCH_STEPS * INITIAL_BUDGET


class FakeModel:
    name = "fake"


MODEL = cast(Model, FakeModel())


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class FakeJob(Job):
    """Takes some steps, each with a line in a log, and a price."""

    name: str
    log: list[str]
    steps: int = 1
    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0
    cost: int | None = None
    """If not all of the budget."""
    errors: list[Exception] = field(default_factory=list)
    """What its next steps raise."""
    relieved: int = 0
    """How often it can be relieved."""
    model: Any = None
    budgets: list[int] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def finished(self) -> bool:
        return self.steps == 0

    def step(self, budget: int) -> int:
        self.log.append(self.name)
        self.budgets.append(budget)
        self.clock.now += self.seconds
        if self.errors:
            raise self.errors.pop(0)
        self.steps -= 1
        return budget if self.cost is None else self.cost

    def relieve(self) -> bool:
        self.relieved -= 1
        return self.relieved >= 0

    def fail(self, error: Exception) -> None:
        self.failure = error
        self.steps = 0


@dataclass(eq=False)
class FakeRequest:
    name: str
    cost: int = 1
    key: Hashable | None = None
    model: Model = MODEL
    finished: bool = False
    failure: Exception | None = None
    client: str = ""

    def fail(self, error: Exception) -> None:
        self.failure = error


class Bench:
    """A scheduler, and all that happened to it."""

    def __init__(self, steps: int = 1, seconds: float = 0.0) -> None:
        self.log: list[str] = []
        self.clock = Clock()
        self.steps, self.seconds = steps, seconds
        self.batches: list[FakeJob] = []
        self.freed = 0
        self.device_works = True
        self.idle = FakeJob("idle", self.log, steps=0, clock=self.clock)
        self.scheduler: Scheduler[FakeRequest] = Scheduler(
            self.begin, [self.idle], free_memory=self.free, check_device=lambda: self.device_works, clock=self.clock
        )

    def begin(self, requests: Sequence[FakeRequest]) -> FakeJob:
        name = "+".join(request.name for request in requests)
        batch = FakeJob(name, self.log, self.steps, self.clock, self.seconds, model=requests[0].model)
        self.batches.append(batch)
        return batch

    def free(self) -> None:
        self.freed += 1

    def add(self, name: str, steps: int = 1, **details: Any) -> FakeJob:
        job = FakeJob(name, self.log, steps, self.clock, **details)
        self.scheduler.add(job)
        return job

    def wait(self, *requests: FakeRequest) -> None:
        for request in requests:
            self.scheduler.wait(request)

    def run(self, most: int = 100) -> list[str]:
        """Steps until there is nothing left to do; what was done."""
        del self.log[:]
        for _ in range(most):
            if (step := self.scheduler.choose()) is None:
                break
            step()
        return self.log


def test_nothing_to_do_is_nothing_done() -> None:
    bench = Bench()
    assert bench.scheduler.choose() is None


def test_what_is_idle_work_waits_for_all_other_work() -> None:
    bench = Bench()
    bench.idle.steps = 2
    bench.add("job", steps=3)
    bench.wait(FakeRequest("a"))
    assert sorted(bench.run()[:4]) == ["a", "job", "job", "job"]
    assert bench.log[4:] == ["idle", "idle"]
    bench.idle.steps = 1  # it may begin again
    assert bench.run() == ["idle"]


def test_computations_take_turns() -> None:
    bench = Bench()
    bench.add("a", steps=2)
    bench.add("b", steps=2)
    assert bench.run() == ["a", "b", "a", "b"]


def test_a_finished_job_has_no_turn() -> None:
    bench = Bench()
    bench.add("a", steps=0)
    bench.add("b")
    assert bench.run() == ["b"]


def test_requests_of_one_key_form_a_batch_and_others_do_not() -> None:
    bench = Bench()
    bench.wait(FakeRequest("a", key=1), FakeRequest("b", key=2), FakeRequest("c", key=1), FakeRequest("d"))
    bench.wait(FakeRequest("e"), FakeRequest("f", key=2))
    assert bench.run() == ["a+c", "b+f", "d", "e"]


def test_a_batch_holds_no_more_than_its_limit() -> None:
    bench = Bench()
    bench.wait(*(FakeRequest(name, cost=LIMIT // 2, key=1) for name in "abc"))
    assert bench.run() == ["a+b", "c"]


def test_a_request_that_fits_is_taken_past_one_that_does_not() -> None:
    bench = Bench()
    costs = {"a": LIMIT - 1, "b": 2, "c": 1}
    bench.wait(*(FakeRequest(name, cost=cost, key=1) for name, cost in costs.items()))
    assert bench.run() == ["a+c", "b"]


def test_requests_that_nobody_wants_are_left_out() -> None:
    bench = Bench()
    gone, later = FakeRequest("gone", key=1, finished=True), FakeRequest("later", key=1)
    bench.wait(gone, FakeRequest("a", key=1), later, FakeRequest("b", key=1))
    later.finished = True
    assert bench.run() == ["a+b"]


def test_a_request_cancelled_between_choice_and_start_begins_no_batch() -> None:
    bench = Bench()
    request = FakeRequest("a", key=1)
    bench.wait(request)
    step = bench.scheduler.choose()
    assert step is not None
    request.finished = True
    step()
    assert bench.batches == []


def test_requests_wait_while_a_short_batch_runs() -> None:
    bench = Bench(steps=3)
    bench.wait(FakeRequest("a", key=1))
    step = bench.scheduler.choose()
    assert step is not None
    step()
    bench.wait(FakeRequest("b", key=2))
    assert bench.run() == ["a", "a", "b", "b", "b"]


def test_a_large_request_takes_turns_with_short_ones() -> None:
    bench = Bench(steps=3)
    bench.wait(FakeRequest("L", cost=LIMIT + 1, key=1))
    bench.wait(*(FakeRequest(name, key=name) for name in "ab"))
    assert bench.run() == ["L", "L", "a", "a", "L", "a", "b", "b", "b"]  # neither waits for the other to end


def test_a_request_at_the_limit_is_not_large() -> None:
    bench = Bench(steps=3)
    bench.wait(FakeRequest("a", cost=LIMIT, key=1), FakeRequest("b", key=2))
    assert bench.run() == ["a", "a", "a", "b", "b", "b"]


def test_the_limit_of_a_batch_follows_its_models_budget() -> None:
    bench, fast = Bench(), cast(Model, FakeModel())
    bench.add("teaches", steps=2, model=fast, seconds=STEP_SECONDS / 1000)
    bench.run()
    budget = bench.scheduler.find_budget(fast)
    assert budget > 2 * INITIAL_BUDGET
    costs = {"a": LIMIT, "b": BATCH_STEPS * budget - LIMIT, "c": 1}
    bench.wait(*(FakeRequest(name, cost=cost, key=1, model=fast) for name, cost in costs.items()))
    assert bench.run() == ["a+b", "c"]


def test_large_requests_get_every_other_step_however_many_they_are() -> None:
    bench = Bench(steps=2)
    bench.wait(*(FakeRequest(name, cost=LIMIT + 1) for name in "XYZ"))
    bench.run(most=3)
    bench.wait(*(FakeRequest(name, key=name) for name in "ab"))
    order = bench.run()
    assert [name.islower() for name in order[:6]].count(True) >= 3


def test_the_first_budget_is_the_initial_one() -> None:
    bench = Bench()
    bench.wait(FakeRequest("a"))
    bench.run()
    assert bench.batches[0].budgets == [INITIAL_BUDGET]


def test_fast_steps_raise_a_models_budget_and_slow_ones_lower_it() -> None:
    bench = Bench(steps=30, seconds=STEP_SECONDS / 1000)
    bench.wait(FakeRequest("a"))
    bench.run()
    budgets = bench.batches[0].budgets
    assert budgets[1] == 2 * budgets[0]  # as far as a single step may raise it
    assert budgets == sorted(budgets)
    slow = Bench(steps=30, seconds=100 * STEP_SECONDS)
    slow.wait(FakeRequest("a"))
    slow.run()
    budgets = slow.batches[0].budgets
    assert budgets[1] == INITIAL_BUDGET // 10
    assert budgets[-1] == 1


def test_the_budget_becomes_what_a_step_should_take() -> None:
    """At a rate of 10,000 a second, a tenth of a second is 1,000."""
    bench = Bench()
    model, clock = cast(Model, FakeModel()), bench.clock

    class Steady(FakeJob):
        def step(self, budget: int) -> int:
            clock.now += budget / 10_000
            return super().step(budget)

    job = Steady("a", bench.log, steps=40, model=model)
    bench.scheduler.add(job)
    bench.run()
    assert job.budgets[-1] == pytest.approx(1_000, rel=0.01)
    assert bench.scheduler.find_budget(model) == pytest.approx(1_000, rel=0.01)
    assert bench.scheduler.find_budget(MODEL) == INITIAL_BUDGET  # each model has its own


def test_a_short_step_of_little_cost_says_only_that_more_is_possible() -> None:
    bench = Bench()
    job = bench.add("a", steps=2, model=MODEL, cost=INITIAL_BUDGET // 2, seconds=STEP_SECONDS * 0.9)
    bench.run()
    assert job.budgets == [INITIAL_BUDGET] * 2
    fast = Bench()
    job = fast.add("a", steps=2, model=MODEL, cost=INITIAL_BUDGET // 2, seconds=STEP_SECONDS / 8)
    fast.run()
    assert job.budgets == [INITIAL_BUDGET, INITIAL_BUDGET * 2]  # √(1 · ½ · 8)
    slow = Bench()
    job = slow.add("a", steps=2, model=MODEL, cost=INITIAL_BUDGET // 2, seconds=STEP_SECONDS * 8)
    slow.run()
    assert job.budgets == [INITIAL_BUDGET, INITIAL_BUDGET // 4]  # √(1 · ½ · ⅛)


def test_a_budget_recovers_while_all_steps_are_cheap() -> None:
    """One that was slow by chance, on a busy machine, would else keep batches small for good."""
    bench = Bench()
    slow = bench.add("a", steps=1, model=MODEL, cost=10, seconds=2 * STEP_SECONDS)
    bench.run()
    assert bench.scheduler.find_budget(MODEL) < INITIAL_BUDGET / 10
    bench.add("b", steps=60, model=MODEL, cost=10, seconds=STEP_SECONDS / 300)
    bench.run()
    assert slow.finished
    assert bench.scheduler.find_budget(MODEL) == pytest.approx(3_000, rel=0.01)


def test_a_clock_that_stands_still_is_a_fast_step() -> None:
    bench = Bench(steps=2)
    bench.wait(FakeRequest("a"))
    bench.run()
    assert bench.batches[0].budgets == [INITIAL_BUDGET, 2 * INITIAL_BUDGET]


def test_a_job_without_a_model_teaches_no_budget() -> None:
    bench = Bench()
    bench.add("a", steps=3, seconds=1.0)
    bench.run()
    assert bench.scheduler.find_budget(None) == INITIAL_BUDGET


def test_memory_that_runs_out_is_freed_and_the_step_tried_smaller() -> None:
    bench = Bench()
    job = bench.add("a", model=MODEL, errors=[torch.OutOfMemoryError()] * 2, relieved=5)
    assert bench.run() == ["a", "a", "a"]
    assert bench.freed == 2
    assert job.budgets == [INITIAL_BUDGET, INITIAL_BUDGET // 2, INITIAL_BUDGET // 4]
    assert job.failure is None


def test_a_budget_is_never_less_than_one() -> None:
    bench = Bench()
    job = bench.add("a", model=MODEL, errors=[torch.OutOfMemoryError() for _ in range(20)], relieved=20)
    bench.run()
    assert job.budgets[-1] == 1
    assert all(isinstance(budget, int) for budget in job.budgets)


def test_a_job_that_cannot_be_relieved_fails() -> None:
    bench = Bench()
    error = torch.OutOfMemoryError()
    job = bench.add("a", model=MODEL, errors=[error])
    assert bench.run() == ["a"]
    assert bench.freed == 1
    assert job.failure is error
    assert bench.scheduler.find_budget(MODEL) == INITIAL_BUDGET


def test_another_error_frees_no_memory_and_ends_the_job_alone() -> None:
    bench = Bench()
    error = ValueError("no")
    job = bench.add("a", steps=5, errors=[error], relieved=5)
    bench.add("b", steps=2)
    assert bench.run() == ["a", "b", "b"]
    assert job.failure is error
    assert bench.freed == 0


def test_a_broken_device_answers_nobody_here() -> None:
    bench = Bench()
    bench.device_works = False
    job = bench.add("a", errors=[ValueError()])
    bench.run()
    assert job.failure is None


@pytest.mark.parametrize("works", [True, False])
def test_a_batch_that_cannot_begin_fails_its_requests(
    works: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench, error = Bench(), RuntimeError("no")
    bench.device_works = works

    def begin(requests: Sequence[FakeRequest]) -> FakeJob:
        raise error

    monkeypatch.setattr(bench.scheduler, "_begin", begin)
    requests = [FakeRequest("a", key=1), FakeRequest("b", key=1)]
    bench.wait(*requests)
    assert bench.run() == []
    assert [request.failure for request in requests] == [error if works else None] * 2
    assert "a batch of fake could not begin" in caplog.text


def test_idle_work_that_fails_is_told() -> None:
    bench, error = Bench(), ValueError()
    bench.idle.steps, bench.idle.errors = 2, [error]
    assert bench.run() == ["idle"]
    assert bench.idle.failure is error


def test_a_client_has_one_large_batch_at_a_time() -> None:
    bench = Bench(steps=3)
    large = LIMIT + 1
    bench.wait(*(FakeRequest(f"a{i}", large, client="a") for i in range(3)), FakeRequest("b", large, client="b"))
    log = bench.run()
    assert sorted(log[:6]) == ["a0"] * 3 + ["b"] * 3
    assert log[6:] == ["a1"] * 3 + ["a2"] * 3


def test_another_client_does_not_wait_for_all_that_one_has_queued() -> None:
    bench = Bench()
    bench.wait(*(FakeRequest(f"a{i}", LIMIT, client="a") for i in range(20)), FakeRequest("b", client="b"))
    assert bench.run()[:3] == ["a0", "b", "a1"]
