"""Messages that no client library sends: the same ones for the same seed, on every subject that anybody listens on.

Headers, bodies, reply subjects and tokens of subjects are broken, each in its own ways, and now and then all at once.
Bodies are bytes, JSON that is not JSON, or messages of the contract whose fields hold whatever comes to mind.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

import sollol_schemas
from sollol_schemas import headers as h
from sollol_schemas import stores
from sollol_schemas.subjects import NODE_CONTROL, SUBJECTS, Subject, by_members

CANARY: Final = "crown-jewels"
"""Stands in bodies and headers; no log may quote it."""
_NAMES: Final = sorted(value for name, value in vars(h).items() if name.isupper() and isinstance(value, str))
_STORE_NAMES: Final = (
    *("Nats-TTL", "Nats-Rollup", "Nats-Expected-Stream", "Nats-Expected-Last-Sequence", "Nats-Expected-Last-Msg-Id"),
    *("KV-Operation", "Nats-Marker-Reason", "Nats-Schedule-Target", "Nats-Schedule-TTL", "Nats-Sequence"),
)
_TOKENS: Final = (
    b"x",
    b"\xff\xfe\xfd",
    b"t" * 300,
    "ümlaut".encode(),
    "\U0001f600".encode(),
    b"$JS",
    b"-1",
    b"n1",
    b"0",
)
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, -1, 0, 1, 10**9, 2**53, 2**64, 10**40, 1e308, -0.5, "", "x", "\x1b[2J\r\n", "a" * 5000),
    *([], [[]], {}, {"": None}, [None] * 1000, {"type": "outcome.v1"}, "2026-13-41T99:99:99Z", "9999-12-31T23:59:59Z"),
)
_SERVICES: Final = ("", *(f".sollol-{actor}" for actor in ("scorer", "dispatcher", "recorder", "node", "gateway")))


class Frame(msgspec.Struct, frozen=True):
    """One message as it goes to the server."""

    subject: bytes
    reply: bytes
    headers: bytes
    """The block of headers, whatever it is; empty: none."""
    body: bytes

    @property
    def command(self) -> bytes:
        """What publishes it."""
        if not self.headers:
            return b"PUB %b %b %d\r\n%b\r\n" % (self.subject, self.reply, len(self.body), self.body)
        size = len(self.headers)
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
            *(self.subject, self.reply, size, size + len(self.body)),
            *(self.headers, self.body),
        )


def frames(seed: int, count: int, *, node_id: str = "n1") -> Iterator[Frame]:
    """So many broken messages; every subject of the table gets its share.

    Args:
        seed: The same messages for the same seed.
        count: How many.
        node_id: A node that is there, to which half of the messages about nodes go.
    """
    rng = random.Random(seed)
    rows = (*SUBJECTS, *SUBJECTS, None)
    for number in range(count):
        row = rows[number % len(rows)]
        yield Frame(
            subject=_subject(rng, row, node_id),
            reply=rng.choice(_REPLIES)(rng),
            headers=rng.choice(_HEADERS)(rng),
            body=_body(rng, row),
        )


class Sender:
    """A connection that sends frames, and makes itself anew when the server will not have one.

    Args:
        url: The server.
        options: What it shows the server: user and password.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        where = urlsplit(url)
        self._address = where.hostname, where.port
        self._options = {"headers": True, "no_responders": True, "verbose": False, **(options or {})}
        self.cut = 0
        """How often the server closed the connection."""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, frame: Frame) -> None:
        """Returns when the server has had it, or has refused it."""
        try:
            reader, writer = self._streams or await self._open()
            writer.write(frame.command + b"PING\r\n")
            await writer.drain()
            await _pong(reader)
        except (ConnectionError, EOFError):
            self.cut += 1
            await self.close()

    async def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            self._streams[1].close()
            with suppress(ConnectionError):
                await self._streams[1].wait_closed()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self._address, limit=1 << 20)
        await reader.readline()
        writer.write(b"CONNECT %b\r\nPING\r\n" % msgspec.json.encode(self._options))
        await _pong(reader)
        self._streams = reader, writer
        return self._streams


async def _pong(reader: asyncio.StreamReader) -> None:
    while (line := await reader.readline()) != b"PONG\r\n":
        if not line:
            raise EOFError


# -- subjects and replies -----------------------------------------------------------------------------------


def _subject(rng: random.Random, row: Subject | None, node_id: str) -> bytes:
    if row is None:
        return f"$SRV.{rng.choice(('PING', 'INFO', 'STATS'))}{rng.choice(_SERVICES)}".encode()
    pattern = by_members(row.all) if rng.random() < 0.2 else row.all
    tokens = [_parameter(rng, node_id) if part == "*" else part.encode() for part in pattern.split(".")]
    return b".".join(tokens)


def _parameter(rng: random.Random, node_id: str) -> bytes:
    return node_id.encode() if rng.random() < 0.5 else rng.choice(_TOKENS)


