"""NATS' protocol as far as it is spoken for each message: writing one, and reading those that were delivered.

The client library needs a coroutine and a dozen calls for a message in either direction, a quarter of all that an actor
does for a request. What is rare or odd is left to it: control lines, and headers other than names with values.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

_BREAK: Final = b"\r\n"
_FIRST_LINE: Final = "NATS/1.0\r\n"
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SPACE: Final = " \t\r\n\f\v"
_ON_ONE_LINE: Final = str.maketrans("\r\n", "  ")


@lru_cache(maxsize=256)
def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def block_of(headers: dict[str, str]) -> bytes:
    """Headers as they stand in a message; no value can end its line.

    Raises:
        ValueError: The name of one cannot be one.
    """
    block = _FIRST_LINE
    for name, value in headers.items():
        if not _is_name(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if "\n" in value or "\r" in value:
            value = value.translate(_ON_ONE_LINE)  # noqa: PLW2901 the same value, on one line
        block += f"{name}: {value.strip(_SPACE)}\r\n"
    return block.encode() + _BREAK


def publication(subject: str, reply: str, payload: bytes, block: bytes = b"") -> bytes:
    """The bytes that publish a message; `block` holds its headers."""
    if not block:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)
    sizes = len(block), len(block) + len(payload)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), *sizes, block, payload)


def plain_headers(block: bytes) -> dict[str, str] | None:
    """The headers in a block of lines with a name and a value each; None for any other block."""
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    if first != "NATS/1.0" or lines[-2:] != ["", ""]:
        return None
    headers = {}
    for line in lines[:-2]:
        name, colon, value = line.partition(":")
        if not colon or not _is_name(name):
            return None
        headers[name] = value.strip(_SPACE)
    return headers


class MessageParser(Parser):
    """Hands each message to `DirectClient.deliver` as soon as it is whole; control lines go to the library's parser."""

    def reset(self) -> None:
        """Forgets what is not whole yet: the connection is another from now on."""
        super().reset()
        self._is_reset = True

    async def parse(self, data: bytes = b"") -> None:
        """Takes the next bytes.

        Raises:
            ProtocolError: They are not NATS' protocol.
        """
        if self.buf:
            self.buf += data
            if len(self.buf) < self.needed:
                return
            data = bytes(self.buf)
            self.buf.clear()
        self._is_reset = False
        self.needed = at = 0
        while (stop := data.find(_BREAK, at)) >= 0:
            if data.startswith((b"MSG ", b"HMSG "), at):
                sid, subject, reply, head_bytes, size = _delivery(data[at:stop])
                begin = stop + 2
                end = begin + size
                if len(data) < end + 2:
                    self.needed = end + 2 - at
                    break
                at, body = end + 2, begin + head_bytes
                message = sid, subject, reply, data[body:end], data[begin:body]
                if not self.nc.deliver(*message):
                    await self.nc._process_msg(*message)  # noqa: SLF001 as the library's parser calls it
            else:
                await super().parse(data[at : stop + 2])
                at = stop + 2
            if self._is_reset:
                return
        self.buf += data[at:]


def _delivery(line: bytes) -> tuple[int, bytes, bytes, int, int]:
    """Of the first line of a message: subscription, subject, reply subject, bytes of headers, and of all."""
    try:
        kind, subject, sid, *rest = line.split()
        size = int(rest.pop())
        head_bytes = int(rest.pop()) if kind == b"HMSG" else 0
        number = int(sid)
    except (ValueError, IndexError) as error:
        raise ProtocolError from error
    if not 0 <= head_bytes <= size:
        raise ProtocolError
    return number, subject, rest[0] if rest else b"", head_bytes, size
