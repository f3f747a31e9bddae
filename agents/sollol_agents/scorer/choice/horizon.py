"""One node's near future: when its slots come free, what is in memory, and what a load would push out.

A horizon is built from a node, may be changed by plans (`commit`) without touching the node, and holds
absolute instants, so that one horizon serves many decisions while the node does not change.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand

_SOON_S = 0.05  # what should have happened already is taken to happen this soon
MAX_AGE_S = 0.25
"""So old a horizon of a node gets on which something runs or loads."""
_FAR_S = 86_400.0


LeftSeconds = Callable[[Iterable[Attempt], float, float], Iterable[float]]
"""Base seconds of work that each of some attempts still needs, given the instant and the speed they have run at."""


class LoadPlan(NamedTuple):
    """What loading a model on a node takes."""

    begins_at: float
    """When the last attempt of the victims ends and no other load runs; 0: at once."""
    victims: tuple[str, ...]
    evict_s: float
    """Expected seconds of reloading what was pushed out."""


class Evictable(NamedTuple):
    """A model that a load may push out, in the order in which that is done."""

    cost: float
    name: str
    size_bytes: float
    evict_s: float
    """Expected seconds of loading it again."""


class Horizon:
    """The planned state of one node."""

    __slots__ = (
        "_demand",
        "_holders",
        "_memory",
        "beta",
        "beta_other",
        "built_at",
        "figures_version",
        "finishes",
        "free_at",
        "is_full",
        "load_ends_at",
        "load_version",
        "node",
        "pace",
        "plans",
        "ready",
        "slots",
        "speed_version",
        "wake_price_s",
        "wakes_at",
    )

    def __init__(
        self, node: Node, now: float, demand: Demand, holders: Callable[[str], int], left_s: LeftSeconds
    ) -> None:
        self.node = node
        self.built_at = now
        self.load_version, self.speed_version = node.load_version, node.speed_version
        self.figures_version = node.figures_version
        self.slots = node.slots
        self.is_full = node.is_full
        self.beta = node.speeds.beta
        self.beta_other = node.speeds.beta_other
        self.pace = max(node.pace.value, 0.05)
        self._demand = demand
        self._holders = holders
        self.plans: dict[float, LoadPlan] = {}
        """What loading a model that needs so many bytes takes, as far as somebody asked; see `load_plan`."""
        self._memory: tuple[float, list[Evictable]] | None = None
        self.load_ends_at = 0.0
        self.ready: dict[str, float] = {}
        for name, resident in node.residents.by_name.items():
            self.ready[name] = max(resident.ready_at, now + _SOON_S) if resident.is_loading else 0.0
            self.load_ends_at = max(self.load_ends_at, self.ready[name])
        if node.twins:
            self._add_twins()
        sleeper = node.sleeper if node.is_asleep else None
        self.wakes_at = sleeper.ready_at(now) if sleeper is not None else 0.0
        """When a node that sleeps is there; 0: it is."""
        self.wake_price_s = sleeper.price_s() if sleeper is not None else 0.0
        """What waking it costs besides."""
        self.finishes = self._finishes(now, left_s)
        self.free_at = self._slot_free_at()
        """When the next slot is free; 0: now."""

    def _add_twins(self) -> None:
        """What is in memory is there under every name of its weights."""
        for name in self.node.twins.keys() & self.ready.keys():
            for twin in self.node.twins[name]:
                self.ready.setdefault(twin, self.ready[name])

    def _places(self) -> list[str]:
        """One name for each place in memory that is taken or will be."""
        twins = self.node.twins
        if not twins:
            return list(self.ready)
        loaded = self.node.residents.by_name
        names = sorted(self.ready, key=lambda name: name not in loaded)
        taken: dict[str, None] = {}
        for name in names:
            if not any(twin in taken for twin in twins.get(name, ())):
                taken[name] = None
        return list(taken)

    def _finishes(self, now: float, left_s: LeftSeconds) -> list[tuple[float, str]]:
        """Predicted end of every attempt with its model, soonest first."""
        attempts = self.node.attempts.values()
        if not attempts:
            return []
        slowness = (1.0 + self.beta * (len(attempts) - 1)) / self.pace
        speed = 1.0 / slowness
        lefts = left_s(attempts, now, speed)
        ends = [(now + base_s * slowness, one.model) for one, base_s in zip(attempts, lefts, strict=True)]
        ends.sort()
        if ends[-1][0] > now + _FAR_S:
            ends = sorted((min(end, now + _FAR_S), model) for end, model in ends)
        return ends

    def is_fresh(self, now: float) -> bool:
        """Whether the node is as it was when this was built, and no predicted end has passed."""
        node = self.node
        if self.load_version != node.load_version or self.speed_version != node.speed_version:
            return False
        if self.is_full != node.is_full:
            return False
        if not self.finishes and not self.load_ends_at and not self.wakes_at:
            return True
        return now - self.built_at < MAX_AGE_S and (not self.finishes or self.finishes[0][0] > now)

    def copy(self) -> Horizon:
        """A horizon that a plan may change."""
        twin = object.__new__(Horizon)
        for name in Horizon.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.finishes = list(self.finishes)
        twin.ready = dict(self.ready)
        twin.plans = dict(self.plans)
        return twin

    def leave(self, model: str, end: float) -> None:
        """Plans that an attempt of this model is gone, that of which the end is predicted next to `end`."""
        own = [i for i, (_, name) in enumerate(self.finishes) if name == model]
        if own:
            del self.finishes[min(own, key=lambda i: abs(self.finishes[i][0] - end))]
            self.free_at = self._slot_free_at()
            self.plans.clear()

    def has_free_slot(self) -> bool:
        """Whether one more attempt fits now."""
        return self.free_at == 0.0

    def _slot_free_at(self) -> float:
        """When the next slot is free; 0 when one is."""
        running = len(self.finishes)
        if running < self.slots and not self.is_full:
            return self.wakes_at
        if not running:
            return self.built_at + _SOON_S
        return self.finishes[min(running - 1, max(0, running - self.slots))][0]

    def mean_free_at(self, now: float) -> float:
        """When a slot is free, on average over all of them."""
        busy = self.finishes[-self.slots :]
        return now + sum(max(0.0, end - now) for end, _ in busy) / max(1, self.slots)

    def load_plan(self, need_bytes: float) -> LoadPlan:
        """What loading a model that is not in memory takes; remembered until the horizon changes."""
        plan = self.plans.get(need_bytes)
        if plan is None:
            plan = self.plans[need_bytes] = self._plan_load(need_bytes)
        return plan

    def _plan_load(self, need_bytes: float) -> LoadPlan:
        begins_at = self.load_ends_at
        victims, evict_s = self._victims(need_bytes)
        for end, running in reversed(self.finishes):
            if running in victims:
                begins_at = max(begins_at, end)
                break
        return LoadPlan(begins_at, victims, evict_s)

    def _victims(self, need_bytes: float) -> tuple[tuple[str, ...], float]:
        """The models to push out, cheapest to reload first, until there is room."""
        node = self.node
        if node.is_router_free:
            return (), 0.0
        if self._memory is None:
            self._memory = self._evictable()
        used_bytes, evictable = self._memory
        room = node.budget.device_bytes - used_bytes if node.budget.is_known else need_bytes
        count = len(self._places())
        victims: list[str] = []
        evict_s = 0.0
        for victim in evictable:
            if room >= need_bytes and count < node.max_models:
                break
            victims.append(victim.name)
            room += victim.size_bytes
            count -= 1
            evict_s += victim.evict_s
        return tuple(victims), evict_s

    def _evictable(self) -> tuple[float, list[Evictable]]:
        """Bytes of all models in memory and on their way there, and those in memory, cheapest to reload first."""
        node, now = self.node, self.built_at
        used_bytes = 0.0
        found: list[Evictable] = []
        for name in self._places():
            ready_at = self.ready[name]
            size = self._size(name)
            used_bytes += size
            if ready_at <= now:
                rate = self._demand.rate(name, now)
                load_s = node.speeds.load_s(name, size)
                others = max(0, self._holders(name) - 1)
                found.append(Evictable(rate * load_s, name, size, load_s * min(1.0, 60.0 * rate) / (1 + others)))
        found.sort()
        return used_bytes, found

    def _size(self, name: str) -> float:
        resident = self.node.residents.by_name.get(name)
        if resident is not None and resident.size_bytes > 0:
            return resident.size_bytes
        installed = self.node.installed.get(name)
        return float(installed.size_bytes) if installed is not None else 0.0

    def commit(self, model: str, end: float, *, load: LoadPlan | None, ready_at: float) -> None:
        """Plans one more attempt, and the load it needs."""
        bisect.insort(self.finishes, (end, model))
        self.free_at = self._slot_free_at()
        if load is not None:
            for victim in load.victims:
                for name in (victim, *self.node.twins.get(victim, ())):
                    self.ready.pop(name, None)
            self.ready[model] = ready_at
            self._add_twins()
            self.load_ends_at = max(self.load_ends_at, ready_at)
            self._memory = None
        self.plans.clear()
