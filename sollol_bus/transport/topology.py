"""Where a connection's server stands among others, as the servers themselves tell."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from urllib.parse import urlsplit

import msgspec

from sollol_bus.transport.connection import Bus

_INFO: Final = b"INFO "
_LINE_BYTES: Final = 1 << 16
_PORT: Final = 4222


class ServerTold(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a nats-server to whoever connects."""

    server_id: str = ""
    server_name: str = ""
    version: str = ""
    cluster: str = ""
    connect_urls: tuple[str, ...] = ()
    leaving: bool = msgspec.field(default=False, name="ldm")
    """It is in lame duck mode: it sends its clients to others, and ends."""
    place: str = ""
    """Where it was asked: host and port."""


def is_lone(bus: Bus) -> bool:
    """Whether the server is in no cluster and no domain and has a store of its own: it alone serves everybody."""
    told = bus.nats._server_info  # noqa: SLF001 the client library tells it nowhere else
    return bool(told.get("jetstream")) and not told.get("cluster") and not told.get("domain")


def is_clustered(bus: Bus) -> bool:
    """Whether the server is one of a cluster."""
    return bool(bus.nats._server_info.get("cluster"))  # noqa: SLF001


async def servers_around(bus: Bus, *, within_s: float = 2.0) -> tuple[list[ServerTold], list[str]]:
    """Every server that the connection knows, by its name, and the addresses at which none answered.

    A server says its first line to anybody, before it asks who that is: no credentials are sent.
    """
    own = msgspec.convert(bus.nats._server_info, ServerTold, strict=False)  # noqa: SLF001
    found, silent, asked = {own.server_id: own}, [], set[str]()
    addresses = [*bus.config.url.split(","), *own.connect_urls]
    while ahead := [one for one in dict.fromkeys(map(_place, addresses)) if one and one not in asked]:
        asked.update(ahead)
        for address, told in zip(ahead, await asyncio.gather(*(_ask(one, within_s) for one in ahead)), strict=True):
            if told is None:
                silent.append(address)
            elif told.server_id not in found or told.server_id == own.server_id:
                found[told.server_id] = msgspec.structs.replace(told, place=address)
                addresses += told.connect_urls
    return sorted(found.values(), key=lambda one: one.server_name), silent


def _place(address: str) -> str:
    """Host and port of an address; empty for one that no server says its first line at."""
    parts = urlsplit(address if "://" in address else f"nats://{address}")
    host = parts.hostname or ""
    if parts.scheme not in ("nats", "tls") or not host:
        return ""
    return f"[{host}]:{parts.port or _PORT}" if ":" in host else f"{host}:{parts.port or _PORT}"


async def _ask(place: str, within_s: float) -> ServerTold | None:
    host, _, port = place.rpartition(":")
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=_LINE_BYTES)
            try:
                line = await reader.readuntil(b"\n")
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None
    try:
        return msgspec.json.decode(line.removeprefix(_INFO), type=ServerTold, strict=False)
    except msgspec.DecodeError:
        return None
