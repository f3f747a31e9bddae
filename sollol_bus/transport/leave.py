"""Leave to speak, as it is given to nodes; where something takes long it ends on the way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from sollol_bus.errors import NotConnected
from sollol_bus.transport.connection import Bus
from sollol_schemas import subjects

_SILENCE_S: Final = 5.0
"""More than twice as long as a node at work says nothing."""


def give(bus: Bus, node_id: str, inbox: str) -> None:
    """Lets a node speak into an inbox, as far as the server decides that.

    Raises:
        NotConnected: The connection is down.
    """
    bus.publish(subjects.NODE_LEAVE.of(node_id), reply=inbox)


def is_needed(bus: Bus) -> bool:
    """Whether the server of this connection asks who speaks, and so may keep it from speaking."""
    return bool(bus.nats._server_info.get("auth_required"))  # noqa: SLF001 the client library tells it nowhere else


class LeaveOnSilence:
    """Gives the leave again whenever nothing was heard for a while: it ended, or the node is on another connection.

    Args:
        bus: The connection.
        node_id: The node.
        inbox: Where it speaks.
        silence_s: For how long nothing must have been heard.
    """

    def __init__(self, bus: Bus, node_id: str, inbox: str, *, silence_s: float = _SILENCE_S) -> None:
        self._silence_s = silence_s
        self._bus = bus
        self._node_id = node_id
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(silence_s, self._look)

    def heard(self) -> None:
        """The node said something."""
        self._heard_at = self._loop.time()

    def close(self) -> None:
        """Nothing more is awaited; safe to call twice."""
        self._timer.cancel()

    def _look(self) -> None:
        silent_s = self._loop.time() - self._heard_at
        if silent_s >= self._silence_s:
            with suppress(NotConnected):  # it is given when the connection is back, if anybody still waits
                give(self._bus, self._node_id, self._inbox)
            silent_s = self._silence_s / 2
        self._timer = self._loop.call_later(max(0.1, self._silence_s - silent_s), self._look)
