"""Questions outlast the restart of a server and of whoever answers; what may have been done is not asked twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import NoResponders, NotConnected, RequestTimedOut
from sollol_bus.sdk import lasting
from sollol_bus.sdk.lasting import may_be_repeated, reply_to
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorBody, ErrorCode


@pytest.fixture
async def actor(nats_server: EmbeddedServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(BusConfig(url=nats_server.url, name="actor"))
    yield bus
    await bus.close()


def kill(server: EmbeddedServer) -> None:
    """Ends its process; another starts in its place."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)


def answering(bus: Bus, subject: str) -> Callable[[], int]:
    """Answers every question; tells how many came."""
    came: list[Msg] = []

    def take(msg: Msg) -> None:
        came.append(msg)
        bus.answer(msg, b"here")

    bus.subscribe(subject, take)
    return lambda: len(came)


async def asked(bus: Bus, subject: str, timeout_s: float = 2.0) -> bytes:
    return (await reply_to(bus, subject, b"", timeout_s=timeout_s)).data


async def test_a_question_finds_who_takes_an_office_over_a_moment_later(bus: Bus, actor: Bus) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(asked(bus, subjects.NODES))
        await bus.flush()  # nobody listens yet
        answering(actor, subjects.NODES)
        assert await asking == b"here"


async def test_where_nobody_is_it_says_so_after_a_moment(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "HANDOVER_S", 0.15)
    with pytest.raises(NoResponders):
        await asked(bus, subjects.NODES)


async def test_who_says_that_it_leaves_is_not_the_last_to_be_asked(bus: Bus, actor: Bus) -> None:
    leaving = ErrorBody(code=ErrorCode.ACTOR_STOPPED, message="the recorder left office")
    said: list[str] = []

    def take(msg: Msg) -> None:
        said.append(msg.reply)
        if len(said) > 1:
            actor.answer(msg, b"here")
        else:
            actor.respond_error(msg.reply, leaving)

    actor.subscribe(subjects.STATS, take)
    await actor.flush()
    assert await asked(bus, subjects.STATS) == b"here"
    assert len(said) == 2


async def test_a_question_waits_for_its_own_connection(nats_server: EmbeddedServer, bus: Bus, actor: Bus) -> None:
    answering(actor, subjects.NODES)
    await actor.flush()
    kill(nats_server)
    await eventually(lambda: not bus.is_connected)
    assert await asked(bus, subjects.NODES, 3.0) == b"here"


async def test_what_may_have_been_done_is_not_asked_twice(nats_server: EmbeddedServer, bus: Bus, actor: Bus) -> None:
    subject = subjects.ADMIN_NODE.of("drain")
    assert not may_be_repeated(subject)
    actor.subscribe(subject, lambda _: kill(nats_server))
    await actor.flush()
    with pytest.raises(NotConnected):
        await asked(bus, subject)


async def test_what_changes_nothing_is_asked_again(nats_server: EmbeddedServer, bus: Bus, actor: Bus) -> None:
    came: list[Msg] = []

    def take(msg: Msg) -> None:
        came.append(msg)
        if len(came) == 1:
            kill(nats_server)
        else:
            actor.answer(msg, b"here")

    actor.subscribe(subjects.WHY.of("r"), take)
    await actor.flush()
    assert await asked(bus, subjects.WHY.of("r"), 5.0) == b"here"
    assert len(came) == 2


async def test_an_answer_lost_with_another_server_is_not_waited_for_to_the_end(
    bus: Bus, actor: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting, "_LOST_S", 0.01)
    came: list[Msg] = []

    def take(msg: Msg) -> None:
        came.append(msg)
        if len(came) == 1:
            bus._on_cluster_changed()  # what the client library calls
        else:
            actor.answer(msg, b"here")

    actor.subscribe(subjects.NODES, take)
    await actor.flush()
    assert await asked(bus, subjects.NODES, 2.5) == b"here"


async def test_one_that_was_lost_with_the_connection_of_who_answers_is_asked_again_before_its_time_is_over(
    bus: Bus, actor: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting, "_SLOW_S", 0.2)
    came: list[Msg] = []

    def take(msg: Msg) -> None:
        came.append(msg)
        if len(came) > 1:
            actor.answer(msg, b"here")

    actor.subscribe(subjects.JOB_ENQUEUE, take)
    await actor.flush()
    assert await asked(bus, subjects.JOB_ENQUEUE, 1.0) == b"here"
    assert len(came) == 2


async def test_a_question_ends_with_its_time(bus: Bus, actor: Bus) -> None:
    actor.subscribe(subjects.NODES, lambda _: None)
    await actor.flush()
    with pytest.raises(RequestTimedOut):
        await asked(bus, subjects.NODES, 0.05)
