"""The planned state of all nodes during one walk through the queue."""

from __future__ import annotations

from sollol_agents.scorer.choice.bounds import Pool
from sollol_agents.scorer.choice.cost import Cost, end_of
from sollol_agents.scorer.choice.horizon import Horizon
from sollol_agents.scorer.choice.profiles import speed_up
from sollol_agents.scorer.queue.queue import Line


class Walk:
    """Horizons that a plan may change, and which of them could take one more request now."""

    __slots__ = ("_private", "changed", "now", "open_ids", "planned")

    def __init__(self, planned: dict[str, Horizon], now: float) -> None:
        self.planned = planned
        self.now = now
        self.open_ids = {node_id for node_id, h in planned.items() if h.free_at == 0.0}
        self.changed: list[tuple[str, str]] = []
        """Nodes on which something was planned, in order, each with the model; empty when it was a load."""
        self._private: set[str] = set()

    def commit(self, cost: Cost, model: str) -> None:
        """Plans one more attempt."""
        node_id = cost.horizon.node.node_id
        if node_id not in self._private:
            self.planned[node_id] = self.planned[node_id].copy()
            self._private.add(node_id)
        horizon = self.planned[node_id]
        ready_at = cost.start + cost.estimate.profile.load_s
        horizon.commit(model, end_of(cost), load=cost.load, ready_at=ready_at)
        self.changed.append((node_id, model if cost.load is None else ""))
        if not horizon.has_free_slot():
            self.open_ids.discard(node_id)

    def drained_at(self, line: Line, pool: Pool) -> float:
        """When the nodes in use would have worked off what is left of a line, as if work flowed like water."""
        cached_share = pool.hit_tokens / max(1, pool.prompt_tokens)
        prompt = (1.0 - cached_share) * line.prompt_tokens / len(line)
        output = line.output_tokens / len(line)
        rates = []
        for profile in pool.in_use():
            horizon = self.planned[profile.node.node_id]
            ready_at = horizon.ready[pool.model]
            work_s = (prompt / profile.prompt_tps + output / profile.decode_tps) / horizon.pace
            rate = speed_up(min(horizon.slots, profile.model_slots), horizon.beta) / max(work_s, 1e-6)
            rates.append((max(ready_at, horizon.mean_free_at(self.now)), rate))
        return _filled_at(sorted(rates), pool.left)


def _filled_at(rates: list[tuple[float, float]], amount: float) -> float:
    """When sources that begin at their instants have delivered the amount; infinite without any."""
    at = total = done = 0.0
    for begins_at, rate in rates:
        if total > 0 and done + total * (begins_at - at) >= amount:
            break
        done += total * (begins_at - at)
        at, total = begins_at, total + rate
    return at + (amount - done) / total if total > 0 else float("inf")
