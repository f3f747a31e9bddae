"""A node's process that did not run for a while notices it, and wakes for that only while something runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.control.suspension import Suspension


class Stage:
    """A node's two clocks, whose time the test makes."""

    def __init__(self) -> None:
        self.now = 100.0
        self.reads = 0
        self.is_busy = False
        self.noticed: list[float] = []
        self.suspension = Suspension(lambda: self.is_busy, self.noticed.append, self._clock)

    def _clock(self) -> float:
        self.reads += 1
        return self.now

    def begin(self) -> None:
        self.is_busy = True
        self.suspension.note_work()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    ticking = asyncio.get_running_loop().create_task(made.suspension.run())
    await asyncio.sleep(0)
    yield made
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking


async def test_a_pause_while_an_attempt_runs_is_noticed_at_the_next_tick(stage: Stage) -> None:
    stage.begin()
    stage.now += 1.3  # before the first turn of the loop: what was granted then is worth nothing either
    await eventually(lambda: bool(stage.noticed))
    assert stage.noticed == [pytest.approx(1.3)]


async def test_ticks_that_come_a_little_late_are_no_pause(stage: Stage) -> None:
    stage.begin()
    for ticks in range(2, 4):
        stage.now += 1.2
        before = stage.reads
        await eventually(lambda before=before: stage.reads > before, complaint=f"tick {ticks}")
    assert stage.noticed == []


async def test_nothing_ticks_while_nothing_runs_and_ticks_again_with_the_next_attempt(stage: Stage) -> None:
    stage.suspension.note_work()
    stage.now += 5.0
    await asyncio.sleep(0.6)
    assert stage.reads == 0
    stage.begin()
    await eventually(lambda: stage.reads > 1)
    stage.is_busy = False
    await asyncio.sleep(0.6)
    before = stage.reads
    await asyncio.sleep(0.6)
    assert stage.reads == before, "it ticks on after the last attempt"
    stage.begin()
    stage.now += 2.0
    await eventually(lambda: bool(stage.noticed))


async def test_a_pause_in_which_nothing_ran_is_noticed_by_the_wait_for_the_next_heartbeat(stage: Stage) -> None:
    beat = asyncio.Event()
    waiting = asyncio.get_running_loop().create_task(stage.suspension.happens(beat, 60.0))
    await asyncio.sleep(0)
    stage.now += 61.5
    beat.set()
    assert await waiting
    assert stage.noticed == [pytest.approx(61.5)]


async def test_one_pause_is_told_once_though_both_clocks_met_it(stage: Stage) -> None:
    beat = asyncio.Event()
    waiting = asyncio.get_running_loop().create_task(stage.suspension.happens(beat, 1.0))
    stage.begin()
    await asyncio.sleep(0)
    stage.now += 9.0
    await eventually(lambda: bool(stage.noticed))
    beat.set()
    assert await waiting
    assert stage.noticed == [pytest.approx(9.0)]
