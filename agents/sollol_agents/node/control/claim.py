"""One process per node id.

Safety: the claim is a compare-and-set on the key `node.<id>`; its revision travels in telemetry, and the scorer
follows the highest, so of two processes that believe to own an id only the later one gets work.
Liveness: the id of a process that died is free at once, because a claim does not ask the one before.
Window: a process that was cut off or suspended while another took its id finds out at its next look, within seconds,
and stops; until then it is ignored, because nobody addresses its instance.
"""

from __future__ import annotations

import asyncio
import logging

from sollol_bus.errors import BusError, ConfigError, DecodeFailed, NoResponders, RequestTimedOut
from sollol_bus.jetstream.api import JetStreamRefused
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import stores, subjects
from sollol_schemas.control import ControlPing, ControlReply
from sollol_schemas.stores import NodeClaim

log = logging.getLogger(__name__)

_PROBE_S = 1.0
_GATHER_S = 0.3
_PING = encode(ControlPing())


async def require_free(bus: Bus, node_id: str) -> None:
    """Returns when no process answers under this id.

    Raises:
        ConfigError: One does.
    """
    try:
        reply = await bus.request(subjects.NODE_CONTROL.of(node_id), _PING, timeout_s=_PROBE_S)
    except NoResponders:
        return
    except RequestTimedOut:
        log.warning(
            "another process listens as %s but does not answer; taking over",
            node_id,
            extra={"action": "node_taken_over", "node_id": node_id},
        )
        return
    raise ConfigError(_taken(node_id, _told_in(reply)))


class Claim:
    """This process's claim of its node id.

    Args:
        bus: The connection.
        owner: Who claims.
    """

    def __init__(self, bus: Bus, owner: NodeClaim) -> None:
        self._bus = bus
        self._owner = owner
        self._key = f"node.{owner.node_id}"
        self._bucket = Bucket(bus, stores.NODES_BUCKET)
        self.revision = 0
        """Of our claim; 0 until there is one."""

    async def make(self) -> bool:
        """Claims the id, or makes sure that it is still ours; False when the bucket is not there (yet).

        Raises:
            ConfigError: A living process owns the id.
        """
        try:
            while not await self._once():
                pass
        except (BusError, JetStreamRefused) as error:
            log.debug("claim of %s: %s", self._owner.node_id, error)
            return False
        return True

    async def _once(self) -> bool:
        """One look and, where needed, one write; False when somebody else wrote in between."""
        entry = await self._bucket.get(self._key)
        present = self._decoded(entry.value)
        if present == self._owner and self.revision:
            return True
        if present is not None and present.instance != self._owner.instance and await self._answers(present.instance):
            raise ConfigError(_taken(self._owner.node_id, present))
        revision = await self._bucket.update(self._key, encode(self._owner), entry.revision)
        if revision is None:
            return False
        self.revision = revision
        log.info("claimed node id %s", self._owner.node_id, extra={"action": "node_claimed", "revision": revision})
        return True

    async def _answers(self, instance: str) -> bool:
        """Whether that instance answers on the node's control subject; ours may answer there too."""
        seen: set[str] = set()
        inbox = self._bus.reply_inbox(lambda reply: seen.add(_told_in(reply).instance))
        try:
            self._bus.publish(subjects.NODE_CONTROL.of(self._owner.node_id), _PING, reply=inbox.subject)
            await asyncio.sleep(_GATHER_S)
        finally:
            inbox.close()
        return instance in seen

    @staticmethod
    def _decoded(value: bytes | None) -> NodeClaim | None:
        if value is None:
            return None
        try:
            return decode(value, NodeClaim)
        except DecodeFailed:
            return None  # of another version; the claim replaces it


def _told_in(reply: Msg | BusError) -> NodeClaim:
    """Who answered, as far as it told."""
    nobody = NodeClaim(node_id="unknown", instance="unknown", host="")
    if isinstance(reply, BusError):
        return nobody
    try:
        told = decode(reply.data, ControlReply)
    except DecodeFailed:
        return nobody
    return NodeClaim(node_id=told.node_id, instance=told.instance, host=told.host)


def _taken(node_id: str, other: NodeClaim) -> str:
    where = f" on {other.host}" if other.host else ""
    return (
        f"node_id={node_id!r} is taken: a living process{where} (instance {other.instance}) answers under it. "
        "Give this node another id with --id, or stop the other process."
    )
