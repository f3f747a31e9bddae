"""Waiting with a deadline, trying again, and sending with a bound."""

from __future__ import annotations

import asyncio
import contextlib
import random
from itertools import islice

import pytest

from sollol_bus.errors import BusError, ConnectionLost, NotConnected
from sollol_bus.waiting import Window, both, delays, end, happens


async def test_an_event_that_comes_in_time_happens_and_one_that_does_not_does_not() -> None:
    event = asyncio.Event()
    assert not await happens(event, 0.0)
    asyncio.get_running_loop().call_soon(event.set)
    assert await happens(event, 5.0)
    assert await happens(event, 0.0), "it is set already"


def test_each_wait_is_twice_as_long_as_the_one_before_up_to_the_longest() -> None:
    assert list(islice(delays(0.5, 3.0), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_random_source_spreads_each_wait_by_a_quarter() -> None:
    waits = [next(delays(1.0, 30.0, rng=random.Random(seed))) for seed in range(200)]
    assert 0.75 <= min(waits) < 0.8
    assert 1.2 < max(waits) <= 1.25


async def test_a_full_window_is_waited_for_until_a_place_is_given_back() -> None:
    window = Window(2)
    await window.enter()
    await window.enter()
    third = asyncio.gather(window.enter())
    await asyncio.sleep(0)
    assert not third.done()
    window.leave()
    await asyncio.wait_for(third, 5)


async def test_something_large_takes_several_places_and_goes_alone_when_it_is_larger_than_the_window() -> None:
    window = Window(4)
    await window.enter(3)
    large = asyncio.gather(window.enter(9))
    await asyncio.sleep(0)
    assert not large.done()
    await window.enter()
    window.leave(places=3)
    await asyncio.sleep(0)
    assert not large.done(), "one is still on its way"
    window.leave()
    await asyncio.wait_for(large, 5)
    window.leave(places=9)
    await asyncio.wait_for(window.finish(), 5)


async def test_the_first_error_of_any_ends_the_sending() -> None:
    window = Window(3)
    for error in (None, BusError("first"), NotConnected("second")):
        await window.enter()
        asyncio.get_running_loop().call_soon(window.leave, error)
    with pytest.raises(BusError, match="first"):
        await window.finish()
    with pytest.raises(BusError, match="first"):
        await window.enter()


async def test_a_task_ends_at_whatever_moment_its_waits_run_out() -> None:
    async def wait_on() -> None:
        while True:
            await happens(asyncio.Event(), 0)

    tasks = []
    for _ in range(8):  # some are between a deadline and its end at any moment
        tasks.append(asyncio.get_running_loop().create_task(wait_on()))
        await asyncio.sleep(0)
    await end(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_a_task_that_lost_its_cancellation_is_cancelled_again() -> None:
    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(stubborn())
    await asyncio.sleep(0)
    await end((task,), in_peace_s=0.0)
    assert task.done()


async def test_a_task_that_ends_in_peace_is_not_torn_from_it() -> None:
    ended = []

    async def peaceful() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.12)  # longer than it takes to look at it again
            ended.append(True)

    task = asyncio.get_running_loop().create_task(peaceful())
    await asyncio.sleep(0)
    task.cancel()
    await end((task,))
    assert ended == [True]


async def test_both_run_at_the_same_time() -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def one() -> int:
        first.set()
        await second.wait()
        return 1

    async def other() -> str:
        second.set()
        await first.wait()
        return "a"

    async with asyncio.timeout(20.0):
        assert await both(one(), other()) == (1, "a")


async def test_an_error_of_one_ends_the_other_before_it_is_raised() -> None:
    ended: list[str] = []

    async def lasting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("lasting")

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ConnectionLost("gone")

    with pytest.raises(ConnectionLost, match="gone"):
        await both(lasting(), failing())
    assert ended == ["lasting"]
