"""One HTTP exchange on a connection of its own, sent byte for byte and read as far as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

import msgspec

_LIMIT_BYTES: Final = 32 * 1024 * 1024
_BODILESS: Final = frozenset({204, 304})


class Reply(msgspec.Struct, kw_only=True):
    """What came back.

    Attributes:
        status: None when the connection ended before a status line.
        headers: by lower-case name; of repeated ones the last.
        is_whole: the body came to its declared end.
        first_byte_s: from the sending to the first byte of the answer; None without one.
        end_s: from the sending to the end.
    """

    status: int | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    body: bytearray = msgspec.field(default_factory=bytearray)
    is_whole: bool = False
    first_byte_s: float | None = None
    end_s: float = 0.0


async def exchange(url: str, request: bytes, *, within_s: float) -> Reply:
    """Sends a request and returns what came back within that time, whole or not."""
    address = url.removeprefix("http://").rstrip("/")
    host, _, port = address.rpartition(":")
    reply = Reply()
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(host, int(port), limit=_LIMIT_BYTES)
    try:
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            async with asyncio.timeout(within_s):
                writer.write(request)
                await _read(reader, reply, began, is_head=request.startswith(b"HEAD "))
    finally:
        writer.transport.abort()
    reply.end_s = time.monotonic() - began
    return reply


async def _read(reader: asyncio.StreamReader, reply: Reply, began: float, *, is_head: bool) -> None:
    status = await reader.readuntil(b"\r\n")
    reply.first_byte_s = time.monotonic() - began
    while status.split(b" ", 2)[1] == b"100":
        await reader.readuntil(b"\r\n\r\n")
        status = await reader.readuntil(b"\r\n")
    reply.status = int(status.split(b" ", 2)[1])
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        name, _, value = line.decode("latin-1").partition(":")
        reply.headers[name.strip().lower()] = value.strip()
    if is_head or reply.status in _BODILESS:
        reply.is_whole = True
        return
    await _read_body(reader, reply)
    reply.is_whole = True


async def _read_body(reader: asyncio.StreamReader, reply: Reply) -> None:
    if reply.headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            reply.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    elif "content-length" in reply.headers:
        reply.body += await reader.readexactly(int(reply.headers["content-length"]))
    else:
        reply.body += await reader.read()
