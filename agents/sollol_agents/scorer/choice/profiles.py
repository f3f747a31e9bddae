"""What one model does on one node, whatever the request: the figures from which costs are multiplied out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.fleet.residency import need_bytes
from sollol_agents.scorer.knowledge.priors import cpu_machine, decode_tps, weight_bytes

_RTT_MAX_S = 10.0
_ROWS_MAX = 512


class Profile:
    """One model on one node; made anew when the node's figures change."""

    __slots__ = (
        "decode_tps",
        "load_s",
        "model_slots",
        "need_bytes",
        "node",
        "prompt_tps",
        "risk_ratio",
        "rtt_s",
        "version",
        "weight_ratio",
    )

    def __init__(self, node: Node, model: str, num_ctx: int | None, version: int) -> None:
        installed = node.installed[model]
        size = weight_bytes(installed)
        self.node = node
        self.version = version
        self.model_slots = node.model_slots(installed)
        self.need_bytes = need_bytes(installed, self.model_slots, num_ctx)
        spill = _spill(node, self.need_bytes, model)
        self.prompt_tps = node.speeds.prompt_tps(model, size) / spill
        self.decode_tps = node.speeds.decode_tps(model, size) / spill
        self.load_s = node.speeds.load_s(model, size)
        success = node.record.expected
        self.risk_ratio = (1.0 - success) / max(0.2, success)
        """Expected repetitions of the work because of failures."""
        self.weight_ratio = 1.0 / node.telemetry.weight - 1.0
        """What the operator's weight adds to the work; negative for a preferred node."""
        self.rtt_s = min(node.telemetry.bus_rtt_s, _RTT_MAX_S)


class Profiles:
    """The profiles of all models on all nodes, each kept while its node's figures do not change. Bounded."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int | None], dict[str, Profile]] = {}

    def of(self, node: Node, model: str, num_ctx: int | None = None) -> Profile:
        """The profile of a model that is installed on the node."""
        return self.of_all((node,), model, num_ctx)[0]

    def of_all(self, nodes: Sequence[Node], model: str, num_ctx: int | None) -> list[Profile]:
        """The profiles of a model on every node, in their order."""
        row = self._rows.get((model, num_ctx))
        if row is None:
            if len(self._rows) >= _ROWS_MAX:
                self._rows.clear()
            row = self._rows[model, num_ctx] = {}
        found = []
        for node in nodes:
            known = row.get(node.node_id)
            version = node.figures_version
            if known is None or known.version != version or known.node is not node:
                known = row[node.node_id] = Profile(node, model, num_ctx, version)
            found.append(known)
        return found

    def keep(self, node_ids: Collection[str]) -> None:
        """Drops what is kept of every other node."""
        for row in self._rows.values():
            for node_id in row.keys() - node_ids:
                del row[node_id]


def _spill(node: Node, need: float, model: str) -> float:
    """Slow-down of a model that does not lie in video memory as a whole; 1 when it does."""
    vram = node.budget.vram_bytes
    if not node.has_gpu or node.is_router_free or vram <= 0 or need <= vram or node.resident(model) is not None:
        return 1.0
    outside = 1.0 - vram / need
    cpu = decode_tps(cpu_machine(node.telemetry.cpu_count), need)
    alone = node.speeds.decode_tps(model, need)
    return max(1.0, 1.0 - outside + outside * alone / cpu)


def speed_up(slots: int, beta: float) -> float:
    """Throughput of a full node in units of one attempt alone; > 0."""
    return slots / (1.0 + beta * (slots - 1)) if slots > 0 else 1e-6
