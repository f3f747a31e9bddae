"""One process per node id: asks dispatchers to keep the claim, who ask whoever holds it whether it lives.

A node may not ask under its own id itself: whatever is sent there may be answered to where it says, so the right to
send there would be the right to speak everywhere.
Window: a process that was cut off or suspended while another took its id finds out at its next look, within seconds,
and stops; until then it is ignored, because nobody addresses its instance.
"""

from __future__ import annotations

import logging
from typing import Final

from sollol_bus.errors import BusError, ConfigError
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import subjects
from sollol_schemas.control import ClaimReply, ClaimRequest
from sollol_schemas.stores import NodeClaim

log = logging.getLogger(__name__)

_ANSWER_S: Final = 7.0
"""Longer than a dispatcher asks the store."""


class Claim:
    """This process's claim of its node id.

    Args:
        bus: The connection.
        owner: Who claims.
    """

    def __init__(self, bus: Bus, owner: NodeClaim) -> None:
        self._bus = bus
        self._owner = owner
        self.revision = 0
        """Of our claim; 0 until there is one."""

    async def make(self, *, is_starting: bool = False) -> bool:
        """Claims the id, or makes sure that it is still ours; False when nobody keeps it (yet).

        Args:
            is_starting: Whether this process does not listen under the id yet.

        Raises:
            ConfigError: A living process owns the id.
        """
        asked = ClaimRequest(claim=self._owner, is_starting=is_starting)
        subject = subjects.NODE_CLAIM.of(self._owner.node_id)
        try:
            reply = decode((await self._bus.request(subject, encode(asked), timeout_s=_ANSWER_S)).data, ClaimReply)
        except BusError as error:
            log.debug("claim of %s: %s", self._owner.node_id, error)
            return False
        if reply.owner is not None:
            raise ConfigError(_taken(self._owner.node_id, reply.owner))
        if reply.revision and reply.revision != self.revision:
            self.revision = reply.revision
            extra = {"action": "node_claimed", "revision": reply.revision}
            log.info("claimed node id %s", self._owner.node_id, extra=extra)
        return reply.revision > 0


def _taken(node_id: str, other: NodeClaim) -> str:
    where = f" on {other.host}" if other.host else ""
    return (
        f"node_id={node_id!r} is taken: a living process{where} (instance {other.instance}) answers under it. "
        "Give this node another id with --id, or stop the other process."
    )
