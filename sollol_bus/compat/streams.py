"""Answers as they stream in, for `for` and `async for`, without a `with` around them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Self

import msgspec

from sollol_bus.compat.fleet import Fleet
from sollol_bus.compat.house import House
from sollol_bus.compat.results import Result, where_and_why
from sollol_bus.sdk.results import AnswerStream, Chunk
from sollol_schemas.routing import Routing

_ANONYMOUS: Final = Routing()


class _Reader:
    """The fleet's side of a stream: begins it when the first chunk is wanted. On the fleet's loop."""

    def __init__(self, fleet: Fleet, begin: Callable[[Fleet], AnswerStream]) -> None:
        self._fleet = fleet
        self._begin = begin
        self._stream: AnswerStream | None = None
        self._chunks: AsyncGenerator[Chunk, None] | None = None
        self._reading: asyncio.Task[Any] | None = None
        self._is_over = False
        self._began_mono_s = 0.0

    async def next(self) -> Result | None:
        """The next chunk; None after the last. Cancelling it ends the stream."""
        if self._is_over:
            return None
        if self._reading is not None:
            raise RuntimeError("two readers of one stream")
        self._reading = asyncio.current_task()
        try:
            found = await self._read()
        except BaseException:
            await self._end()
            raise
        finally:
            self._reading = None
        if found is None:
            await self._end()
        return found

    async def close(self) -> None:
        """Ends the stream, and whoever waits for a chunk of it."""
        if self._reading is not None:
            self._reading.cancel()
        else:
            await self._end()

    async def _read(self) -> Result | None:
        if self._stream is None or self._chunks is None:
            self._began_mono_s = time.monotonic()
            self._stream = self._begin(self._fleet)
            await self._stream.__aenter__()
            self._chunks = _chunks_of(self._stream)
        chunk = await anext(self._chunks, None)
        if chunk is None:
            return None
        said = Result.of(msgspec.json.decode(chunk.raw))
        if said.get("done") is True:
            decision = self._stream.decision
            url = ""
            if decision is not None:
                url = self._fleet.url_of(decision.node_id)
                self._fleet.reliability.record_request(decision.node_id, True, time.monotonic() - self._began_mono_s)
            said |= Result.of(where_and_why(decision, None, self._stream.request_id, _ANONYMOUS, url))
        return said

    async def _end(self) -> None:
        """Tells the fleet, unless the answer is complete; waits for nothing."""
        stream, self._stream, self._is_over = self._stream, None, True
        if stream is not None:
            await stream.__aexit__(None, None, None)
        if self._chunks is not None:
            await self._chunks.aclose()


async def _chunks_of(stream: AnswerStream) -> AsyncGenerator[Chunk, None]:
    async for chunk in stream:
        yield chunk


class ChunkStream:
    """The chunks of an answer, in Ollama's words; the last one, `done`, says where and why it was made.

        async for chunk in sollol.generate_stream(model="llama3.2", prompt="Count to ten"):
            print(chunk.get("response", ""), end="")

    Nothing is asked before the first chunk is wanted. Leaving the loop, a cancelled task, `aclose`, `close` and an
    object that is dropped all cancel the request.
    """

    def __init__(self, house: House, begin: Callable[[Fleet], AnswerStream]) -> None:
        self._house = house
        self._begin = begin
        self._reader: _Reader | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        try:
            chunk = await self._house.thread.ask(self._mine().next())
        except asyncio.CancelledError:
            self._leave()  # the chunk may have been there already, and nothing was left to cancel
            raise
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        try:
            chunk = self._house.thread.run(self._mine().next())
        except KeyboardInterrupt:
            self._leave()
            raise
        if chunk is None:
            raise StopIteration
        return chunk

    async def aclose(self) -> None:
        """Cancels the request, unless it is complete."""
        if self._reader is not None and self._house.is_open:
            await self._house.thread.ask(self._reader.close())

    def close(self) -> None:
        """As `aclose`, for plain functions."""
        if self._reader is not None and self._house.is_open:
            self._house.thread.run(self._reader.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        """Ends the stream without waiting for it."""
        reader: _Reader | None = getattr(self, "_reader", None)
        if reader is not None and self._house.is_open:
            work = reader.close()
            try:
                asyncio.run_coroutine_threadsafe(work, self._house.thread.loop)
            except RuntimeError:  # its loop may have ended in between
                work.close()

    def _mine(self) -> _Reader:
        if self._reader is None:
            self._reader = _Reader(self._house.fleet, self._begin)
        return self._reader
