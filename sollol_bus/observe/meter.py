"""What an actor tells about its work to whoever counts it. Nobody counts unless metrics are on."""

from __future__ import annotations

from typing import Protocol

from sollol_schemas.decision import DecisionEvent
from sollol_schemas.events import Outcome


class Meter(Protocol):
    """Counts; called on the event loop, must not wait."""

    def considered(self, seconds: float) -> None:
        """The scorer took so long over one question."""

    def decided(self, event: DecisionEvent) -> None:
        """A request got its node."""

    def ended(self, outcome: Outcome) -> None:
        """An attempt ended, and this actor reports it."""
