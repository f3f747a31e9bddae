"""A line to an engine that is cut in the middle of an answer, as a dying engine or host would.

cuts = [3, 5]
async with Scissors(engine_url, cuts) as line:
    node = NodeConfig(url=line.url)
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Coroutine
from typing import Final
from urllib.parse import urlsplit

from sollol_bus.parts import Part

_BLOCK_BYTES: Final = 1 << 16
_ANSWER: Final = b"HTTP/1.1 "
_BEGINNINGS: Final = re.compile(rb'HTTP/1\.1 |(?<=\n)data: |(?<=\n){"model":')
"""Of an answer, and of its pieces: events, and objects of Ollama's."""


class Scissors(Part):
    """A TCP line on loopback.

    Args:
        url: The engine's address.
        cuts: Of how many pieces the next answers are to consist, one after the other; each is taken out as its cut is
            made, and answers pass whole when it is empty. Lines may share one list.
    """

    url: str
    """Where to reach the engine instead."""

    def __init__(self, url: str, cuts: list[int]) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._cuts = cuts
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Ends every connection."""
        if self._server is not None:
            self._server.close()
        for end in self._ends:
            end.transport.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:  # nobody listens there now
            writer.transport.abort()
            return
        ends = (writer, far_writer)
        self._ends.update(ends)
        for source, goal, is_cut in ((reader, far_writer, False), (far_reader, writer, True)):
            carried = self._carry(source, goal, is_cut=is_cut)
            task = asyncio.get_running_loop().create_task(self._end_with(carried, ends), name="scissors")
            self._tasks.add(task)  # `close` ends it
            task.add_done_callback(self._tasks.discard)

    async def _end_with(self, carried: Coroutine[None, None, None], ends: tuple[asyncio.StreamWriter, ...]) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: uvloop's, of an end that was aborted
            await carried
        for end in ends:
            self._ends.discard(end)
            end.close()  # what was written before still arrives

    async def _carry(self, source: asyncio.StreamReader, goal: asyncio.StreamWriter, *, is_cut: bool) -> None:
        passed = 0
        while data := await source.read(_BLOCK_BYTES):
            for begins in _BEGINNINGS.finditer(data) if is_cut else ():
                if begins.group() == _ANSWER:
                    passed = 0
                    continue
                if self._cuts and passed >= self._cuts[0]:
                    del self._cuts[0]
                    goal.write(data[: begins.start()])
                    await goal.drain()
                    return
                passed += 1
            goal.write(data)
            await goal.drain()
