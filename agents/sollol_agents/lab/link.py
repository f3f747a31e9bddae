"""A line to a server that can be frozen and cut, as a pause of its machine or a broken site link would.

async with Link(nats_server.url) as link:
bus = await Bus.connect(BusConfig(url=link.url))
link.freeze()   # both sides believe that they are connected, and nothing arrives
link.cut()      # what was on its way is lost, both sides are told, and new connections pass again
link.bar()      # the same, and no new connection passes until `thaw`
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from sollol_bus.parts import Part
from sollol_bus.transport.address import read_address

_BLOCK_BYTES: Final = 1 << 16


class Link(Part):
    """A TCP line on loopback.

    Args:
        url: Where it leads.
    """

    url: str
    """Where to connect instead."""

    def __init__(self, url: str) -> None:
        self._goal = read_address(url).url.removeprefix("nats://").rpartition(":")
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_barred = False
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Ends every connection."""
        if self._server is not None:
            self._server.close()
        self.cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Lets nothing through, of old connections and of new ones; what is sent waits."""
        self._flows.clear()

    def thaw(self) -> None:
        """Lets what waits go on, and new connections pass."""
        self._is_barred = False
        self._flows.set()

    def cut(self) -> None:
        """Breaks every connection, loses what is on its way, and lets new connections pass."""
        for end in list(self._ends):
            end.transport.abort()
        self._ends.clear()
        for task in list(self._tasks):
            task.cancel()
        self._flows.set()

    def bar(self) -> None:
        """Breaks every connection, and each new one at once."""
        self._is_barred = True
        self.cut()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._goal
        try:
            if self._is_barred:
                raise ConnectionRefusedError
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:  # nobody listens there now
            writer.transport.abort()
            return
        self._ends |= {writer, far_writer}
        for source, goal in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.get_running_loop().create_task(self._carry(source, goal), name="link")
            self._tasks.add(task)  # `cut` and `close` end it
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, goal: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: uvloop's, of an end that was aborted
            while data := await source.read(_BLOCK_BYTES):
                await self._flows.wait()
                goal.write(data)
                await goal.drain()
        self._ends.discard(goal)
        goal.transport.abort()
