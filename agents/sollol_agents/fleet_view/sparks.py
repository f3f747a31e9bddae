"""Short histories for small curves: a few figures of the fleet and the speed of each node, every five seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from sollol_agents.fleet_view.node_rows import NodeRow

STEP_S: Final = 5
KEPT: Final = 48
"""Four minutes."""


class Sparks(msgspec.Struct, frozen=True):
    """Everything that a page needs to draw the curves; the last value of each is the latest."""

    at: int
    """When the latest were taken, in seconds since 1970."""
    fleet: dict[str, list[float]]
    nodes: dict[str, list[float]] = {}
    """Tokens a second by node."""


class History:
    """The last `KEPT` values of each curve."""

    def __init__(self) -> None:
        self.version = 0
        """When a value was added last."""
        self._at = 0
        self._fleet: dict[str, deque[float]] = {}
        self._nodes: dict[str, deque[float]] = {}

    def add(self, at: float, fleet: dict[str, float], rows: Iterable[NodeRow], version: int) -> None:
        """Takes the values at `at`, unless those of the same five seconds are known."""
        slot = int(at // STEP_S) * STEP_S
        if slot <= self._at:
            return
        self._at, self.version = slot, version
        for name, value in fleet.items():
            self._fleet.setdefault(name, deque(maxlen=KEPT)).append(round(value, 1))
        speeds = {row.id: round(row.tps) for row in rows}
        self._nodes = {
            node_id: self._nodes.get(node_id, deque(maxlen=KEPT)) for node_id in speeds
        }  # those that went take their curves with them
        for node_id, speed in speeds.items():
            self._nodes[node_id].append(speed)

    def view(self, *, has_nodes: bool) -> Sparks:
        """The curves; those of the nodes only where they are shown."""
        nodes = {node_id: list(values) for node_id, values in self._nodes.items()} if has_nodes else {}
        return Sparks(self._at, {name: list(values) for name, values in self._fleet.items()}, nodes)
