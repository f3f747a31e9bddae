"""What dispatchers keep for nodes, played: claims of ids, and leave to speak."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sollol_bus.errors import DecodeFailed
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, decoded
from sollol_schemas import subjects
from sollol_schemas.control import ClaimReply, ClaimRequest, LeaveReply, LeaveRequest
from sollol_schemas.stores import NodeClaim

REVISION: Final = 41


class PlayedKeeping:
    """Answers claims and questions for leave.

    Args:
        bus: The connection.
        is_own: Whether this is the node under test.
        on_trouble: Told of what is no claim as the contract has it.
    """

    def __init__(self, bus: Bus, is_own: Callable[[str], bool], on_trouble: Callable[[str], None]) -> None:
        self.claims: list[tuple[Msg, ClaimRequest | None]] = []
        self.claimed_at: list[float] = []
        """When they came (monotonic seconds)."""
        self.leaves: list[LeaveRequest] = []
        """What was asked for."""
        self.owner: NodeClaim | None = None
        """Another process that has the id, as every claim is answered from now on."""
        self._bus = bus
        self._is_own = is_own
        self._on_trouble = on_trouble
        self._tickets: dict[str, str] = {}
        bus.subscribe(subjects.NODE_CLAIM.all, self._on_claim)
        bus.subscribe(subjects.LEAVE_WANTED.all, self._on_leave)

    def give(self, node_id: str, inbox: str, ticket: str) -> None:
        """Gives leave to speak there, and gives it anew to whoever shows the ticket."""
        self._tickets[inbox] = ticket
        self._bus.publish(subjects.NODE_LEAVE.of(node_id), reply=inbox)

    def _on_claim(self, msg: Msg) -> None:
        """The first one meets nobody who keeps it."""
        if not self._is_own(subjects.last_token(msg.subject)):
            return
        self.claimed_at.append(time.monotonic())
        try:
            self.claims.append((msg, decode(msg.data, ClaimRequest)))
        except DecodeFailed as error:
            self.claims.append((msg, None))
            self._on_trouble(f"{msg.subject}: {error}")
        is_first = len(self.claims) == 1
        self._bus.respond(msg, ClaimReply(revision=0 if is_first or self.owner else REVISION, owner=self.owner))

    def _on_leave(self, msg: Msg) -> None:
        node_id = subjects.last_token(msg.subject)
        asked = decoded(msg, LeaveRequest)
        if asked is None or not self._is_own(node_id):
            return
        self.leaves.append(asked)
        is_given = self._tickets.get(asked.inbox) == asked.ticket
        if is_given:
            self.give(node_id, asked.inbox, asked.ticket)
        self._bus.respond(msg, LeaveReply(is_given=is_given))
