"""A caller that costs little itself: HTTP/1.1 on asyncio's streams, one connection, no layers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec

MODEL: Final = "bench"
CHAT: Final = "/v1/chat/completions"
GENERATE: Final = "/api/generate"
_BODIES: Final = {
    CHAT: {"model": MODEL, "messages": [{"role": "user", "content": "count 0"}], "max_tokens": 1, "stream": True},
    GENERATE: {"model": MODEL, "prompt": "count 0", "options": {"num_predict": 1}},
}


class _Stamp(msgspec.Struct):
    created_at: str


_stamp = msgspec.json.Decoder(_Stamp)


def body_for(path: str) -> bytes:
    """A request that makes one token, as a stream."""
    return msgspec.json.encode(_BODIES[path])


class Caller:
    """One keep-alive connection; use as an async context manager."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 22)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def post(self, path: str, body: bytes) -> tuple[float, float]:
        """Seconds to the first byte of the body, and to its last.

        Raises:
            RuntimeError: The status is not 200; the text holds the answer.
        """
        began = time.perf_counter()
        first = 0.0
        async for _ in self.pieces(path, body):
            first = first or time.perf_counter() - began
        return first, time.perf_counter() - began

    async def pieces(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        """The pieces of the body, as the server framed them."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        is_good = answer.startswith(b"http/1.1 200")
        if b"content-length:" in answer:
            size = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
            data = await self._reader.readexactly(size)
            if not is_good:
                raise RuntimeError((answer + data)[:1000].decode())
            yield data
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        if not is_good:
            raise RuntimeError(answer[:1000].decode())


def delay_of(line: bytes, arrived: float) -> float:
    """Seconds from the engine's stamp on a native line to its arrival."""
    return arrived - datetime.fromisoformat(_stamp.decode(line).created_at[:26] + "+00:00").timestamp()
