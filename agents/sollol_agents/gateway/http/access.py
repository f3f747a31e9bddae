"""Who may come in. How much of it is decided where requests of all gateways meet: by dispatchers and the scorer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from functools import partial
from typing import Final

from starlette.requests import Request

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.errors import Header
from sollol_agents.gateway.http.hosts import is_local
from sollol_agents.gateway.http.keys import KeyStore
from sollol_bus.errors import DecodeFailed, Unauthorized, error_from
from sollol_bus.jetstream.streams import patiently
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.trust.callers import Roster, adopted, lacks
from sollol_bus.trust.standings import StandingStore, follow_roster
from sollol_schemas.callers import HIGHEST, name_of_key
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.keys import ApiKey, KeyRing

log = logging.getLogger(__name__)

NOBODY: Final = "nobody"
"""Owner of what was made without a key; no key's id has such letters."""
_OPEN_PATHS: Final = frozenset({"/", "/healthz", "/readyz"})


class Guest:
    """Who makes a request."""

    __slots__ = ("_key", "is_admin", "max_priority")

    def __init__(self, key: ApiKey | None, *, is_admin: bool, max_priority: int = HIGHEST) -> None:
        self._key = key
        self.is_admin = is_admin
        self.max_priority = max_priority
        """The highest priority that its jobs and batches may have; dispatchers see to that of requests."""

    @property
    def key_id(self) -> str:
        """The id of the key that it came with; empty without one."""
        return self._key.key_id if self._key is not None else ""

    @property
    def caller(self) -> str:
        """What it is called on the bus; empty without a key."""
        return name_of_key(self.key_id) if self._key is not None else ""

    @property
    def owner(self) -> str:
        """Whose its files and batches are: the key's id, one and the same for all who come without a key."""
        return self.key_id or NOBODY


class Access(Part):
    """Knows the keys, and keeps up with their changes.

    Where only this machine can come in, and no key is asked for, whoever does is an administrator.

    Args:
        bus: The gateway's connection.
        config: Settings.
        spawn: Runs a coroutine as a task of the gateway.
    """

    def __init__(self, bus: Bus, config: GatewayConfig, spawn: Spawn) -> None:
        self._bus = bus
        self._store = KeyStore(bus)
        self._config = config
        self._spawn = spawn
        self._anonymous = Guest(None, is_admin=is_local(config) and not config.require_key)
        self._keys: dict[str, ApiKey] = {}
        """By the digest of their secrets."""
        self._roster = Roster()

    @property
    def roster(self) -> Roster:
        """The callers, as they are known now."""
        return self._roster

    async def start(self) -> None:
        """Reads the keys and listens for changes.

        Raises:
            SollolError: The bucket cannot be reached.
        """
        await self._store.prepare()
        try:
            ring = await patiently(self._store.load)
            self._know(ring)
            await patiently(partial(self._move_ceilings, ring))
        except DecodeFailed as error:
            log.error("no API key is known: %s; see `sollol doctor`", error, extra={"action": "keys_unreadable"})  # noqa: TRY400
        self._spawn(self._follow(), name="keys")
        self._spawn(follow_roster(self._bus, self._know_roster), name="callers")
        if not is_local(self._config) and not self._config.require_key:
            log.warning(
                "anybody who reaches %s may use this gateway: set require_key to ask for API keys",
                self._config.host,
                extra={"action": "gateway_open"},
            )

    async def _follow(self) -> None:
        async for ring in self._store.follow():
            self._know(ring or KeyRing(keys=()))

    async def _move_ceilings(self, ring: KeyRing) -> None:
        """What older versions kept with the keys goes to where everybody looks who decides."""
        store = StandingStore(self._bus)
        standings = await store.load()
        if lacks(standings, ring.keys):
            standings = await store.change(adopted(ring.keys))
        self._know_roster(Roster(standings))

    def _know(self, ring: KeyRing) -> None:
        self._keys = {key.secret_sha256: key for key in ring.keys}

    def _know_roster(self, roster: Roster) -> None:
        self._roster = roster

    def guest(self, headers: Iterable[Header], path: str) -> Guest:
        """Who makes a request.

        Raises:
            Unauthorized: A key is needed, and the one given is not known.
        """
        token = token_in(headers) if self._keys or self._config.require_key else b""
        if token:
            key = self._keys.get(hashlib.sha256(token).hexdigest())
            if key is not None:
                highest = self._roster.of(name_of_key(key.key_id)).max_priority
                return Guest(key, is_admin=key.is_admin, max_priority=highest)
        if self._config.require_key and path not in _OPEN_PATHS:
            raise Unauthorized("unknown API key" if token else "an API key is needed: Authorization: Bearer KEY")
        return self._anonymous


def token_in(headers: Iterable[Header]) -> bytes:
    """The key in a request's headers, as Ollama's and OpenAI's clients send it or as Anthropic's do; empty: none."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            return value.strip()
    return b""


def guest_of(request: Request) -> Guest:
    """Who makes a request that was let in."""
    guest: Guest = request.scope["state"]["guest"]
    return guest


def require_admin(guest: Guest) -> None:
    """Returns when a guest may change models.

    Raises:
        SollolError: It may not.
    """
    if not guest.is_admin:
        message = "managing models needs an administrator's key: `sollol keys create NAME --admin`"
        raise error_from(ErrorBody(code=ErrorCode.FORBIDDEN, message=message))
