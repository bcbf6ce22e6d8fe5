"""How much may wait, and whose."""

import random
from contextlib import suppress

import pytest

from service.admission import MOST_REFUSED, PATIENCE, Admission, OverloadedError, Reservation


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission(1000, clock=clock)


def test_the_largest_may_wait_if_nothing_else_does(admission: Admission) -> None:
    huge = admission.reserve("a", 5000)
    with pytest.raises(OverloadedError):
        admission.check("b", 1)
    huge.release()
    huge.release()
    assert admission.amount == 0
    admission.check("b", 5000)


def test_a_part_is_for_small_requests_of_others(admission: Admission) -> None:
    """Whatever one client does, another one's small request finds room."""
    for amount, all_together in ((500, 500), (100, 900), (10, 950), (1, 950)):
        with suppress(OverloadedError):
            while True:
                admission.reserve("a", amount)
        assert admission.amount == all_together
    with pytest.raises(OverloadedError):
        admission.check("b", 50)
    admission.reserve("b", 10)


def test_a_client_has_no_more_than_its_share_while_others_wait(admission: Admission, clock: Clock) -> None:
    alone = [admission.reserve("a", 100, pace=0.01) for _ in range(9)]
    with pytest.raises(OverloadedError):  # who was refused waits, too
        admission.reserve("b", 300)
    alone.pop().release()
    alone.pop().release()
    with pytest.raises(OverloadedError):
        admission.reserve("a", 100)
    alone.pop().release()
    admission.reserve("b", 300)
    for _ in range(2):
        alone.pop().release()
    with pytest.raises(OverloadedError):  # 400 and 100 are more than half of 900
        admission.reserve("a", 100)
    admission.reserve("a", 50)
    for _ in range(5):  # of its part for small requests, half
        admission.reserve("a", 10)
    with pytest.raises(OverloadedError):
        admission.reserve("a", 1)


def test_who_does_not_come_back_waits_no_more(admission: Admission, clock: Clock) -> None:
    held = [admission.reserve("a", 100, pace=0.01) for _ in range(9)]
    with pytest.raises(OverloadedError) as caught:
        admission.reserve("b", 100)
    held.pop().release()
    with pytest.raises(OverloadedError):
        admission.reserve("a", 100)
    clock.now = caught.value.seconds + PATIENCE + 0.1
    admission.reserve("a", 100)


def test_the_seconds_are_those_until_there_is_room_for_this_request(admission: Admission) -> None:
    first = admission.reserve("a", 400, pace=0.01)
    admission.reserve("b", 400, pace=0.03)  # 16 seconds of work together
    for amount, excess in ((110, 10), (300, 200), (900, 800)):
        with pytest.raises(OverloadedError) as caught:
            admission.check("c", amount)
        assert caught.value.seconds == pytest.approx(16 * excess / 800)
    first.shrink(300)  # 13 seconds are left of 500
    with pytest.raises(OverloadedError) as caught:
        admission.check("c", 500)
    assert caught.value.seconds == pytest.approx(13 * 100 / 500)
    assert "2.6 seconds" in str(caught.value)
    with pytest.raises(OverloadedError) as caught:  # a third of 900 is its share, and 400 are more
        admission.check("b", 50)
    assert caught.value.seconds == pytest.approx(13 * 150 / 400)


def test_what_is_done_makes_room(admission: Admission) -> None:
    growing = admission.reserve("a", 0)
    for _ in range(9):
        growing.grow(100)
    with pytest.raises(OverloadedError):
        growing.grow(100)
    assert growing.amount == admission.amount == 900
    growing.shrink(850)
    growing.grow(100)
    growing.shrink(10**9)
    assert growing.amount == admission.amount == 0


def test_nothing_is_lost_and_little_is_remembered(admission: Admission, clock: Clock) -> None:
    generator, held = random.Random(0), list[Reservation]()
    for _ in range(20_000):
        clock.now += 0.01
        with suppress(OverloadedError):
            held.append(admission.reserve(str(generator.randrange(5000)), generator.randrange(300), pace=0.01))
        if held and generator.random() < 0.5:
            held.pop(generator.randrange(len(held))).release()
        assert admission.amount == sum(each.amount for each in held) <= 1000
    assert len(admission._refused) <= MOST_REFUSED
    for each in held:
        each.release()
    assert (admission.amount, admission._held, admission._seconds) == (0, {}, 0)
