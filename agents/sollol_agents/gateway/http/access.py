"""Who may come in, and how much of it. The ceilings of a key hold in each gateway for itself."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable
from typing import Final

from starlette.requests import Request

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.errors import Header
from sollol_agents.gateway.http.hosts import is_local
from sollol_agents.gateway.http.keys import KeyStore
from sollol_bus.errors import DecodeFailed, QueueFull, Unauthorized, error_from
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.connection import Bus
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.keys import ApiKey, KeyRing

log = logging.getLogger(__name__)

NOBODY: Final = "nobody"
"""Owner of what was made without a key; no key's id has such letters."""
_OPEN_PATHS: Final = frozenset({"/", "/healthz", "/readyz"})


class Ceiling:
    """The ceilings of one key: a bucket of requests that refills with time, and a count of those that are open."""

    __slots__ = ("_at", "_left", "key", "open")

    def __init__(self, key: ApiKey, now: float) -> None:
        self.key = key
        self.open = 0
        self._left = self._size
        self._at = now

    @property
    def _size(self) -> float:
        return max(1.0, self.key.requests_per_minute)

    def take(self, now: float) -> ErrorBody | None:
        """Counts a request in, or says why it may not come in now; a burst may use a whole minute's share."""
        key = self.key
        if key.max_concurrent and self.open >= key.max_concurrent:
            message = f"the key {key.name!r} may have {key.max_concurrent} requests open at a time"
            return ErrorBody(code=ErrorCode.QUEUE_FULL, message=message, details={"retry_after_s": 1})
        if key.requests_per_minute:
            rate = key.requests_per_minute / 60.0
            self._left = min(self._size, self._left + max(0.0, now - self._at) * rate)
            self._at = now
            if self._left < 1.0:
                message = f"the key {key.name!r} may make {key.requests_per_minute:g} requests per minute"
                wait_s = (1.0 - self._left) / rate
                return ErrorBody(code=ErrorCode.QUEUE_FULL, message=message, details={"retry_after_s": wait_s})
            self._left -= 1.0
        self.open += 1
        return None

    def give_back(self) -> None:
        """A request is over."""
        self.open -= 1


class Guest:
    """Who makes a request."""

    __slots__ = ("_ceiling", "is_admin")

    def __init__(self, ceiling: Ceiling | None, *, is_admin: bool) -> None:
        self._ceiling = ceiling
        self.is_admin = is_admin

    @property
    def key_id(self) -> str:
        """The id of the key that it came with; empty without one."""
        return self._ceiling.key.key_id if self._ceiling is not None else ""

    @property
    def owner(self) -> str:
        """Whose its files and batches are: the key's id, one and the same for all who come without a key."""
        return self.key_id or NOBODY

    @property
    def max_priority(self) -> int:
        """The highest priority that its requests may have."""
        return self._ceiling.key.max_priority if self._ceiling is not None else 10

    def enter(self) -> None:
        """Counts a request in; to be undone by `leave`.

        Raises:
            QueueFull: A ceiling is reached.
        """
        if self._ceiling is not None:
            refused = self._ceiling.take(time.monotonic())
            if refused is not None:
                raise QueueFull(body=refused)

    def leave(self) -> None:
        """The request is over."""
        if self._ceiling is not None:
            self._ceiling.give_back()


class Access(Part):
    """Knows the keys, and keeps up with their changes.

    Where only this machine can come in, and no key is asked for, whoever does is an administrator.

    Args:
        bus: The gateway's connection.
        config: Settings.
        spawn: Runs a coroutine as a task of the gateway.
    """

    def __init__(self, bus: Bus, config: GatewayConfig, spawn: Spawn) -> None:
        self._store = KeyStore(bus)
        self._config = config
        self._spawn = spawn
        self._anonymous = Guest(None, is_admin=is_local(config) and not config.require_key)
        self._ceilings: dict[str, Ceiling] = {}

    async def start(self) -> None:
        """Reads the keys and listens for changes.

        Raises:
            SollolError: The bucket cannot be reached.
        """
        await self._store.prepare()
        try:
            self._know(await self._store.load())
        except DecodeFailed as error:
            log.error("no API key is known: %s; see `sollol doctor`", error, extra={"action": "keys_unreadable"})  # noqa: TRY400
        self._spawn(self._follow(), name="keys")
        if not is_local(self._config) and not self._config.require_key:
            log.warning(
                "anybody who reaches %s may use this gateway: set require_key to ask for API keys",
                self._config.host,
                extra={"action": "gateway_open"},
            )

    async def _follow(self) -> None:
        async for ring in self._store.follow():
            self._know(ring or KeyRing(keys=()))

    def _know(self, ring: KeyRing) -> None:
        known, now = self._ceilings, time.monotonic()
        self._ceilings = {}
        for key in ring.keys:
            kept = known.get(key.secret_sha256)
            self._ceilings[key.secret_sha256] = kept if kept is not None and kept.key == key else Ceiling(key, now)

    def guest(self, headers: Iterable[Header], path: str) -> Guest:
        """Who makes a request.

        Raises:
            Unauthorized: A key is needed, and the one given is not known.
        """
        token = token_in(headers) if self._ceilings or self._config.require_key else b""
        if token:
            ceiling = self._ceilings.get(hashlib.sha256(token).hexdigest())
            if ceiling is not None:
                return Guest(ceiling, is_admin=ceiling.key.is_admin)
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
