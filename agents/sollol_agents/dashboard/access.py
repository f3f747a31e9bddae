"""Who may come in: hosts and origins that are allowed, API keys, and the sessions that a login makes.

A page of some other site, open in the same browser, must neither read nor steer the fleet. So the host that a request
names must be one of ours, which defeats DNS names that lead to this machine, and a request with an `Origin` must come
from that very host, which covers the page's socket too.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
from collections import OrderedDict
from typing import Final

import msgspec

from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.transport.connection import Bus
from sollol_schemas import stores
from sollol_schemas.callers import name_of_key
from sollol_schemas.keys import ApiKey, KeyRing

log = logging.getLogger(__name__)

COOKIE: Final = "sollol_session"
_SESSION_S: Final = 12 * 3600.0
"""How long a login lasts."""
_MAX_SESSIONS: Final = 1000
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Session(msgspec.Struct, frozen=True):
    """Somebody who logged in."""

    secret_sha256: str
    ends_at: float
    """Monotonic seconds."""


class Person(msgspec.Struct, frozen=True):
    """Who sits at a page."""

    name: str
    may_operate: bool
    owner: str = ""
    """Whose jobs are this person's; empty: nobody's."""


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(authority: str) -> str:
    """The host of a `Host` header, without its port."""
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0].lower()


def is_host_allowed(authority: str, allowed: tuple[str, ...]) -> bool:
    """Whether a request may name this host: loopback, any address, or a configured name."""
    host = host_of(authority)
    if host in _LOOPBACK or "*" in allowed or host in {name.lower() for name in allowed}:
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_same_origin(origin: str, authority: str) -> bool:
    """Whether a request's `Origin` is the site that it is sent to; no `Origin` is no browser's script."""
    return not origin or origin.partition("://")[2].lower() == authority.lower()


class Sessions:
    """Logins, in memory: a restart ends them all.

    Args:
        require_key: Whether a login is needed at all.
        is_local: Whether only this machine can come in: then whoever does may operate when no login is needed.
    """

    def __init__(self, *, require_key: bool, is_local: bool) -> None:
        self._require_key = require_key
        self._anonymous = None if require_key else Person("", may_operate=is_local)
        self._keys: dict[str, ApiKey] = {}
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    @property
    def is_login_needed(self) -> bool:
        """Whether nobody comes in without a key."""
        return self._require_key

    def know(self, keys: tuple[ApiKey, ...]) -> None:
        """The keys as they are now; sessions of others end."""
        self._keys = {key.secret_sha256: key for key in keys}

    def log_in(self, secret: str, now: float) -> str:
        """The id of a new session, or nothing when the key is not known."""
        digest = hashlib.sha256(secret.strip().encode()).hexdigest()
        if digest not in self._keys:
            return ""
        session_id = secrets.token_urlsafe(32)
        self._sessions[session_id] = Session(digest, now + _SESSION_S)
        while len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return session_id

    def log_out(self, session_id: str) -> None:
        """Ends a session."""
        self._sessions.pop(session_id, None)

    def person(self, session_id: str, now: float) -> Person | None:
        """Who comes with this session, or None when a login is needed."""
        if self._anonymous is not None:
            return self._anonymous
        session = self._sessions.get(session_id)
        if session is None:
            return None
        key = self._keys.get(session.secret_sha256)
        if key is None or now >= session.ends_at:
            del self._sessions[session_id]
            return None
        return Person(key.name, may_operate=key.is_admin, owner=name_of_key(key.key_id))


async def follow_keys(bus: Bus, sessions: Sessions) -> None:
    """Lets the sessions know the API keys, now and whenever they have changed, until it is cancelled."""
    async for ring in Bucket(bus, stores.SETTINGS_BUCKET).follow(stores.API_KEYS, KeyRing):
        sessions.know((ring or KeyRing(keys=())).keys)
