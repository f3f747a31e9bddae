"""A dispatcher that shuts down, on a real server: what waits goes on elsewhere, what runs ends as it would have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.lab.testing.scripted import BODY, ScriptedNode, ScriptedScorer, begin, control, serve
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import NoResponders
from sollol_bus.sdk.call import Call
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, error_of
from sollol_bus.transport.subscription import Subscription
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import RequestNews, Taken

pytestmark = pytest.mark.shutdown


class Caller:
    """A plain NATS caller: no more than an inbox."""

    def __init__(self, bus: Bus, headers: dict[str, str] | None = None) -> None:
        self.heard: list[Msg] = []
        inbox = bus.new_inbox()
        self.inbox: Subscription = bus.subscribe(inbox, self.heard.append)
        bus.publish(subjects.GENERATE, BODY, reply=inbox, headers=headers)

    @property
    def is_answered(self) -> bool:
        """Whether the end has come."""
        return bool(self.heard) and not self.heard[-1].data

    @property
    def chunks(self) -> list[bytes]:
        """What came before the end."""
        return [msg.data for msg in self.heard[:-1]]


@pytest.fixture
async def stage(nats_server: EmbeddedServer, actors_bus: Bus) -> AsyncIterator[Leaving]:
    async with AsyncExitStack() as floor:
        yield Leaving(nats_server, actors_bus, floor)


class Leaving:
    """A dispatcher that leaves, and one that starts when it is called."""

    def __init__(self, server: EmbeddedServer, bus: Bus, floor: AsyncExitStack) -> None:
        self.scorer = ScriptedScorer(bus, ["n1"])
        self.node = ScriptedNode(bus, "n1", serve)
        self._server = server
        self._bus = bus
        self._floor = floor

    async def dispatcher(self, drain_timeout_s: float = 30.0) -> Dispatcher:
        """One more, which runs."""
        await self._bus.flush()
        config = DispatcherConfig(drain_timeout_s=drain_timeout_s)
        made = Dispatcher(config, control(self._server))
        made.pace = Pace(grant_silence_s=0.3)
        return await self._floor.enter_async_context(made)

    async def asked(self, count: int) -> None:
        """Returns when the scorer was asked about so many attempts."""
        await eventually(lambda: len({(a.request_id, a.number) for a in self.scorer.asked}) == count)


async def test_what_waits_goes_to_another_dispatcher_with_its_age_and_its_next_attempt(
    stage: Leaving, bus: Bus
) -> None:
    stage.scorer.holds_back = True
    first = await stage.dispatcher()
    plain = Caller(bus, {h.WAITED: "7.5"})
    await stage.asked(1)
    second = await stage.dispatcher()
    await first.close()
    await stage.asked(2)
    before, after = stage.scorer.asked[0], stage.scorer.asked[-1]
    assert (after.request_id, after.number, after.dispatcher) == (before.request_id, 2, second.instance)
    assert after.waited_s > before.waited_s >= 7.5
    assert before.request_id in stage.scorer.released
    stage.scorer.let_go()
    await eventually(lambda: plain.is_answered)
    assert plain.chunks == [b'{"response":"a"}']


async def test_a_caller_of_the_sdk_hears_of_a_new_owner_and_sends_nothing_again(stage: Leaving, bus: Bus) -> None:
    stage.scorer.holds_back = True
    first = await stage.dispatcher()
    owners: list[str] = []

    def note(news: RequestNews) -> None:
        if isinstance(news, Taken):
            owners.append(news.instance)

    async with Call(bus, subjects.GENERATE, BODY, on_news=note) as call:
        await eventually(lambda: owners == [first.instance])
        second = await stage.dispatcher()
        await first.close()
        await eventually(lambda: owners == [first.instance, second.instance])
        stage.scorer.let_go()
        assert [msg.data async for msg in call] == [b'{"response":"a"}']
        assert call.resends == 0


async def test_what_comes_to_wait_while_a_dispatcher_drains_goes_too(stage: Leaving, bus: Bus) -> None:
    stage.node.script = ScriptedNode.accept  # nothing more: the dispatcher cannot go before it fails
    first = await stage.dispatcher()
    plain = Caller(bus)
    await eventually(lambda: bool(stage.node.answers))
    second = await stage.dispatcher()
    async with asyncio.TaskGroup() as group:
        group.create_task(first.close())
        await eventually(lambda: not first._intake)
        stage.node.script = serve
        stage.scorer.holds_back = True  # else the first is served when it asks before it hands on what waits
        stage.node.fail(stage.node.execs[0].attempt_id, ErrorCode.DRAINING)
        await eventually(lambda: stage.scorer.asked[-1].dispatcher == second.instance)
        stage.scorer.let_go()
        await eventually(lambda: plain.is_answered)


async def test_nothing_is_lost_of_what_comes_while_the_intake_ends(stage: Leaving, bus: Bus) -> None:
    first = await stage.dispatcher()
    await stage.dispatcher()
    callers: list[Caller] = []
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(first.close())
        while not leaving.done():
            callers += [Caller(bus) for _ in range(5)]
            await bus.flush()
    await eventually(lambda: all(caller.is_answered for caller in callers))
    assert {tuple(caller.chunks) for caller in callers} == {(b'{"response":"a"}',)}


async def test_two_that_leave_at_once_hand_everything_to_the_third(stage: Leaving, bus: Bus) -> None:
    stage.scorer.holds_back = True
    leaving = [await stage.dispatcher() for _ in range(2)]
    callers = [Caller(bus) for _ in range(20)]
    await stage.asked(20)
    third = await stage.dispatcher()
    await asyncio.gather(*(dispatcher.close() for dispatcher in leaving))
    stage.scorer.holds_back = False
    await eventually(lambda: all(caller.is_answered for caller in callers))
    assert {tuple(caller.chunks) for caller in callers} == {(b'{"response":"a"}',)}
    assert third.statistics().taken == 20


async def test_without_another_dispatcher_a_plain_caller_is_told_at_once(stage: Leaving, bus: Bus) -> None:
    first = await stage.dispatcher()
    stage.node.script = begin
    stream = Caller(bus)
    await eventually(lambda: len(stream.heard) == 1)
    stage.scorer.holds_back = True
    plain = Caller(bus)
    await stage.asked(2)
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(first.close())
        await eventually(lambda: plain.is_answered)
        error = error_of(plain.heard[0])
        assert error is not None
        assert error.code is ErrorCode.ACTOR_STOPPED
        assert error.details["gone_within_s"] == 30.0
        assert not leaving.done(), "a stream runs on"
        stage.node.finish(stage.node.execs[0].attempt_id)


async def test_without_another_dispatcher_the_sdk_waits_for_the_next_one(stage: Leaving, bus: Bus) -> None:
    stage.scorer.holds_back = True
    first = await stage.dispatcher()
    async with Call(bus, subjects.GENERATE, BODY, absence_s=0.0) as call, asyncio.TaskGroup() as group:
        await stage.asked(1)
        answer = group.create_task(_chunks(call))
        await first.close()
        stage.scorer.holds_back = False
        await stage.dispatcher()
        assert await answer == [b'{"response":"a"}']
    assert stage.scorer.asked[-1].waited_s > stage.scorer.asked[0].waited_s


async def test_the_sdk_waits_for_no_dispatcher_for_ever(
    stage: Leaving, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sollol_bus.sdk.sending._RESTART_S", 0.1)
    stage.scorer.holds_back = True
    first = await stage.dispatcher(drain_timeout_s=0.2)
    async with Call(bus, subjects.GENERATE, BODY, absence_s=0.0) as call:
        await stage.asked(1)
        await first.close()
        with pytest.raises(NoResponders, match="sollol dispatcher"):
            await _chunks(call)


async def test_a_stream_that_outlives_the_drain_is_left_to_its_node(stage: Leaving, bus: Bus) -> None:
    stage.node.script = begin
    first = await stage.dispatcher(drain_timeout_s=0.05)
    plain = Caller(bus)
    await eventually(lambda: len(plain.heard) == 1)
    await first.close()
    assert stage.node.cancelled == []
    stage.node.finish(stage.node.execs[0].attempt_id)
    await eventually(lambda: plain.is_answered)
    assert plain.chunks == [b'{"response":"a"}'], "no error, and nobody cancelled it"


async def test_what_no_node_accepted_in_time_begins_anew_elsewhere(stage: Leaving, bus: Bus) -> None:
    stage.node.script = None  # as if its exec were still on the way
    first = await stage.dispatcher(drain_timeout_s=0.05)
    plain = Caller(bus)
    await eventually(lambda: len(stage.node.execs) == 1)
    second = await stage.dispatcher()
    stage.node.script = serve
    await first.close()
    await eventually(lambda: plain.is_answered)
    assert plain.chunks == [b'{"response":"a"}']
    assert stage.node.cancelled == [stage.node.execs[0].attempt_id], "before another one may speak"
    assert stage.scorer.asked[-1].dispatcher == second.instance


async def test_an_attempt_that_may_speak_any_moment_is_left_to_its_node(stage: Leaving, bus: Bus) -> None:
    stage.node.script = ScriptedNode.accept
    first = await stage.dispatcher(drain_timeout_s=0.05)
    plain = Caller(bus)
    await eventually(lambda: stage.node.answers == [True])
    await stage.dispatcher()
    await first.close()
    attempt = stage.node.execs[0].attempt_id
    stage.node.first(attempt)
    stage.node.finish(attempt)
    await eventually(lambda: plain.is_answered)
    assert plain.chunks == [b'{"response":"a"}'], "once, by whoever had the lease"
    assert len(stage.scorer.asked) == 1


async def test_the_try_of_a_job_goes_on_elsewhere_like_any_request(stage: Leaving, bus: Bus) -> None:
    stage.scorer.holds_back = True
    first = await stage.dispatcher()
    async with Call(bus, subjects.GENERATE, BODY, headers={h.JOB: "mine"}) as call:
        await stage.asked(1)
        second = await stage.dispatcher()
        await first.close()
        await stage.asked(2)
        assert stage.scorer.asked[-1].context.job_id == "mine"
        assert stage.scorer.asked[-1].dispatcher == second.instance
        stage.scorer.let_go()
        assert await _chunks(call) == [b'{"response":"a"}']


async def _chunks(call: Call) -> list[bytes]:
    return [msg.data async for msg in call]
