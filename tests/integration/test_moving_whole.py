"""Answers move in a whole fleet, and whoever reads them sees a pause at most."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_bus.actor import ActorState
from sollol_bus.errors import ActorStopped
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.results import AnswerStream
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas.callers import word_of
from sollol_schemas.errors import ErrorCode
from sollol_schemas.routing import Routing
from sollol_schemas.subjects import Role


class Reader:
    """Reads one long countdown to its end."""

    def __init__(
        self, system: EmulatedSystem, number: int = 200, *, client: Client | None = None, **wishes: Any
    ) -> None:
        self.number = number
        self.text = ""
        asked = client or system.client
        self.stream: AnswerStream = asked.generate_stream(MODEL, f"count {number}", routing=Routing(**wishes))

    async def read(self) -> Reader:
        """Reads it; returns itself."""
        async with self.stream as answer:
            async for piece in answer:
                self.text += piece.text
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it is what an undisturbed engine says."""
        return self.text.split() == [str(n) for n in range(self.number - 1, -1, -1)]


def node_of(system: EmulatedSystem, node_id: str) -> NodeMonitor:
    """The agent of a node."""
    return next(one for one in system.stack.actors if isinstance(one, NodeMonitor) and one.node_id == node_id)


def codes(system: EmulatedSystem) -> list[ErrorCode | None]:
    """How attempts ended."""
    return [one.code for one in system.outcomes]


async def timed(system: EmulatedSystem) -> None:
    """The scorer learns how fast the first node is, and nothing of how long answers are."""
    await system.client.generate(MODEL, "count 200", max_tokens=12)
    await eventually(lambda: len(system.outcomes) == 1)


async def started(group: asyncio.TaskGroup, *readers: Reader) -> list[asyncio.Task[Reader]]:
    """The readers at work, once each of them has read something."""
    tasks = [group.create_task(one.read()) for one in readers]
    await eventually(lambda: all(one.text for one in readers))
    return tasks


async def broken(reader: Reader) -> ActorStopped:
    """With what a reader's answer ends."""
    with pytest.raises(ActorStopped) as caught:
        await reader.read()
    return caught.value


@pytest.mark.shutdown
async def test_a_node_that_leaves_hands_eight_long_answers_over(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=1, slots=8, decode_tps=150.0) as system:
        readers = [Reader(system) for _ in range(8)]
        async with asyncio.TaskGroup() as group:
            tasks = await started(group, *readers)
            await system.node("n2")
            leaving = node_of(system, "n1")
            await leaving.close()
            assert leaving.state is ActorState.STOPPED
            assert not any(task.done() for task in tasks), "it did not wait for an answer"
            assert codes(system) == [ErrorCode.MOVED] * 8
        assert [one.text for one in readers if not one.is_whole] == []
        figures = [one.stream.answer.figures for one in readers]
        assert [one.resumed for one in figures if one is not None] == [1] * 8


async def test_a_drained_node_hands_over_and_one_that_finishes_does_not(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=2, slots=2, decode_tps=300.0) as system:
        async with asyncio.TaskGroup() as group:
            readers = [Reader(system) for _ in range(2)]
            await started(group, *readers)
            await system.client.drain("n1", lets_finish=True)
            await system.client.drain("n2", lets_finish=True)
        await eventually(lambda: codes(system) == [None, None])
        await system.client.undrain("n1")
        await system.client.undrain("n2")
        async with asyncio.TaskGroup() as group:
            readers = [Reader(system) for _ in range(2)]
            await started(group, *readers)
            await system.client.drain("n1")
        assert [one.is_whole for one in readers] == [True, True]
        await eventually(lambda: codes(system)[2:].count(ErrorCode.MOVED) == 1)


async def test_a_rest_goes_on_at_a_node_that_drains_where_every_node_drains(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=2, slots=1, decode_tps=100.0) as system:
        async with asyncio.TaskGroup() as group:
            readers = [Reader(system), Reader(system)]
            await started(group, *readers)
            await system.client.drain("n1")
            await eventually(lambda: codes(system) == [ErrorCode.MOVED])
            await system.client.drain("n2", lets_finish=True)
            assert not any(one.is_whole for one in readers), "the rest waits for the slot of the other"
        assert [one.is_whole for one in readers] == [True, True]
        await eventually(lambda: codes(system) == [ErrorCode.MOVED, None, None])
        assert {one.decision.node_id for one in system.outcomes[1:]} == {"n2"}


