"""Leave to speak into one inbox, which the server gives a node that receives a message with that reply subject.

Whoever stole a node's credentials can say nothing to anybody who did not ask it. The right ends with the node's
connection and after `LEAVE_S`, and then any dispatcher gives it anew to whoever shows the ticket that came with the
exec: the dispatcher that sent it may be gone. A ticket is an authentication code over node, inbox and end, made with a
secret that dispatchers share through the store. Until that is known, or while the store is away, each has its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from functools import lru_cache
from typing import Final

from sollol_bus.errors import BusError
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.leave import give
from sollol_bus.transport.messages import Msg, decoded, encode
from sollol_schemas import stores, subjects
from sollol_schemas.control import LeaveReply, LeaveRequest
from sollol_schemas.inboxes import is_client_inbox, is_node_inbox
from sollol_schemas.stores import LeaveSecret

log = logging.getLogger(__name__)

_LONGEST_S: Final = 30 * 86_400.0
_SAID_AGAIN_S: Final = 1200.0
"""A node says an end again for some time after the deadline of the request; clocks of machines differ, too."""


class Leaves(Part):
    """Gives nodes leave to speak.

    Args:
        bus: The dispatcher's connection.
        spawn: Runs a coroutine as a task of the actor.
    """

    def __init__(self, bus: Bus, spawn: Spawn) -> None:
        self._bus = bus
        self._spawn = spawn
        self._settings = Bucket(bus, stores.SETTINGS_BUCKET)
        self._own = secrets.token_hex(32)
        self._secrets: tuple[str, ...] = (self._own,)
        """Those that count; tickets are made with the first."""
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Answers nodes, and shares a secret with the other dispatchers."""
        self._bus.serve(subjects.LEAVE_WANTED.all, self._on_wanted, queue=subjects.DISPATCHERS)
        self._following = self._spawn(self._follow(), name="leaves")

    async def close(self) -> None:
        """Follows the secret no longer; nodes are answered as long as there is a connection."""
        if self._following is not None:
            self._following.cancel()

    def ticket(self, node_id: str, inbox: str, for_s: float) -> str:
        """What gets a node leave to speak into an inbox, again and again within `for_s` seconds and some."""
        until = f"{int(wall_s() + min(for_s, _LONGEST_S) + _SAID_AGAIN_S):x}"
        return f"{until}.{_code(self._secrets[0], until, node_id, inbox)}"

    def is_valid(self, ticket: str, node_id: str, inbox: str) -> bool:
        """Whether a dispatcher gave this ticket to this node for this inbox, and it has not ended."""
        until, _, code = ticket.partition(".")
        try:
            is_over = int(until, 16) < wall_s()
        except ValueError:
            return False
        codes = (_code(secret, until, node_id, inbox) for secret in self._secrets)
        return not is_over and any(hmac.compare_digest(code.encode(), made.encode()) for made in codes)

    def _on_wanted(self, msg: Msg) -> None:
        node_id = subjects.last_token(msg.subject)
        asked = decoded(msg, LeaveRequest) if is_node_inbox(msg.reply, node_id) else None
        if asked is None:
            return
        is_given = is_client_inbox(asked.inbox) and self.is_valid(asked.ticket, node_id, asked.inbox)
        if is_given:
            give(self._bus, node_id, asked.inbox)
        else:
            extra = {"action": "leave_refused", "node_id": node_id}
            log.warning("%s may not speak where it wants to", node_id, extra=extra)
        self._bus.respond(msg, LeaveReply(is_given=is_given))  # behind the leave, on one connection

    async def _follow(self) -> None:
        async for kept in self._settings.follow(stores.LEAVES, LeaveSecret):
            if kept is not None:
                self._secrets = tuple(dict.fromkeys((kept.leave_secret, *self._secrets)))[:4]
                continue
            try:
                await self._settings.create(stores.LEAVES, encode(LeaveSecret(leave_secret=self._own)))
            except BusError as error:
                log.debug("the secret of leaves is not kept: %s", error)


def _code(secret: str, until: str, node_id: str, inbox: str) -> str:
    """Ids and inboxes have no spaces, so no two of these are alike."""
    code = _keyed(secret).copy()
    code.update(f"{until} {node_id} {inbox}".encode())
    return code.hexdigest()


@lru_cache(maxsize=8)
def _keyed(secret: str) -> hashlib.blake2b:
    return hashlib.blake2b(key=secret.encode()[:64], digest_size=16)
