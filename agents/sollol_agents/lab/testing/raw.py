"""A connection that speaks NATS's protocol by hand, for what a client library would hide."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from sollol_bus.server.server import EmbeddedServer


class Raw:
    """A connection that speaks the protocol by hand, so that every refusal is seen."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next_sid = 0

    @classmethod
    async def open(cls, server: EmbeddedServer, shown: Callable[[bytes], dict[str, Any]]) -> Raw:
        """A connection of whoever shows this after the server's first line, which is handed over."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        options = shown(await reader.readline()) | {"verbose": False, "pedantic": False, "headers": True}
        raw = cls(reader, writer)
        assert not await raw._is_refused(f"CONNECT {json.dumps(options)}")
        return raw

    async def may_publish(self, subject: str) -> bool:
        """Whether the server takes a message to this subject."""
        return not await self._is_refused(f"PUB {subject} 0\r\n")

    async def may_subscribe(self, subject: str) -> bool:
        """Whether the server takes a subscription to this subject; it is undone at once."""
        self._next_sid += 1
        allowed = not await self._is_refused(f"SUB {subject} {self._next_sid}")
        self._writer.write(f"UNSUB {self._next_sid}\r\n".encode())
        return allowed

    async def close(self) -> None:
        """Closes the connection."""
        self._writer.close()
        await self._writer.wait_closed()

    async def _is_refused(self, line: str) -> bool:
        self._writer.write(f"{line}\r\nPING\r\n".encode())
        is_refused = False
        async with asyncio.timeout(10):
            while (answer := await self._reader.readline()) != b"PONG\r\n":
                assert answer, "the server closed the connection"
                is_refused = is_refused or answer.startswith(b"-ERR 'Permissions Violation")
        return is_refused
