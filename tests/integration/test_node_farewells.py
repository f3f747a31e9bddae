"""A node whose line to the server freezes and breaks: how its attempts ended is heard all the same."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.node_stage import Stage, staged
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, error_of
from sollol_schemas import headers as h
from sollol_schemas.context import RequestKind
from sollol_schemas.control import AttemptState, ControlAttempt
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import AttemptDone, AttemptFailed


class Line:
    """A stage whose node's line to the server the test holds in its hand."""

    def __init__(self, stage: Stage, link: Link) -> None:
        self.stage = stage
        self.link = link

    async def lose(self) -> None:
        """Breaks the line once the node is done, and with it all that the node has said since it was frozen."""
        await eventually(lambda: not self.stage.node.in_flight())
        self.link.cut()
        await eventually(lambda: self.stage.node.bus.reconnects == 1)

    async def runs(self) -> None:
        """Returns when the attempt has its permission to speak."""
        await eventually(lambda: "AttemptAccepted" in self.stage.dispatcher.order)
        await self.stage.bus.flush()
        await self.stage.control(ControlAttempt(attempt_id="any"))  # the node has read what came before this


@pytest.fixture
async def line(nats_server: EmbeddedServer, bus: Bus) -> AsyncIterator[Line]:
    async with Link(nats_server.url) as link:
        settings: dict[str, Any] = {"time_scale": 1.0, "decode_tps": 60.0}
        async with staged(nats_server, bus, url=link.url, **settings) as made:
            yield Line(made, link)
            link.thaw()


def chunks(msg: Msg) -> int:
    return int((msg.headers or {})[h.CHUNKS])


@pytest.mark.parametrize("kind", [RequestKind.CHAT, RequestKind.PASSTHROUGH])
async def test_an_end_that_was_lost_is_said_again_with_the_count_that_shows_what_is_missing(
    line: Line, kind: RequestKind
) -> None:
    path: dict[str, Any] = {"path": "/v1/chat/completions", "body": {"stream": True}}
    line.stage.chat("count 20", kind=kind, **(path if kind is RequestKind.PASSTHROUGH else {}))
    heard = line.stage.dispatcher.heard
    await eventually(lambda: len(heard) > 2)
    line.link.freeze()
    await line.lose()
    await eventually(lambda: not heard[-1].data and bool(line.stage.dispatcher.ends()))
    assert chunks(heard[-1]) > len(heard) - 1
    assert isinstance(line.stage.dispatcher.ends()[-1], AttemptDone)


async def test_a_reply_that_was_lost_is_said_again(line: Line) -> None:
    line.stage.chat("count 12", stream=False, body={"stream": False})
    await line.runs()
    line.link.freeze()
    await line.lose()
    await eventually(lambda: bool(line.stage.dispatcher.ends()))
    assert json.loads(line.stage.dispatcher.heard[-1].data)["done"] is True


async def test_a_failure_that_was_lost_is_reported_again(line: Line) -> None:
    line.stage.engine.inject(Fault(kind=FaultKind.HANG))
    line.stage.chat(deadline_s=0.5)
    await line.runs()
    line.link.freeze()
    await line.lose()
    await eventually(lambda: bool(line.stage.dispatcher.ends()))
    (end,) = line.stage.dispatcher.failures()
    assert end.error.code is ErrorCode.DEADLINE_EXCEEDED


async def test_a_stream_that_the_break_strikes_in_its_middle_ends_with_an_error(line: Line) -> None:
    line.stage.chat("count 900")
    heard = line.stage.dispatcher.heard
    await eventually(lambda: len(heard) > 2)
    line.link.freeze()
    line.link.cut()
    await eventually(lambda: not heard[-1].data)
    error = error_of(heard[-2])
    assert error is not None
    assert error.code is ErrorCode.CONNECTION_LOST


async def test_an_end_that_reaches_nobody_is_said_until_the_caller_is_back(line: Line) -> None:
    line.stage.chat("count 900")
    heard = line.stage.dispatcher.heard
    await eventually(lambda: len(heard) > 2)
    inbox = line.stage.dispatcher.inbox.subject
    line.stage.dispatcher.inbox.unsubscribe()
    await eventually(lambda: bool(line.stage.dispatcher.ends()), complaint="the node noticed it at the next token")
    again: list[Msg] = []
    line.stage.bus.subscribe(inbox, again.append)
    await eventually(lambda: bool(again) and not again[-1].data)
    error = error_of(again[-2])
    assert error is not None
    assert error.code is ErrorCode.CONNECTION_LOST


async def test_whoever_asks_how_an_attempt_ended_has_it_said_again(line: Line) -> None:
    attempt = line.stage.chat("count 3")
    await eventually(lambda: bool(line.stage.dispatcher.ends()))
    count = chunks(line.stage.dispatcher.heard[-1])
    line.stage.dispatcher.heard.clear()
    line.stage.dispatcher.reports.clear()
    answer = await line.stage.control(ControlAttempt(attempt_id=attempt))
    assert (answer.attempt_state, answer.chunks) == (AttemptState.ENDED_SPOKEN, count)
    await eventually(lambda: bool(line.stage.dispatcher.heard) and bool(line.stage.dispatcher.ends()))
    (end,) = line.stage.dispatcher.heard
    assert chunks(end) == count


async def test_what_its_dispatcher_took_back_is_not_said_again(line: Line) -> None:
    attempt = line.stage.chat("count 900")
    await eventually(lambda: len(line.stage.dispatcher.heard) > 2)
    line.stage.dispatcher.give_up(attempt)
    await eventually(lambda: bool(line.stage.dispatcher.ends()))
    line.stage.dispatcher.heard.clear()
    await line.stage.control(ControlAttempt(attempt_id=attempt))
    await line.stage.bus.flush()
    assert line.stage.dispatcher.heard == []
    assert isinstance(line.stage.dispatcher.ends()[-1], AttemptFailed)
