"""How long a stream of replies is waited for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sollol_bus.errors import DeadlineExceeded, RequestTimedOut
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.streaming import ReplyStream


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
