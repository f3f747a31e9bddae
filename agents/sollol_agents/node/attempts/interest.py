"""Whether anybody still waits for an answer while its engine works; the server is asked, and nobody hears it.

A message that the server shall trace and not deliver (`Nats-Trace-Only`, NATS 2.11) reaches nobody, and is yet answered
with 503 where nobody listens. What is said to a caller asks the same by itself, so this looks into silences alone. A
client library that listens for all its replies on one subscription is there however many callers gave up: for them a
deadline must do.
"""

from __future__ import annotations

import time
from typing import Final

from sollol_agents.node.attempts.speaker import Speaker
from sollol_bus.alarms import Stoppable
from sollol_bus.transport.connection import Bus
from sollol_schemas import subjects
from sollol_schemas.headers import TRACE_DEST, TRACE_ONLY

LOOK: Final = "look"
"""Last token of the reply subject; the answers to what was said end with a number."""
_FIRST_S: Final = 0.25  # what is quicker need not be looked into
_EVERY_S: Final = 1.0
_SINCE: Final = (2, 11)


class Interest:
    """Looks whether the caller of one attempt is still there; costs a timer a second.

    Args:
        bus: The node's connection.
        speaker: The way to the caller.
        node_id: The node.
    """

    __slots__ = ("_bus", "_node_id", "_said", "_speaker", "_timer")

    def __init__(self, bus: Bus, speaker: Speaker, node_id: str) -> None:
        self._bus = bus
        self._speaker = speaker
        self._said = 0
        self._node_id = node_id
        self._timer: Stoppable | None = None

    def watch(self) -> None:
        """Looks from now on, until it is closed."""
        self._timer = self._bus.alarms.after(_FIRST_S, self._look)

    def close(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        speaker = self._speaker
        if speaker.messages == self._said and self._may_ask():
            nowhere = subjects.ATTEMPT.of(self._node_id, "traced")  # nobody listens there
            headers = {TRACE_DEST: nowhere, TRACE_ONLY: "1"}
            self._bus.publish(speaker.leave.inbox, reply=f"{speaker.probe}.{LOOK}", headers=headers)
        self._said = speaker.messages
        self._timer = self._bus.alarms.after(_EVERY_S, self._look)

    def _may_ask(self) -> bool:
        """Whether the server would answer truly, and not hand the question to the caller."""
        bus = self._bus
        if not bus.is_connected or bus.is_settling or self._speaker.leave.is_ending(time.monotonic()):
            return False
        version = bus.nats.connected_server_version
        return (version.major, version.minor) >= _SINCE
