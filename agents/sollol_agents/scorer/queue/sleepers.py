"""Which nodes may go to sleep, and which are woken. Pure.

A node is woken for three reasons: requests wait for it, because all of their other candidates cost more than its wake
time, half as much again, and its work (then they wait in the plan as for any other busy node); a line is so long that
what it saves of everybody's waiting is more than its wake time; or the mean load of a minute has come near to all the
slots that are awake, so that it would be needed soon. It may sleep when nothing runs there and nothing waits that it
could serve, it was awake for a while, and the rest would have had room for the busiest minute of the last quarter of
an hour. The two loads lie apart, and a node's time awake is bounded from below: so the number of its wakes is bounded
from above (a quarter of an hour is four an hour), whatever requests do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sollol_agents.scorer.choice.cost import Cost
from sollol_agents.scorer.choice.verdicts import Verdicts
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet import sleeping
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand
from sollol_agents.scorer.knowledge.sleeper import Phase, Sleeper
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.queue import Line, Queue
from sollol_agents.scorer.queue.scale import ModelScale, Scale
from sollol_schemas.scaling import ScaleEvent, SleepEvent, SleepReply
from sollol_schemas.telemetry import NodeState

_WAKES_AWAKE: Final = 2.0
"""A node stays awake for at least so many times what waking it takes."""


class Sleepers:
    """Decides about the nodes that may sleep."""

    def __init__(self, fleet: Fleet, queue: Queue, demand: Demand) -> None:
        self.scale = Scale(fleet, queue, demand)
        """Slots of each model, and what they are asked for."""
        self._fleet = fleet
        self._queue = queue
        self._demand = demand
        self._wished: dict[str, str] = {}

    def equip(self, config: ScorerConfig, verdicts: Verdicts, planner: Planner) -> None:
        """Takes what depends on the settings."""
        self._config = config
        self._verdicts = verdicts
        self._planner = planner

    def wish(self, choice: Cost, waiting: Waiting) -> None:
        """A request is to run on a node that sleeps: the next look wakes it."""
        node = choice.horizon.node
        if node.is_asleep:
            self._wished[node.node_id] = f"a request for {waiting.model} costs less there, waking it included"

    def look(self, now: float) -> list[ScaleEvent | SleepEvent]:
        """Looks at the slots of every model, and wakes what is needed; once a second, by the scorer in office."""
        told = self.scale.look(self._planner, self._verdicts, now)
        wished, self._wished = self._wished, {}
        woken = [self._wake(node_id, why, now) for node_id, why in wished.items()]
        if any(node.is_asleep for node in self._fleet.nodes.values()):
            woken += [self._for_line(line, now) for line in self._queue.lines()]
            woken += [self._for_load(scale, now) for scale in self.scale.models.values()]
        return [*told, *(event for event in woken if event is not None)]

    def wake_by_hand(self, node: Node, now: float) -> SleepEvent | None:
        """An operator wants it awake, whatever failed before; None when it is."""
        sleeper = node.sleeper
        if sleeper is None or sleeper.phase is Phase.WAKING or not (node.is_asleep or node.state is NodeState.DOWN):
            return None
        return sleeping.wake(node, sleeper, now, "an operator wants it")

    def asked_to_sleep(self, node_id: str, instance: str, now: float, *, is_wanted: bool = False) -> SleepReply:
        """Whether a node may go to sleep; one that may gets no work from now on."""
        node = self._fleet.nodes.get(node_id)
        sleeper = node.sleeper if node is not None and node.instance == instance else None
        if node is None or sleeper is None:
            return SleepReply(may_sleep=False, reason="the scorer does not know it as a node that sleeps")
        why = self._needed_for_work(node, now)
        if not why and not is_wanted:
            why = self._needed_soon(node, sleeper, now)
        if why:
            return SleepReply(may_sleep=False, reason=why)
        sleeping.leave(node, sleeper, now)
        return SleepReply(may_sleep=True)

    # -- waking -------------------------------------------------------------------------------------------

    def _wake(self, node_id: str, why: str, now: float) -> SleepEvent | None:
        node = self._fleet.nodes.get(node_id)
        if node is None or not _may_be_woken(node, now):
            return None
        assert node.sleeper is not None
        return sleeping.wake(node, node.sleeper, now, why)

    def _for_line(self, line: Line, now: float) -> SleepEvent | None:
        """Wakes a node for what waits, where the first of it costs less there, or all of it together is spared much."""
        first, planner = line.first, self._planner
        nodes = self._verdicts.of(first, now).nodes
        asleep = [n for n in nodes if _may_be_woken(n, now)]
        if not asleep or any(n.is_asleep and n not in asleep for n in nodes):
            return None  # one that is on its way comes first
        costs = planner.costs(first, nodes, now)
        best = min((c for c in costs if c.horizon.node in asleep), key=lambda c: c.total_s)
        awake = [c for c in costs if not c.horizon.node.is_asleep]
        if not awake:
            return self._wake(best.horizon.node.node_id, f"only nodes that sleep can serve {first.model}", now)
        least_s = min(c.total_s for c in awake)
        if best.total_s < least_s:
            saved_s = least_s - best.total_s
            why = f"a request for {first.model} is done {saved_s:.0f} s sooner there, waking it included"
            return self._wake(best.horizon.node.node_id, why, now)
        saved_s = _saved_s(line, best, planner.prospects(first, [c.horizon.node for c in awake], now), planner, now)
        if saved_s <= best.horizon.wake_price_s * _WAKES_AWAKE:
            return None
        why = f"{len(line)} requests for {first.model} wait {saved_s:.0f} s less with it"
        return self._wake(best.horizon.node.node_id, why, now)

    def _for_load(self, scale: ModelScale, now: float) -> SleepEvent | None:
        """Wakes a node when the mean load has come near to the slots that are awake or on their way."""
        able = self.scale.able(scale.model)
        coming = sum(n.slots for n in able if n.sleeper is not None and n.sleeper.phase is Phase.WAKING)
        slots = scale.slots + coming
        asleep = [n for n in able if _may_be_woken(n, now)]
        if not asleep or not slots or scale.load < self._config.wake_at_ratio * slots:
            return None
        fastest = max(asleep, key=lambda n: (self._planner.profiles.of(n, scale.model).decode_tps, n.node_id))
        why = f"{scale.load:.1f} of {slots} slots for {scale.model} are taken"
        return self._wake(fastest.node_id, why, now)

    # -- sleeping -----------------------------------------------------------------------------------------

    def _needed_for_work(self, node: Node, now: float) -> str:
        """What it has to do, or may have to do at once; empty: nothing."""
        if node.attempts:
            return f"{len(node.attempts)} attempts run there"
        if node.is_asleep or (node.sleeper is not None and node.sleeper.phase is Phase.LEAVING):
            return ""
        for waiting in self._queue.one_of_each_class():
            if node in self._verdicts.of(waiting, now).nodes:
                return f"requests for {waiting.model} wait"
        return ""

    def _needed_soon(self, node: Node, sleeper: Sleeper, now: float) -> str:
        """Why it is better left awake; empty: nothing speaks for that."""
        told = node.telemetry.sleeper
        least_s = max(told.min_awake_s if told is not None else 0.0, _WAKES_AWAKE * sleeper.wake_s)
        if now - max(sleeper.since, node.joined_at) < least_s:
            return f"it is awake since less than {least_s:.0f} s"
        others = [n for n in self._fleet.nodes.values() if n is not node and _is_up(n)]
        if len(others) < self._config.min_awake:
            return f"{self._config.min_awake} nodes stay awake"
        for model in node.installed:
            why = self._needed_for(model, others, now)
            if why:
                return why
        return ""

    def _needed_for(self, model: str, others: Sequence[Node], now: float) -> str:
        able = [n for n in others if model in n.installed]
        if self._demand.is_steady(model, now) and not able:
            return f"no other node that is awake has {model}"
        scale = self.scale.models.get(model)
        if scale is None or not able:
            return ""
        slots = sum(n.slots for n in able)
        peak = max(scale.peak(), scale.load)
        if peak > self._config.sleep_at_ratio * slots:
            return f"{model} needed {peak:.1f} slots lately, the others have {slots}"
        return ""


def _may_be_woken(node: Node, now: float) -> bool:
    sleeper = node.sleeper
    return sleeper is not None and sleeper.phase is Phase.ASLEEP and sleeper.is_candidate(now)


def _is_up(node: Node) -> bool:
    is_leaving = node.sleeper is not None and node.sleeper.phase is not Phase.AWAKE
    return node.state is NodeState.UP and not is_leaving and node.telemetry.engine.is_reachable


def _saved_s(line: Line, best: Cost, awake: Iterable[tuple[float, float]], planner: Planner, now: float) -> float:
    """Seconds of waiting that one more node spares a whole line, from when it is there; work flows like water."""
    rows = list(awake)
    work_s = max(1e-6, line.work_s / len(line))
    count = len(line) + line.behind
    parallel = max(1e-6, sum(share for _, share in rows))
    drained_s = max(0.0, min(start for start, _ in rows) - now) + count * work_s / parallel
    load_s = best.estimate.profile.load_s if best.load is not None else 0.0
    left_s = drained_s - (best.start - now) - load_s
    if left_s <= 0.0:
        return 0.0
    first = line.first
    share = sum(part for _, part in planner.prospects(first, [best.horizon.node], now))
    left = min(count, left_s * parallel / work_s)
    return 0.5 * left * left_s * share / (parallel + share)
