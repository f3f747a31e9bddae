"""The nodes as the fleet page shows them, and the fleet in a few numbers."""

from __future__ import annotations

from typing import Final

import msgspec

from sollol_agents.fleet_view.node import Node
from sollol_agents.fleet_view.node_rows import NodeDetail, NodeRow
from sollol_agents.fleet_view.troubles import concern_of
from sollol_schemas.events import BreakerEvent, BreakerState, NodeEvent, Outcome
from sollol_schemas.queries import NodesReply, ReliabilityReply
from sollol_schemas.steering import BreakersReply
from sollol_schemas.telemetry import LoadUpdate, NodeState, Telemetry

FORGET_S: Final = 300.0
MAX_NODES: Final = 4096


class Fleet(msgspec.Struct, frozen=True):
    """The fleet in a few numbers."""

    total: int
    up: int
    gpu: int
    slots: int
    busy: int
    tps: float


class Nodes:
    """The nodes by id."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._gone: dict[str, int] = {}
        self._dirty: set[str] = set()

    def on_telemetry(self, told: Telemetry, now: float) -> None:
        """A node's heartbeat; a node nobody has heard of appears."""
        if self._node(told.node_id, now).on_telemetry(told, now):
            self._dirty.add(told.node_id)

    def on_load(self, told: LoadUpdate, now: float) -> None:
        """A node's change of load."""
        node = self._nodes.get(told.node_id)
        if node is not None and node.on_load(told, now):
            self._dirty.add(told.node_id)

    def on_event(self, event: NodeEvent, now: float) -> None:
        """The scorer says that a node changed its state."""
        node = self._node(event.node_id, now)
        node.state, node.reason = event.state, event.reason
        self._dirty.add(event.node_id)

    def on_outcome(self, outcome: Outcome, now: float) -> None:
        """An attempt ended."""
        node = self._nodes.get(outcome.node_id)
        if node is not None:
            node.on_outcome(outcome, now)
            self._dirty.add(outcome.node_id)

    def on_breaker(self, event: BreakerEvent) -> None:
        """A breaker changed its state."""
        node = self._nodes.get(event.node_id)
        if node is not None:
            node.on_breaker(event.model, event.state)
            self._dirty.add(event.node_id)

    def on_breakers(self, reply: BreakersReply) -> None:
        """All breakers that are not simply closed."""
        for node in self._nodes.values():
            node.forget_breakers()
        self._dirty.update(self._nodes)
        for view in reply.breakers:
            known = self._nodes.get(view.node_id)
            if known is not None and view.state is not BreakerState.CLOSED:
                known.on_breaker(view.model, view.state)

    def on_listing(self, reply: NodesReply, now: float) -> None:
        """The fleet as the scorer in office sees it."""
        for view in reply.nodes:
            is_new = view.node_id not in self._nodes
            node = self._node(view.node_id, now)
            if is_new or node.told is None:
                node.on_telemetry(view.telemetry, now)
                node.heard_at = now - view.heartbeat_age_s
            node.state, node.has_left, node.is_asleep = view.state, view.has_left, view.is_asleep
            self._dirty.add(view.node_id)

    def on_reliability(self, reply: ReliabilityReply) -> None:
        """What the recorder knows."""
        for entry in reply.entries:
            node = self._nodes.get(entry.node_id) if not entry.model else None
            if node is not None:
                node.know_record(entry.attempts, entry.successes)
                self._dirty.add(entry.node_id)

    def tick(self, now: float, version: int) -> None:
        """Renews the rows of nodes that told something, fell silent, or slow down."""
        for node_id, node in list(self._nodes.items()):
            if now - node.heard_at > FORGET_S:
                del self._nodes[node_id]
                self._gone[node_id] = version
                while len(self._gone) > len(self._nodes) + 100:
                    del self._gone[next(iter(self._gone))]
                continue
            is_quiet = now - node.heard_at > 2 or (node.row is not None and node.row.tps > 0)
            if node_id in self._dirty or is_quiet:
                row = _with_concern(node.view(now))
                if row != node.row:
                    node.row, node.version = row, version
        self._dirty.clear()

    def rows(self) -> list[NodeRow]:
        """Every node, as it was at the last tick."""
        return [node.row for node in self._nodes.values() if node.row is not None]

    def changes(self, since: int) -> tuple[list[NodeRow], list[str]]:
        """Rows that changed after `since`, and ids of nodes that went."""
        rows = [n.row for n in self._nodes.values() if n.row is not None and n.version > since]
        return rows, [node_id for node_id, version in self._gone.items() if version > since]

    def fleet(self, now: float) -> Fleet:
        """The fleet in a few numbers."""
        usable = [n for n in self._nodes.values() if n.shown_state(now) in (NodeState.UP, NodeState.DRAINING)]
        up = [n for n in usable if n.shown_state(now) == NodeState.UP and n.has_engine]
        return Fleet(
            total=sum(1 for n in self._nodes.values() if not n.has_left),
            up=len(up),
            gpu=sum(1 for n in up if n.told is not None and n.told.gpus),
            slots=sum(n.slots for n in up),
            busy=sum(n.busy for n in usable),
            tps=round(sum(n.tps.per_s(now) for n in usable), 1),
        )

    def models(self, now: float) -> tuple[str, ...]:
        """Every model that a node which is up could run."""
        up = (n.told for n in self._nodes.values() if n.told is not None and n.shown_state(now) == NodeState.UP)
        return tuple(sorted({model.name for told in up for model in told.installed}))

    def holders(self, model: str) -> tuple[int, int, int]:
        """How many nodes that are up have a model, and of their slots how many are free and how many there are."""
        able = [n for n in self._nodes.values() if n.row is not None and n.row.state == NodeState.UP and n.has(model)]
        slots = sum(n.slots for n in able)
        return len(able), max(0, slots - sum(n.busy for n in able)), slots

    def detail(self, node_id: str) -> NodeDetail | None:
        """A node's own page."""
        node = self._nodes.get(node_id)
        return None if node is None else node.detail()

    def _node(self, node_id: str, now: float) -> Node:
        node = self._nodes.get(node_id)
        if node is None:
            if len(self._nodes) >= MAX_NODES:
                del self._nodes[min(self._nodes.values(), key=lambda n: n.heard_at).node_id]
            node = self._nodes[node_id] = Node(node_id, now)
            self._gone.pop(node_id, None)
        return node


def _with_concern(row: NodeRow) -> NodeRow:
    concern, text = concern_of(row)
    return msgspec.structs.replace(row, concern=concern, concern_text=text) if concern else row
