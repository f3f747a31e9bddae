"""A further copy of a model before somebody has to wait for it: what to load where, if anything. Pure.

A request that finds every copy busy waits, or waits for a load. When the copies have no free slot left and two
requests are expected before a load could end, an idle node with room loads the model now. Nothing is ever evicted for
it, and a node that would be much slower than the present copies is no help. What left a node's memory otherwise than
to make room (an operator unloaded it, a caller's `keep_alive` said so, it expired) is loaded again only when somebody
asks for it.
"""

from __future__ import annotations

from typing import NamedTuple

from sollol_agents.scorer.choice.profiles import Profile
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.fleet.nodes import Node
from sollol_schemas.events import BreakerState
from sollol_schemas.telemetry import NodeState

_REQUESTS = 2.0
"""So many requests must wait, or be expected while the model loads."""
_AT_A_TIME = 2
"""Loads of the whole fleet that nobody asked for, at a time."""
_LEAST_SPEED_RATIO = 0.33
"""A copy that decodes slower than this share of the best present one would hardly be chosen."""
_PATIENCE = 3.0
"""A load is taken to have failed after so many times its predicted length, and at least `_REST_S`."""
_REST_S = 30.0


class Preload(NamedTuple):
    """Load this model on this node."""

    node_id: str
    instance: str
    model: str
    """The model's name on that node."""
    keep_alive_s: float
    reason: str


class Preloader:
    """Decides now and then, and remembers what it asked for."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], float] = {}
        self._held: set[tuple[str, str]] = set()
        self._gone_at: dict[str, float] = {}

    def decide(self, core: SchedulerCore, now: float) -> list[Preload]:
        """What to load now; each answer is remembered as under way."""
        if not core.config.preload:
            return []
        self._note_departures(core, now)
        self._asked = {key: until for key, until in self._asked.items() if until > now}
        wanted: list[Preload] = []
        for model in sorted(_busy_models(core, now)):
            loading = {name for _, name in self._asked}
            if model in loading or len(self._asked) >= _AT_A_TIME or self._is_unwanted(core, model):
                continue
            found = self._further_copy(core, model, now)
            if found is not None:
                wanted.append(found)
        return wanted

    def _note_departures(self, core: SchedulerCore, now: float) -> None:
        """Notes which models left a memory since the last look, though nothing took their place."""
        nodes = {n.node_id: n for n in core.fleet.nodes.values() if n.state is not NodeState.DOWN}
        held = {(node_id, name) for node_id, node in nodes.items() for name in node.residents.by_name}
        for node_id, name in self._held - held:
            node = nodes.get(node_id)
            if node is not None and not any(name in r.evicts for r in node.residents.by_name.values()):
                self._gone_at[name] = now
        self._held = held
        self._gone_at = {name: at for name, at in self._gone_at.items() if core.demand.last_at(name) <= at}

    def _is_unwanted(self, core: SchedulerCore, model: str) -> bool:
        """Whether nobody has asked for a model since it left a memory."""
        return model in self._gone_at and not any(w.model == model for w in core.waiting)

    def _further_copy(self, core: SchedulerCore, model: str, now: float) -> Preload | None:
        nodes = [n for n in core.fleet.nodes.values() if model in n.installed]
        holders = [n for n in nodes if n.resident(model) is not None and n.state is not NodeState.DOWN]
        if any(_has_room_to_run(n, model) or _is_loading(n) for n in holders):
            return None
        profiles = core.planner.profiles
        best_tps = max((profiles.of(n, model).decode_tps for n in holders), default=0.0)
        taken = {node_id for node_id, _ in self._asked}
        places = [
            place
            for place in (profiles.of(n, model) for n in nodes if n.node_id not in taken and _is_idle(n, model))
            if _fits(place) and place.decode_tps >= _LEAST_SPEED_RATIO * best_tps
        ]
        rate = core.demand.rate(model, now)
        waiting = sum(1 for w in core.waiting if w.model == model)
        places = [p for p in places if waiting + rate * p.load_s >= _REQUESTS or (not holders and waiting == 0)]
        if not places:
            return None
        place = min(places, key=lambda p: (p.load_s - 60.0 * p.decode_tps / max(1.0, best_tps), p.node.node_id))
        self._asked[place.node.node_id, model] = now + max(_REST_S, _PATIENCE * place.load_s)
        expected = waiting + rate * place.load_s
        reason = (
            f"no free slot where it is loaded; {expected:.0f} requests wait or come within the "
            f"{place.load_s:.0f} s of a load"
        )
        return Preload(
            place.node.node_id,
            place.node.instance,
            place.node.installed[model].name,
            core.config.resident_keep_alive_s,
            reason if holders else "in steady demand and nowhere in memory",
        )


def _busy_models(core: SchedulerCore, now: float) -> set[str]:
    """Models in demand steady enough to be worth a place in memory."""
    return {model for model, _, _ in core.demand.rates() if core.demand.is_steady(model, now)}


def _has_room_to_run(node: Node, model: str) -> bool:
    """Whether a request for the model could start there now."""
    running = sum(1 for a in node.attempts.values() if a.model == model)
    return (
        node.state is NodeState.UP
        and len(node.attempts) < node.slots
        and running < node.model_slots(node.installed[model])
    )


def _is_loading(node: Node) -> bool:
    return any(r.is_loading for r in node.residents.by_name.values())


def _is_idle(node: Node, model: str) -> bool:
    """Whether the node has nothing to do, and nothing speaks against giving it something."""
    closed = all(b.state is BreakerState.CLOSED for name, b in node.breakers.by_model.items() if name in ("", model))
    return (
        node.state is NodeState.UP
        and not node.attempts
        and not node.is_router_free
        and node.telemetry.engine.is_reachable
        and node.slots > 0
        and node.resident(model) is None
        and not _is_loading(node)
        and closed
    )


def _fits(place: Profile) -> bool:
    """Whether the model fits beside what is in memory, without pushing anything out."""
    node = place.node
    held = sum(r.size_bytes for r in node.residents.by_name.values())
    has_place = len(node.residents.by_name) < node.max_models
    return has_place and node.budget.is_known and held + place.need_bytes <= node.budget.device_bytes