@pytest.mark.shutdown
async def test_where_every_node_leaves_an_answer_ends_with_an_error_that_says_so(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=1, slots=1, decode_tps=100.0) as system:
        await system.node("n2", slots=1, drain_timeout_s=0.1)
        reader = Reader(system, deadline_s=4.0, node_id="n2")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(broken(reader))
            await eventually(lambda: bool(reader.text))
            await node_of(system, "n1").close()
            await node_of(system, "n2").close()
        why = str(task.result().details["not_resumed"])
        assert why.startswith(f"no node can serve '{MODEL}': ")
        assert why.count("it left in order") == 2


async def test_where_nobody_else_could_go_on_answers_finish(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=1, slots=2, decode_tps=300.0) as system:
        await system.node("n2", slots=2)
        await system.client.drain("n2")
        async with asyncio.TaskGroup() as group:
            readers = [Reader(system) for _ in range(2)]
            await started(group, *readers)
            await node_of(system, "n1").close()
        assert [one.is_whole for one in readers] == [True, True]
        await eventually(lambda: codes(system) == [None, None])


async def test_an_urgent_request_gets_its_slot_and_the_answer_that_gave_it_is_whole(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=1, slots=1, decode_tps=40.0) as system:
        await timed(system)
        async with asyncio.TaskGroup() as group:
            slow = Reader(system, 90, priority=1)
            await started(group, slow)
            urgent = Reader(system, 20, priority=9)
            await group.create_task(urgent.read())
            assert urgent.is_whole
            assert ErrorCode.MOVED in codes(system)
            assert not slow.is_whole
        assert slow.is_whole


async def test_a_job_gives_its_slot_to_an_urgent_request_and_is_answered_whole(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=1, slots=1, decode_tps=40.0) as system:
        await timed(system)
        job = await system.client.generate_async(MODEL, "count 90", priority=1)
        await eventually(lambda: system.engines["n1"].in_flight == 1)
        urgent = Reader(system, 20, priority=9)
        await urgent.read()
        assert urgent.is_whole
        answer = await system.client.wait_for_task(job, timeout_s=20.0)
        assert answer.text.split() == [str(n) for n in range(89, -1, -1)]
        told = await system.client.jobs.get(job)
        assert (told.resumed, told.tries) == (1, 1)
        await eventually(lambda: codes(system)[1:].count(None) == 2)
        ends = [outcome.code for outcome in system.outcomes if outcome.decision.job_id == job]
        assert ends == [ErrorCode.MOVED, None]


async def test_a_members_answer_gives_its_slot_to_an_urgent_request_and_goes_on(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=1, slots=1, decode_tps=40.0) as system:
        await timed(system)
        shown = Members(tmp_path, {"laptop": Role.CLIENT}).creds_file("laptop")
        bus = await Bus.connect(BusConfig(url=system.stack.nats_url, creds_file=shown))
        try:
            async with asyncio.TaskGroup() as group:
                members = Reader(system, 90, client=Client(bus), priority=1)
                await started(group, members)
                urgent = Reader(system, 20, priority=9)
                await group.create_task(urgent.read())
                assert urgent.is_whole
                assert not members.is_whole
        finally:
            await bus.close()
        assert members.is_whole
        own_id = members.stream.request_id
        await eventually(lambda: [one.code for one in system.outcomes_of(own_id)] == [ErrorCode.MOVED, None])
        own = [one.decision.caller for one in system.outcomes_of(own_id)]
        assert own == [word_of("laptop")] * 2, "its rest counts as its own"

        async def is_told() -> bool:
            told = (await system.client.why(urgent.stream.request_id)).gave_way
            return [one.request_id for one in told] == [own_id]

        await eventually(is_told)


async def test_answers_go_over_to_a_fast_node_that_joins(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=1, slots=2, decode_tps=20.0) as system:
        await timed(system)
        async with asyncio.TaskGroup() as group:
            readers = [Reader(system, 100) for _ in range(2)]
            await started(group, *readers)
            await system.node("n2", engine={"decode_tps": 500.0})
        assert [one.is_whole for one in readers] == [True, True]
        await eventually(lambda: len(codes(system)) == 5)
        assert [one.node_id for one in system.outcomes if one.code is None][1:] == ["n2", "n2"]
        assert codes(system).count(ErrorCode.MOVED) == 2
