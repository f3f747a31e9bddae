"""Chunks that leave the node in the very call that brings them from the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sollol_agents.lab.testing.messages import decision
from sollol_agents.node.attempts.speaker import Passing, Speaker
from sollol_agents.node.engines.base import EngineAnswer, EngineRequest
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.http.connection import Connection
from sollol_agents.node.engines.ollama import OllamaAnswer
from sollol_agents.node.engines.passthrough import PassthroughAnswer
from sollol_bus.errors import SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.execution import Exec

TOKEN = b'{"model":"m","response":"1","done":false}'
LAST = b'{"model":"m","response":"","done":true,"eval_count":2}'
EVENT = b'data: {"choices":[{"delta":{"content":"1"}}]}\n\n'
CHAT = "/v1/chat/completions"


class Transport:
    """One that takes everything."""

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...


class Engine(EngineHttp):
    """An engine whose answer comes as the test says."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.connection = Connection()
        self.connection._transport = cast("Any", Transport())
        cast("Any", self._pool).exchange = self._exchange

    async def _exchange(self, head: bytes, body: bytes) -> Connection:
        await self.connection.wait_head()
        return self.connection

    def begins(self, content_type: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % content_type
        self.connection.data_received(head)

    def says(self, data: bytes, *, ends: bool = False) -> None:
        self.connection.data_received(b"%x\r\n%b\r\n" % (len(data), data) + (b"0\r\n\r\n" if ends else b""))


class Heard:
    """Who takes chunks, and who reads the rest."""

    def __init__(self, answer: EngineAnswer) -> None:
        self.has_room = True
        self.taken: list[bytes] = []
        self.read: list[bytes] = []
        answer.taker = self
        self._reading = asyncio.get_running_loop().create_task(self._read(answer))

    def take(self, chunks: list[bytes]) -> None:
        self.taken += chunks

    async def _read(self, answer: EngineAnswer) -> None:
        async with aclosing(answer.chunks()) as chunks:
            async for batch in chunks:
                self.read += batch

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def ended(self) -> None:
        await self._reading


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    yield made
    await made.aclose()


async def native(engine: Engine) -> tuple[OllamaAnswer, Heard]:
    answer = OllamaAnswer(engine, EngineRequest(kind=RequestKind.GENERATE, model="m", body=b'{"model":"m"}'))
    heard = Heard(answer)
    await heard.turn()
    engine.begins(b"application/x-ndjson")
    await heard.turn()
    return answer, heard


async def test_the_line_of_a_token_is_taken_as_it_comes_and_the_end_is_read(engine: Engine) -> None:
    answer, heard = await native(engine)
    engine.says(TOKEN + b"\n")
    assert heard.taken == [TOKEN]
    engine.says(LAST + b"\n", ends=True)
    await heard.ended()
    assert (heard.taken, heard.read) == ([TOKEN], [LAST])
    assert (answer.output_chunks, answer.figures.output_tokens) == (2, 2)


@pytest.mark.parametrize(
    "pieces",
    [
        [TOKEN + b"\n" + TOKEN + b"\n"],
        [TOKEN[:9], TOKEN[9:] + b"\n"],
        [TOKEN + b"\r\n"],
        [LAST + b"\n"],
    ],
)
async def test_whatever_is_not_one_token_is_read(engine: Engine, pieces: list[bytes]) -> None:
    _, heard = await native(engine)
    for piece in pieces:
        engine.says(piece)
        await heard.turn()
    engine.says(LAST + b"\n", ends=True)
    await heard.ended()
    assert heard.taken == []
    assert b"\n".join([*heard.read, b""]) == (b"".join(pieces) + LAST + b"\n").replace(b"\r", b"")


async def test_what_is_not_taken_is_read_in_its_place(engine: Engine) -> None:
    _, heard = await native(engine)
    first, second, third = (TOKEN.replace(b"1", b"%d" % number) for number in (7, 8, 9))
    heard.has_room = False
    engine.says(first + b"\n")
    heard.has_room = True
    engine.says(second + b"\n")
    assert heard.taken == []
    await heard.turn()
    assert heard.read == [first, second]
    engine.says(third + b"\n")
    assert heard.taken == [third]
    engine.says(LAST + b"\n", ends=True)
    await heard.ended()


async def test_an_error_behind_tokens_that_were_taken_is_raised(engine: Engine) -> None:
    _, heard = await native(engine)
    engine.says(TOKEN + b"\n")
    engine.says(b'{"error":"out of memory"}\n')
    with pytest.raises(SollolError, match="out of memory"):
        await heard.ended()
    assert heard.taken == [TOKEN]


async def test_events_are_taken_as_they_come(engine: Engine) -> None:
    answer = PassthroughAnswer(engine, EngineRequest(kind=RequestKind.PASSTHROUGH, model="m", body=b"{}", path=CHAT))
    heard = Heard(answer)
    await heard.turn()
    engine.begins(b"text/event-stream")
    await heard.turn()
    engine.says(EVENT)
    assert heard.taken == [EVENT]
    engine.says(b"data: [DONE]\n\n", ends=True)
    await heard.ended()
    assert heard.read == [b"data: [DONE]\n\n"]
    assert answer.output_chunks == 2


class Bus:
    """A connection that keeps what is published."""

    is_connected = True
    is_crowded = False
    max_payload = 1 << 20

    def __init__(self) -> None:
        self.said: list[bytes] = []

    def publish(self, subject: str, payload: bytes, *, reply: str, headers: dict[str, str] | None) -> None:
        self.said.append(payload)


def test_a_chunk_is_said_at_once_only_in_a_stream_that_may_be_spoken_into() -> None:
    bus, may_speak, heard = Bus(), [False], []
    leave = SimpleNamespace(inbox="_INBOX.x", is_ending=lambda _: bool(ending))
    ending: list[bool] = []
    exec_ = Exec(decision=decision(), stream=True)
    speaker = Speaker(cast("Any", bus), cast("Any", leave), "probe", exec_, is_rest=False)
    passing = Passing(speaker, lambda: may_speak[0], lambda: heard.append(1))
    assert not passing.has_room
    may_speak[0] = True
    assert passing.has_room
    passing.take([TOKEN])
    assert (bus.said, heard, speaker.messages) == ([TOKEN], [1], 1)
    ending.append(True)
    assert not passing.has_room
    ending.clear()
    bus.is_crowded = True
    assert not passing.has_room
    bus.is_crowded, bus.is_connected = False, False
    assert not passing.has_room
