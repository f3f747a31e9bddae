"""Chunks that are handed on as they come, and those that come by the iteration all the same."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sollol_agents.gateway.inference.native import LineRelay
from sollol_bus.errors import BackendBrokeProtocol, ConnectionLost, SollolError
from sollol_bus.sdk.passing import PassingStream
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_schemas import headers as h


class Passed:
    """A stream whose reader waits, and somebody who takes; its clock stands where the test puts it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.stream = PassingStream(cast("Bus", None), breaks_on_disconnect=False)
        self.stream.take = self._take
        self.taken: list[bytes] = []
        self.read: list[bytes] = []
        self.has_room = True
        self.raises: SollolError | None = None
        self._reading = asyncio.get_running_loop().create_task(self._read())

    def _take(self, msg: Msg) -> bool:
        if self.raises is not None:
            raise self.raises
        if self.has_room:
            self.taken.append(msg.data)
        return self.has_room

    async def _read(self) -> None:
        async for msg in self.stream:
            self.read.append(msg.data)

    def comes(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.now += 0.01
        self.stream._on_message(Msg(cast("Any", None), data=data, headers=headers))

    async def turn(self) -> None:
        """The reader reads what has come, and waits again."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def begun(self) -> None:
        """The first two have come, of which none may be taken."""
        for data in (b"1", b"2"):
            self.comes(data)
            await self.turn()
        assert (self.read, self.taken) == ([b"1", b"2"], [])

    async def ended(self) -> None:
        await self._reading


@pytest.fixture
async def passed(monkeypatch: pytest.MonkeyPatch) -> Passed:
    made = Passed(monkeypatch)
    await made.turn()
    await made.begun()
    return made


async def test_a_chunk_is_taken_in_the_call_that_brings_it(passed: Passed) -> None:
    passed.comes(b"3")
    assert passed.taken == [b"3"]
    passed.comes(b"4")
    assert passed.taken == [b"3", b"4"]
    await passed.turn()
    assert passed.read == [b"1", b"2"]


async def test_chunks_that_were_taken_count_at_the_end(passed: Passed) -> None:
    for data in (b"3", b"4"):
        passed.comes(data)
    passed.comes(b"", {h.CHUNKS: "4"})
    await passed.ended()
    assert passed.stream.last is not None
    assert passed.stream.chunks == 4


async def test_a_lost_chunk_is_noticed_though_the_others_were_taken(passed: Passed) -> None:
    passed.comes(b"3")
    passed.comes(b"", {h.CHUNKS: "4"})
    with pytest.raises(ConnectionLost, match="3 of 4"):
        await passed.ended()


async def test_what_is_not_taken_comes_by_the_iteration_with_all_that_is_behind_it(passed: Passed) -> None:
    passed.has_room = False
    passed.comes(b"3")
    passed.has_room = True
    passed.comes(b"4")
    assert passed.taken == []
    await passed.turn()
    assert passed.read == [b"1", b"2", b"3", b"4"]
    passed.comes(b"5")
    assert passed.taken == [b"5"]


async def test_what_comes_together_is_read_together(passed: Passed) -> None:
    passed.comes(b"3")
    passed.now -= 0.01
    passed.comes(b"4")
    assert passed.taken == [b"3"]
    await passed.turn()
    assert passed.read == [b"1", b"2", b"4"]


async def test_the_iteration_begins_to_wait_anew_every_second(passed: Passed) -> None:
    passed.comes(b"3")
    passed.now += 1.0
    passed.comes(b"4")
    await passed.turn()
    passed.comes(b"5")
    assert (passed.taken, passed.read) == ([b"3", b"5"], [b"1", b"2", b"4"])


async def test_an_error_of_whoever_takes_ends_the_stream(passed: Passed) -> None:
    passed.raises = BackendBrokeProtocol("no object")
    passed.comes(b"3")
    with pytest.raises(BackendBrokeProtocol, match="no object"):
        await passed.ended()


async def test_the_first_chunk_after_a_break_comes_by_the_iteration(passed: Passed) -> None:
    passed.comes(b"3")
    passed.stream.first = None  # it was sent again
    passed.comes(b"4")
    await passed.turn()
    assert (passed.taken, passed.read) == ([b"3"], [b"1", b"2", b"4"])


def test_a_line_that_may_be_the_last_waits_for_what_is_behind_it() -> None:
    lines = LineRelay()
    assert lines.feed(b'{"done":false}') == b'{"done":false}\n'
    assert lines.feed(b"a", b'{"done":true}') == b"a\n"
    assert lines.held == b'{"done":true}'
    assert lines.feed(b"b") == b'{"done":true}\nb\n'
    assert lines.feed(b'{"done":true}') == b""
    assert lines.rest() == b'{"done":true}'
    assert lines.rest() == b""