_REPLIES: Final[tuple[Callable[[random.Random], bytes], ...]] = (
    lambda _: b"",
    lambda rng: b"_INBOX.%d" % rng.randrange(1000),
    lambda rng: b"_INBOX_ctl.%b.1" % rng.choice(_TOKENS),
    lambda rng: b"_INBOX_cli.%b.%d" % (rng.choice(_TOKENS), rng.randrange(9)),
    *([lambda rng: b"_INBOX_cli.n1.%d" % rng.randrange(9)] * 3),
    lambda _: b"_INBOX.\xff\xfe",
    lambda rng: b"$KV.%b.%b" % (rng.choice(stores.BUCKETS).encode(), rng.choice(_TOKENS)),
    lambda rng: b"$KV.SOLLOL_OFFICES.%b" % rng.choice((b"scorer", b"recorder")),
    lambda rng: b"$JS.API.STREAM.%b.SOLLOL_JOBS" % rng.choice((b"DELETE", b"PURGE", b"INFO", b"UPDATE")),
    lambda rng: b"$SRV.PING" + rng.choice(_SERVICES).encode(),
    lambda rng: b"$JS.ACK.SOLLOL_JOBS.p5.1.%d.1.1.0" % rng.randrange(9),
    lambda rng: rng.choice(SUBJECTS).all.replace("*", "n1").encode(),
)


# -- headers ------------------------------------------------------------------------------------------------


def _named(rng: random.Random) -> bytes:
    names = rng.choices((*_NAMES, *_STORE_NAMES), k=rng.randrange(1, 6))
    values = (str(rng.choice(_VALUES)).replace("\r\n", " ") if rng.random() < 0.7 else "n1" for _ in names)
    lines = "".join(f"{name}: {value}\r\n" for name, value in zip(names, values, strict=True))
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def _cut(rng: random.Random) -> bytes:
    block = _named(rng)
    return block[: rng.randrange(1, len(block))]


def _flipped(rng: random.Random) -> bytes:
    block = bytearray(_named(rng))
    for _ in range(rng.randrange(1, 6)):
        block[rng.randrange(len(block))] = rng.randrange(256)
    return bytes(block)


_HEADERS: Final[tuple[Callable[[random.Random], bytes], ...]] = (
    *([lambda _: b""] * 3),
    *([_named] * 3),
    _cut,
    _flipped,
    lambda _: b"NATS/1.0",
    lambda _: b"NATS/1.0\r\n",
    lambda _: b"NATS/1.0 \xff\xfe\xfd\r\n\r\n",
    lambda rng: b"NATS/1.0 %d %b\r\n\r\n" % (rng.choice((100, 404, 408, 409, 503, 999999)), CANARY.encode()),
    lambda _: b"NATS/1.0 503\r\n\r\n",
    lambda _: b"NATS/1.0\r\n\xff\xff: \xfe\r\n\r\n",
    lambda _: b"NATS/1.0\r\nno colon\r\n\r\n",
    lambda _: b"NATS/1.0\r\n: nothing\r\n\r\n",
    lambda _: b"NATS/1.0\r\n" + b"A: b\r\n" * 3000 + b"\r\n",
    lambda _: b"NATS/1.0\r\nA: " + b"b" * 60_000 + b"\r\n\r\n",
    lambda rng: rng.randbytes(rng.randrange(1, 200)),
    lambda _: b"\x00" * 9,
)


# -- bodies -------------------------------------------------------------------------------------------------


def _structs() -> dict[str, Any]:
    modules = [
        importlib.import_module(m.name) for m in pkgutil.iter_modules(sollol_schemas.__path__, "sollol_schemas.")
    ]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }


_STRUCTS: Final = _structs()
_CONTROLS: Final = tuple(name for name in sorted(_STRUCTS) if name.startswith(("Control", "Attempt", "Fleet")))
_BODIES: Final[tuple[Callable[[random.Random], bytes], ...]] = (
    lambda _: b"",
    lambda _: b"{}",
    lambda _: b"null",
    lambda _: b"[]",
    lambda rng: rng.randbytes(rng.randrange(1, 400)),
    lambda _: b"[" * 50_000,
    lambda _: b'{"a":' * 20_000,
    lambda _: b'{"model":NaN,"prompt":Infinity}',
    lambda _: b'{"model":"m","prompt":"\\ud800"}',
    lambda _: b'"' + CANARY.encode() * 10_000 + b'"',
    lambda rng: msgspec.json.encode({"model": rng.choice(_VALUES), "prompt": CANARY, "options": rng.choice(_VALUES)}),
    lambda rng: msgspec.json.encode({"model": "m", "messages": rng.choice(_VALUES), "stream": rng.choice(_VALUES)}),
    lambda _: b"\x1f\x8b" + bytes(200_000),
)


def _body(rng: random.Random, row: Subject | None) -> bytes:
    kind = _STRUCTS.get(_payload(rng, row))
    if kind is None or rng.random() < 0.4:
        return rng.choice(_BODIES)(rng)
    config = kind.__struct_config__
    fields = {name: rng.choice(_VALUES) for name in kind.__struct_encode_fields__ if rng.random() < 0.8}
    for name in ("node_id", "instance", "job_id", "request_id"):
        if name in fields and rng.random() < 0.7:
            fields[name] = "n1"
    if config.tag and rng.random() < 0.9:
        fields = {config.tag_field: config.tag, **fields}
    return msgspec.json.encode(fields)


def _payload(rng: random.Random, row: Subject | None) -> str:
    if row is None:
        return ""
    return rng.choice(_CONTROLS) if row is NODE_CONTROL or row.payload not in _STRUCTS else row.payload
