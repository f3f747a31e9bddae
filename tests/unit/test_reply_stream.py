"""How long a stream of replies is waited for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sollol_bus.errors import DeadlineExceeded, RequestTimedOut
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.streaming import PathBroken, ReplyStream
from sollol_schemas import headers as h


class Waiting:
    """A stream that somebody reads; its clock stands where the test puts it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.stream = ReplyStream(cast("Bus", None), first_s=30.0, gap_s=20.0, total_s=60.0, breaks_on_disconnect=False)
        self.reading: asyncio.Task[Msg] | None = None

    async def read(self) -> None:
        self.reading = asyncio.get_running_loop().create_task(cast("Any", self.stream.__anext__()))
        await asyncio.sleep(0)

    async def comes(self) -> None:
        assert self.reading is not None
        self.stream._on_message(Msg(cast("Any", None), data=b"x"))
        assert (await self.reading).data == b"x"
        await self.read()

    async def is_over_at(self, now: float) -> bool:
        """Whether the reading ends when the stream is looked at then."""
        assert self.reading is not None
        self.now = now
        self.stream._look()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self.reading.done()


@pytest.fixture
async def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    made = Waiting(monkeypatch)
    await made.read()
    return made


async def test_the_first_message_is_waited_for_as_long_as_it_may_take(waiting: Waiting) -> None:
    assert not await waiting.is_over_at(129.0)
    assert await waiting.is_over_at(130.0)
    with pytest.raises(RequestTimedOut, match="30 s"):
        await cast("Any", waiting.reading)


async def test_every_message_moves_the_limit_for_the_next_one(waiting: Waiting) -> None:
    waiting.now = 110.0
    await waiting.comes()
    assert not await waiting.is_over_at(129.0)
    await waiting.comes()
    assert not await waiting.is_over_at(148.0)
    assert await waiting.is_over_at(149.0)
    with pytest.raises(RequestTimedOut, match="20 s"):
        await cast("Any", waiting.reading)


async def test_a_shorter_limit_than_the_one_before_is_looked_at_in_time(waiting: Waiting) -> None:
    before = cast("Any", waiting.stream._timer)
    waiting.now = 105.0
    await waiting.comes()
    assert before.cancelled()
    assert waiting.stream._timer_at == 125.0
    assert await waiting.is_over_at(125.0)
    with pytest.raises(RequestTimedOut):
        await cast("Any", waiting.reading)


async def test_no_message_moves_the_deadline(waiting: Waiting) -> None:
    for now in (120.0, 135.0, 150.0):
        waiting.now = now
        await waiting.comes()
    assert not await waiting.is_over_at(159.0)
    assert await waiting.is_over_at(160.0)
    with pytest.raises(DeadlineExceeded, match="3 messages came"):
        await cast("Any", waiting.reading)


async def test_a_stream_that_is_closed_is_looked_at_no_more(waiting: Waiting) -> None:
    timer = cast("Any", waiting.stream._timer)
    waiting.stream.close()
    assert timer.cancelled()
    cast("Any", waiting.reading).cancel()


def stream_of(*messages: tuple[bytes, str, str]) -> ReplyStream:
    """A stream to which these came: what each brings, the last token of its reply subject, and its count."""
    made = ReplyStream(cast("Bus", Nobody()), breaks_on_disconnect=False)
    for data, token, count in messages:
        headers = {h.CHUNKS: count} if count else None
        made._on_message(Msg(cast("Any", None), data=data, reply=f"_INBOX_node.n.t.{token}", headers=headers))
    return made


class Nobody:
    """A bus over which nothing is sent."""

    nats = None


BOTH = (b"two", "end", "2")


@pytest.mark.parametrize(
    ("messages", "chunks"),
    [
        ([(b"one", "end", "1")], [b"one"]),
        ([(b"one", "1", ""), BOTH], [b"one", b"two"]),
        ([(b"one", "1", ""), BOTH, BOTH], [b"one", b"two"]),
        ([(b"one", "1", ""), (b"two", "2", ""), (b"", "end", "2")], [b"one", b"two"]),
    ],
    ids=["alone", "with-the-last-chunk", "said-again", "by-itself"],
)
async def test_the_end_may_come_with_the_last_chunk(
    messages: list[tuple[bytes, str, str]], chunks: list[bytes]
) -> None:
    stream = stream_of(*messages)
    assert [msg.data async for msg in stream] == chunks
    assert stream.last is not None
    assert (stream.last.data, (stream.last.headers or {})[h.CHUNKS]) == (b"", str(len(chunks)))


async def test_what_comes_with_the_end_is_not_handed_out_behind_a_gap() -> None:
    stream = stream_of((b"one", "1", ""), (b"three", "end", "3"))
    assert (await anext(stream)).data == b"one"
    with pytest.raises(PathBroken, match="message 2"):
        await anext(stream)
