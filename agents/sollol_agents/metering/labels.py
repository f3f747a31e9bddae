"""Nodes as labels of metrics: the number of series is bounded, whatever the fleet does."""

from __future__ import annotations

from typing import Final

MAX_NODES: Final = 256
OTHER: Final = "other"


class NodeLabels:
    """The first nodes by their ids; all beyond a limit are `other`."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, node_id: str) -> str:
        """The label of a node."""
        if node_id not in self._known:
            if len(self._known) >= MAX_NODES:
                return OTHER
            self._known.add(node_id)
        return node_id
