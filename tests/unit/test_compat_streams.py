"""Streams of the porting layer, read by one loop from a fleet on another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, Self, cast

import pytest

from sollol_bus.compat.house import House
from sollol_bus.compat.streams import ChunkStream
from sollol_bus.loop_thread import LoopThread
from sollol_bus.sdk.results import AnswerStream, Chunk


class Endless:
    """An answer that never ends; it says when a chunk was read and when it was left."""

    def __init__(self) -> None:
        self.is_left = threading.Event()
        self.read = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_left.set()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while True:
            self.read += 1
            yield cast("Chunk", Piece())


class Piece:
    raw = b'{"response": " 1"}'


class OpenHouse:
    """The fleet's loop and nothing else."""

    is_open = True
    fleet: Any = None

    def __init__(self, thread: LoopThread) -> None:
        self.thread = thread


async def test_a_stream_whose_reader_is_cancelled_when_its_next_chunk_is_there_is_left() -> None:
    thread, answer = LoopThread("fleet", "closed"), Endless()
    thread.start()
    try:
        stream = ChunkStream(cast("House", OpenHouse(thread)), lambda _: cast("AnswerStream", answer))
        assert await anext(stream) == {"response": " 1"}
        reading = asyncio.get_running_loop().create_task(anext(stream))
        await asyncio.sleep(0)  # it has asked for the second chunk
        while answer.read < 2:
            pass  # this loop stands still while that of the fleet hands the chunk out
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), thread.loop).result(60)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await asyncio.to_thread(answer.is_left.wait, 60)
    finally:
        await asyncio.to_thread(thread.stop)  # it waits for the other loop
