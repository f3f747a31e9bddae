"""What a gateway counts, for Prometheus.

The number of series is bounded: unknown paths and nodes beyond a limit are `other`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from sollol_agents.metering.labels import MAX_NODES, NodeLabels
from sollol_agents.metering.tallies import Count, Spread
from sollol_bus.sdk.routing_told import attempts_of
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.queries import NodesReply, NodeView
from sollol_schemas.telemetry import NodeState

_MIB: Final = 1 << 20
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


_OF_NODE: Final[dict[str, tuple[str, Callable[[NodeView], float]]]] = {
    "up_nodes": ("1 while the node is up.", lambda view: view.state is NodeState.UP),
    "slots": ("Attempts that the node runs at a time.", lambda view: view.telemetry.slots),
    "in_flight_attempts": ("Attempts in slots.", lambda view: view.in_flight),
    "success_ratio": ("Share of its latest attempts that succeeded.", lambda view: view.success_ratio),
    "heartbeat_age_seconds": ("Since the node was last heard.", lambda view: view.heartbeat_age_s),
    "gpu_memory_total_bytes": (
        "Video memory of all its GPUs.",
        lambda view: sum(gpu.memory_total_mib for gpu in view.telemetry.gpus) * _MIB,
    ),
    "gpu_memory_used_bytes": (
        "Video memory in use on all its GPUs.",
        lambda view: sum(gpu.memory_used_mib for gpu in view.telemetry.gpus) * _MIB,
    ),
}


class Metrics:
    """The counters of one gateway."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry(auto_describe=False)
        self._requests = Count("sollol_gateway_requests_total", "Requests answered.", ["path", "status"], registry)
        self._errors = Count(
            "sollol_gateway_errors_total", "Inference requests that failed, by code.", ["code"], registry
        )
        self._open = 0
        self._active = Gauge("sollol_gateway_active_requests", "Inference requests open.", registry=registry)
        self._connections = Gauge("sollol_gateway_open_connections", "Connections of clients.", registry=registry)
        self._seconds = self._histogram("request_duration_seconds", "From arrival to the last byte.", "mode")
        self._first = self._histogram("first_byte_seconds", "From arrival to the first byte of the answer.", "mode")
        self._queue = self._histogram("queue_seconds", "From arrival to the slot.", "mode")
        self._node_seconds = self._histogram("node_duration_seconds", "On the node, acceptance to the end.", "node")
        self._attempts = Count(
            "sollol_gateway_attempts_total", "Attempts made for answered requests.", ["node"], registry
        )
        self._resumed = Count(
            "sollol_gateway_resumed_total", "Times that an answer broke off and went on.", ["code"], registry
        )
        self._decisions = Count(
            "sollol_gateway_decisions_total", "Answers by mode and strategy.", ["mode", "strategy"], registry
        )
        self._tokens = Count("sollol_gateway_tokens_total", "Tokens of answers.", ["kind", "node"], registry)
        self._fleet_nodes = Gauge("sollol_fleet_nodes", "Nodes of the fleet.", ["state"], registry=registry)
        self._fleet_queue = Gauge("sollol_fleet_queued_requests", "Requests that wait for a slot.", registry=registry)
        self._fleet_flight = Gauge("sollol_fleet_in_flight_attempts", "Attempts in slots.", registry=registry)
        self._fleet_slots = Gauge("sollol_fleet_slots", "Slots of nodes that are up.", registry=registry)
        self._node_gauges = {
            name: Gauge(f"sollol_fleet_node_{name}", help_text, ["node"], registry=registry)
            for name, (help_text, _) in _OF_NODE.items()
        }
        self._nodes = NodeLabels()

    def _histogram(self, name: str, help_text: str, label: str) -> Spread:
        return Spread(f"sollol_gateway_{name}", help_text, [label], _SECONDS, self._registry)

    def began(self) -> None:
        """An inference request is open."""
        self._open += 1

    def resumed(self, reason: ErrorCode) -> None:
        """An answer that broke off goes on."""
        self._resumed.add(reason.value)

    def refused(self, path: str, status: int) -> None:
        """A request was answered without a call, or is none of inference."""
        self._requests.add(path, str(status))

    def ended(
        self,
        path: str,
        status: int,
        seconds: float,
        *,
        first_s: float | None,
        decision: Decision | None,
        figures: Figures | None,
        code: ErrorCode | None,
    ) -> None:
        """An inference request is over."""
        self._open -= 1
        self._requests.add(path, str(status))
        if code is not None:
            self._errors.add(code.value)
        if decision is None:
            return
        mode, node = decision.mode.value, self._nodes.of(decision.node_id)
        self._seconds.observe(seconds, mode)
        if first_s is not None:
            self._first.observe(first_s, mode)
        self._queue.observe(decision.queue_s, mode)
        self._decisions.add(mode, decision.strategy)
        self._attempts.add(node, by=attempts_of(decision))
        if figures is not None:
            self._node_seconds.observe(figures.actual_s, node)
            self._tokens.add("prompt", node, by=figures.prompt_tokens or 0)
            self._tokens.add("output", node, by=figures.output_tokens or 0)

    def text(self, fleet: NodesReply | None, connections: int) -> bytes:
        """Everything in Prometheus' text format."""
        self._active.set(self._open)
        self._connections.set(connections)
        self._fleet_nodes.clear()
        for gauge in self._node_gauges.values():
            gauge.clear()
        if fleet is not None:
            for view in fleet.nodes[:MAX_NODES]:
                for name, (_, read) in _OF_NODE.items():
                    self._node_gauges[name].labels(view.node_id).set(read(view))
            for view in fleet.nodes:
                self._fleet_nodes.labels(view.condition.replace(" ", "_")).inc()
            self._fleet_queue.set(fleet.queued)
            self._fleet_flight.set(fleet.in_flight)
            self._fleet_slots.set(sum(v.telemetry.slots for v in fleet.nodes if v.condition == "up"))
        return generate_latest(self._registry)
