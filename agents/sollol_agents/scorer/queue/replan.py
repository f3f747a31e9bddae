"""The planned state of all nodes while answers are moved: who would be complete when, in whose place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sollol_agents.scorer.choice.cost import Cost
from sollol_agents.scorer.choice.horizon import Horizon
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.victims import Victim, slowness


class Place(NamedTuple):
    """Where a request would run, and when it would be complete."""

    end: float
    cost: Cost
    node: Node


class Replan:
    """The planned state of all nodes during one look."""

    def __init__(self, planner: Planner, now: float) -> None:
        self._planner = planner
        self._now = now
        self._horizons: dict[str, Horizon] = {}

    def horizon(self, node: Node) -> Horizon:
        """A node's near future with what was planned there."""
        return self._horizons.get(node.node_id) or self._planner.horizon(node, self._now)

    def best(self, waiting: Waiting, nodes: Iterable[Node], *, besides: Node | None = None) -> Place | None:
        """Where a request would be complete first."""
        places = (self._place(waiting, node, self.horizon(node)) for node in nodes if node is not besides)
        return min(places, key=_by_end, default=None)

    def at(self, waiting: Waiting, node: Node) -> Place:
        """A request on one node."""
        return self._place(waiting, node, self.horizon(node))

    def soonest(self, waiting: Waiting, node: Node) -> float:
        """When a request would be complete on a node if all slots but one were taken."""
        horizon = self.horizon(node)
        work_s = self.at(waiting, node).cost.estimate.work_s
        company = max(0, min(horizon.slots - 1, len(horizon.finishes)))
        return self._now + work_s * (1.0 + horizon.beta * company) / horizon.pace

    def going_on(self, victim: Victim, nodes: Iterable[Node], *, besides: Node | None = None) -> Place | None:
        """Where a victim would be complete first; None where each node would have to load its model."""
        rest = victim.rest
        places = (self._place(rest, node, self.horizon(node)) for node in nodes if node is not besides)
        return min((p for p in places if p.cost.load is None), key=_by_end, default=None)

    def instead(self, urgent: Waiting, victim: Victim) -> Place | None:
        """A request in the slot of a victim; None where it could not start there at once."""
        horizon = self._without(victim)
        place = self._place(urgent, victim.node, horizon)
        return place if place.cost.is_free and place.cost.load is None else None

    def best_after(self, victim: Victim, there: Place, model: str, nodes: Iterable[Node]) -> Place | None:
        """Where a victim would go on first once a request of this model has its slot."""
        before = self._horizons.get(there.node.node_id)
        self._horizons[there.node.node_id] = _with(there, model)
        try:
            return self.going_on(victim, nodes)
        finally:
            if before is None:
                del self._horizons[there.node.node_id]
            else:
                self._horizons[there.node.node_id] = before

    def commit(self, place: Place, model: str) -> None:
        """Plans a request where it goes."""
        cost, node = place.cost, place.node
        horizon = self.horizon(node).copy()
        ready_at = cost.start + cost.estimate.profile.load_s
        horizon.commit(model, place.end, load=cost.load, ready_at=ready_at)
        self._horizons[node.node_id] = horizon

    def replace(self, victim: Victim, there: Place, model: str) -> None:
        """Plans a request in the slot of a victim."""
        self._horizons[victim.node.node_id] = _with(there, model)

    def leave(self, victim: Victim) -> None:
        """Plans that a victim is gone."""
        self._horizons[victim.node.node_id] = self._without(victim)

    def relief_s(self, victim: Victim) -> float:
        """Seconds that the others on its node win by its leaving."""
        return self._shared_s(self._without(victim), victim.attempt.model, victim.left_s)

    def disturbance_s(self, place: Place, model: str, lasting_s: float) -> float:
        """Seconds that those which run on a node lose by its coming."""
        return self._shared_s(self.horizon(place.node), model, lasting_s)

    def _without(self, victim: Victim) -> Horizon:
        horizon = self.horizon(victim.node).copy()
        horizon.leave(victim.attempt.model, victim.end)
        return horizon

    def _shared_s(self, horizon: Horizon, model: str, lasting_s: float) -> float:
        beta, company = horizon.beta, 1.0 + horizon.beta * max(0, len(horizon.finishes) - 1)
        return sum(
            (beta if name == model else horizon.beta_other) * min(lasting_s, max(0.0, end - self._now)) / company
            for end, name in horizon.finishes
        )

    def _place(self, waiting: Waiting, node: Node, horizon: Horizon) -> Place:
        cost = self._planner.cost_on(waiting, node, horizon, self._now)
        others = [name for end, name in horizon.finishes if end > cost.start]
        load_s = cost.estimate.profile.load_s if cost.load is not None else 0.0
        work_s = cost.estimate.work_s * slowness(horizon, waiting.model, others)
        return Place(cost.start + load_s + work_s + cost.estimate.rtt_s, cost, node)


def _by_end(place: Place) -> tuple[float, str]:
    return place.end, place.node.node_id


def _with(place: Place, model: str) -> Horizon:
    horizon = place.cost.horizon.copy()
    horizon.commit(model, place.end, load=None, ready_at=0.0)
    return horizon
