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

from sollol_schemas import headers as names

_BREAK: Final = b"\r\n"
_BLANK: Final = b" "
_FIRST_LINE: Final = "NATS/1.0\r\n"
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SPACE: Final = " \t\r\n\f\v"
_ON_ONE_LINE: Final = str.maketrans("\r\n", "  ")
_OURS: Final = frozenset(name for key, name in vars(names).items() if key.isupper() and _NAME.fullmatch(name))
"""Names that need no look: most headers have one of these."""


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
        if name not in _OURS and not _is_name(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if "\n" in value or "\r" in value:
            value = value.translate(_ON_ONE_LINE).strip(_SPACE)  # noqa: PLW2901 the same value, on one line
        block += f"{name}: {value}\r\n"
    return block.encode() + _BREAK


def publication(subject: str, reply: str, payload: bytes, block: bytes = b"") -> bytes:
    """The bytes that publish a message; `block` holds its headers."""
    if not block:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)
    sizes = len(block), len(block) + len(payload)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), *sizes, block, payload)


def plain_headers(block: bytes) -> dict[str, str] | None:
    """The headers in a block of lines with a name and a value each; None for any other block."""
    lines = block.decode("utf-8", "replace").split("\r\n")
    if lines[0] != "NATS/1.0" or lines[-2:] != ["", ""]:
        return None
    headers = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or (name not in _OURS and not _is_name(name)):
            return None
        headers[name] = value.strip(_SPACE)
    return headers


_Message = tuple[int, bytes, bytes, bytes, bytes]
"""Number of the subscription, subject, reply subject, data, headers."""


class MessageParser(Parser):
    """Hands each message to `DirectClient.deliver` as soon as it is whole; control lines go to the library's parser."""

    def reset(self) -> None:
        """Forgets what is not whole yet: the connection is another from now on."""
        super().reset()
        self.has_more = False
        self._lines = Parser(self.nc)
        self._odd: _Message | bytes | None = None
        self._behind = b"", 0
        """What has come behind that, and how far it was read: many odd ones in a row are not copied for each."""

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes, and hands out every message up to the first that only the library can read.

        Returns:
            Whether there was none such; else `parse` is next, which reads it and what is behind it.

        Raises:
            ProtocolError: They are not NATS' protocol.
        """
        buf = self.buf
        if buf:
            buf += data
            if len(buf) < self.needed:
                return True
            data = bytes(buf)
            buf.clear()
        (behind, at), self._behind = self._behind, (b"", 0)
        if behind:
            data, at = (behind[at:] + data, 0) if data else (behind, at)
        deliver = self.nc.deliver
        self.needed = 0
        while (stop := data.find(_BREAK, at)) >= 0:
            words = data[at:stop].split(_BLANK)
            count = len(words)
            is_plain = words[0] == b"MSG"
            if not (is_plain or words[0] == b"HMSG"):
                self._odd, at = data[at : stop + 2], stop + 2
                break
            try:
                sid, size, head_bytes = int(words[2]), int(words[-1]), 0 if is_plain else int(words[-2])
            except (ValueError, IndexError) as error:
                raise ProtocolError from error
            least = 4 if is_plain else 5
            if not (0 <= head_bytes <= size and least <= count <= least + 1):
                raise ProtocolError
            begin = stop + 2
            end = begin + size
            after = end + 2
            if len(data) < after:
                self.needed = after - at
                break
            self.has_more = after < len(data)
            reply = words[3] if count > least else b""
            at = after
            body = begin + head_bytes
            if not deliver(sid, words[1], reply, data[body:end], data[begin:body]):
                self._odd = sid, words[1], reply, data[body:end], data[begin:body]
                break
        self.has_more = False
        if self._odd is not None:
            self._behind = data, at
            return False
        buf += data[at:]
        return True

    async def parse(self, data: bytes = b"") -> None:
        """Takes the next bytes, whatever they are.

        Raises:
            ProtocolError: They are not NATS' protocol.
        """
        await self._read_odd()
        while not self.feed(data):
            data = b""
            await self._read_odd()

    async def _read_odd(self) -> None:
        odd, self._odd = self._odd, None
        if isinstance(odd, bytes):
            await self._lines.parse(odd)
        elif odd is not None:
            await self.nc._process_msg(*odd)  # noqa: SLF001 as the library's parser calls it
