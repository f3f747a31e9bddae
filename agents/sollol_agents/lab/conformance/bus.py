"""The bus on which an agent is held to the protocol: it has the rights of a member there, and can be cut off."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec

from sollol_agents.lab.link import Link
from sollol_bus.server.config import LOG_NAME
from sollol_bus.server.rights import permissions
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import encode
from sollol_schemas.subjects import Role

_NAME: Final = "sollol-node-check"
_REFUSED: Final = re.compile(r'user:node" - (Publish|Subscription) Violation - Subject "([^"]*)"')


class PlayedBus(msgspec.Struct, frozen=True, kw_only=True):
    """A NATS server for one run."""

    bus: Bus
    """The connection of whoever plays the fleet."""
    url: str
    """Where the agent connects; it shows no credentials."""
    cut: Callable[[], None] | None = None
    """Breaks the agent's connections; None: nobody here can."""
    refused: Callable[[], list[str]] = list
    """What the server did not let the agent say or hear, but for answers to callers."""


@contextlib.asynccontextmanager
async def played_bus(folder: Path) -> AsyncIterator[PlayedBus]:
    """A server of our own with its files there; whoever comes without credentials has a node's rights."""
    password = secrets.token_hex(16)
    async with contextlib.AsyncExitStack() as floor:
        config = EmbeddedServerConfig(port=0, store_dir=str(folder), extra_config=_users(password))
        server = await floor.enter_async_context(EmbeddedServer(config))
        link = await floor.enter_async_context(Link(server.url))
        bus = await Bus.connect(BusConfig(url=server.url, name=_NAME, user="check", password=password))
        floor.push_async_callback(bus.close)
        yield PlayedBus(bus=bus, url=link.url, cut=link.cut, refused=lambda: _refusals_in(folder / LOG_NAME))


@contextlib.asynccontextmanager
async def bus_of(url: str) -> AsyncIterator[PlayedBus]:
    """A server that runs already."""
    bus = await Bus.connect(BusConfig(url=url, name=_NAME))
    try:
        yield PlayedBus(bus=bus, url=url)
    finally:
        await bus.close()


def _users(password: str) -> str:
    """The server's users: whoever checks, and a node of any name."""
    may = permissions(Role.NODE, "*")
    rights = {
        "publish": {"allow": may.publish},
        "subscribe": {"allow": may.subscribe},
        "allow_responses": {"max": -1, "expires": f"{may.answers_s:g}s"},
    }
    users = [{"user": "check", "password": password}, {"user": "node", "password": "", "permissions": rights}]
    return f"no_auth_user: node\nauthorization: {encode({'users': users}).decode()}"


def _refusals_in(log: Path) -> list[str]:
    found = _REFUSED.findall(log.read_text(encoding="utf-8", errors="replace"))
    return [
        f"{what.lower()} {subject}" for what, subject in found if what != "Publish" or not subject.startswith("_INBOX")
    ]
