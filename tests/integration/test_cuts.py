"""The scorer's word that an answer is moved: who hears it, and what becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.office.cuts import PER_S, Cuts
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode
from sollol_schemas import subjects
from sollol_schemas.continuation import Cut, CutReason
from sollol_schemas.control import ControlCut, ControlReply
from sollol_schemas.errors import ErrorBody, ErrorCode


class Office:
    """Names what the test wants to be moved."""

    def __init__(self) -> None:
        self.term = 7
        self.named: list[Cut] = []
        self.refused_: list[str] = []
        self.looked: list[float] = []
        self.is_running = True
        self.fleet = Fleet(ScorerConfig())

    @property
    def undo(self) -> Office:
        return self

    def may_cut(self, _now: float) -> bool:
        return self.is_running

    def cuts(self, now: float) -> list[Cut]:
        self.looked.append(now)
        named, self.named = self.named, []
        return named

    def refused(self, attempt_id: str, now: float) -> None:
        self.refused_.append(attempt_id)


class Stage:
    """Cuts on a bus, with what a node would hear."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.office = Office()
        self.told: list[Cut] = []
        self.asked: list[ControlCut] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.cuts = Cuts(bus, self.office, self._spawn, time.monotonic)
        bus.subscribe(subjects.CUT_EVENT.all, lambda msg: self.told.append(decode(msg.data, Cut)))

    def _spawn(self, coroutine: Any, *, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.tasks.add(task)
        return task

    def node(self, node_id: str, answer: Callable[[Msg], None]) -> None:
        """Somebody listens to what is asked of a node."""

        def on_message(msg: Msg) -> None:
            self.asked.append(decode(msg.data, ControlCut))
            answer(msg)

        self.bus.subscribe(subjects.NODE_CONTROL.of(node_id), on_message)

    def name(self, *attempts: str, node_id: str = "n1") -> None:
        """The core names attempts, and something changes."""
        self.office.named = [cut(attempt, node_id) for attempt in attempts]
        self.cuts.look_soon()


def cut(attempt_id: str, node_id: str) -> Cut:
    return Cut(
        request_id=attempt_id.rpartition("-")[0],
        attempt_id=attempt_id,
        node_id=node_id,
        reason=CutReason.REBALANCE,
        to="n2",
        left_s=41.0,
        moved_s=12.0,
        gain_s=29.0,
        text="41 s left here, 12 s there, saves 29 s",
    )


@pytest.fixture
async def stage(bus: Bus) -> AsyncIterator[Stage]:
    made = Stage(bus)
    await bus.flush()
    yield made
    await asyncio.gather(*made.tasks)


async def test_a_node_is_told_to_stop_it_and_everybody_hears_why(stage: Stage) -> None:
    stage.node("n1", lambda msg: stage.bus.respond(msg, ControlReply(node_id="n1", instance="i1")))
    stage.name("r1-1")
    await eventually(lambda: bool(stage.told))
    (asked,) = stage.asked
    assert (asked.attempt_id, asked.term, asked.cause) == ("r1-1", 7, "rebalance")
    assert asked.reason == stage.told[0].text == "41 s left here, 12 s there, saves 29 s"
    assert stage.told[0].at
    assert stage.cuts.figures() == {"priority_cuts": 0, "rebalance_cuts": 1, "refused_cuts": 0}
    assert stage.office.refused_ == []


async def test_what_a_node_refuses_is_not_told_as_moved(stage: Stage) -> None:
    refusal = ErrorBody(code=ErrorCode.CONFLICT, message="r1-1 is over")
    stage.node("n1", lambda msg: stage.bus.respond_error(msg.reply, refusal))
    stage.name("r1-1")
    await eventually(lambda: bool(stage.office.refused_))
    await stage.bus.flush()
    assert stage.told == []
    assert stage.cuts.figures()["refused_cuts"] == 1


async def test_a_frozen_node_and_one_that_is_gone_move_nothing(stage: Stage) -> None:
    stage.node("frozen", lambda _: None)
    stage.name("r1-1", node_id="gone")
    await eventually(lambda: stage.office.refused_ == ["r1-1"])
    stage.name("r2-1", node_id="frozen")
    await eventually(lambda: stage.office.refused_ == ["r1-1", "r2-1"])
    assert stage.told == []


async def test_a_scorer_out_of_office_looks_at_nothing(stage: Stage) -> None:
    stage.name("r1-1")
    stage.office.term = 0  # it loses its office before it looks
    stage.cuts.look_soon()
    await asyncio.sleep(0.1)
    assert stage.office.looked == []
    stage.office.term = 8
    stage.cuts.look_soon()
    await eventually(lambda: bool(stage.office.looked))


async def test_nothing_is_looked_at_while_nothing_runs(stage: Stage) -> None:
    stage.office.is_running = False
    stage.cuts.look_soon()
    stage.office.is_running = True
    await asyncio.sleep(0.1)
    assert stage.office.looked == []
    stage.cuts.look_soon()
    await eventually(lambda: bool(stage.office.looked))


async def test_events_that_come_together_are_one_look_and_many_cuts_make_a_pause(stage: Stage) -> None:
    stage.node("n1", lambda msg: stage.bus.respond(msg, ControlReply(node_id="n1", instance="i1")))
    for _ in range(9):
        stage.name("r1-1", "r2-1", "r3-1", "r4-1")
    await eventually(lambda: len(stage.told) == 4)
    assert len(stage.office.looked) == 1
    stage.cuts.look_soon()
    await eventually(lambda: len(stage.office.looked) == 2)
    first, second = stage.office.looked
    assert second - first > 3.9 / PER_S, "a loop's timers may be a millisecond early"
