"""API keys: kept as hashes in one entry of the settings bucket, shown once when they are made."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Final

from sollol_bus.errors import BadRequest, Conflict
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.streams import bucket_spec, provision
from sollol_bus.transport.acting import tell_act
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_bus.trust.callers import gone, named
from sollol_bus.trust.standings import StandingStore
from sollol_schemas import stores
from sollol_schemas.callers import name_of_key
from sollol_schemas.keys import ApiKey, KeyRing

_PREFIX: Final = "sk-sollol-"
_NAME_MAX: Final = 64
_KEYS_MAX: Final = 10_000
_WRITES: Final = 20


def hashed(secret: str) -> str:
    """What is kept of a secret: it is random and long, so that one round of SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyStore:
    """The keys in the settings bucket; every method raises a `BusError` when the bucket cannot be reached."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, stores.SETTINGS_BUCKET)
        self.standings = StandingStore(bus)
        """Teams and ceilings of the keys, and of everybody else."""

    async def prepare(self) -> None:
        """Makes the bucket when it is not there."""
        await provision(self._bus, streams=(bucket_spec(stores.SETTINGS_BUCKET),))

    async def load(self) -> KeyRing:
        """Every key."""
        return (await self._bucket.get(stores.API_KEYS)).decode(KeyRing) or KeyRing(keys=())

    def follow(self) -> AsyncIterator[KeyRing | None]:
        """Every key, now and whenever they changed."""
        return self._bucket.follow(stores.API_KEYS, KeyRing)

    async def create(
        self,
        name: str,
        *,
        is_admin: bool = False,
        **standing: object,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which is kept nowhere; `standing` are fields of `Standing`: team and ceilings.

        Raises:
            BadRequest: The name is empty or too long, there are too many keys, or a ceiling is out of its range.
        """
        if not name or len(name) > _NAME_MAX or not name.isprintable():
            raise BadRequest(f"a key's name has 1 to {_NAME_MAX} printable characters, not {name[:80]!r}")
        secret = _PREFIX + secrets.token_urlsafe(32)
        digest = hashed(secret)
        created_at = self._bus.clock.instant()
        key = ApiKey(key_id=digest[:12], name=name, secret_sha256=digest, created_at=created_at, is_admin=is_admin)
        await self.standings.change(named(name_of_key(key.key_id), title=name, **standing))
        await self._change(lambda ring: KeyRing(keys=(*ring.keys, key)))
        details = {"name": name, "admin": "yes" if is_admin else "", **standing}
        tell_act(self._bus, "keys.create", name_of_key(key.key_id), details)
        return key, secret

    async def revoke(self, key_id: str) -> ApiKey:
        """Removes a key, by its id or its name; gateways refuse it within a moment.

        Raises:
            BadRequest: There is no such key, or the name is that of several.
        """
        found: list[ApiKey] = []

        def without(ring: KeyRing) -> KeyRing:
            found[:] = [key for key in ring.keys if key_id in (key.key_id, key.name)]
            if len(found) != 1:
                raise BadRequest(f"{len(found) or 'no'} keys are called {key_id!r}; `sollol keys list` shows their ids")
            return KeyRing(keys=tuple(key for key in ring.keys if key is not found[0]))

        await self._change(without)
        await self.standings.change(gone(name_of_key(found[0].key_id)))
        tell_act(self._bus, "keys.revoke", name_of_key(found[0].key_id), {"name": found[0].name})
        return found[0]

    async def _change(self, change: Callable[[KeyRing], KeyRing]) -> None:
        await self.prepare()
        for _ in range(_WRITES):
            entry = await self._bucket.get(stores.API_KEYS)
            ring = change(entry.decode(KeyRing) or KeyRing(keys=()))
            if len(ring.keys) > _KEYS_MAX:
                raise BadRequest(f"there are {_KEYS_MAX} keys already; revoke some")
            if await self._bucket.update(stores.API_KEYS, encode(ring), entry.revision) is not None:
                return
        raise Conflict("others change the keys all the time; try again")
