"""What is won by moving a running answer, for it and for all that are concerned. Pure.

    swap    (1 + levels) x (end of the urgent as planned - its end in the victim's slot - pause)
            - (what the victim takes elsewhere - what is left of it here) - price - 1 s
    move    (what is left here - what it takes elsewhere - slow-down caused there + slow-down spared here)
            x share of the time for which the node it goes to is idle - price; more than 2 s and 30 %
    price   prompt and said text read once more, as a share of what all nodes do, x who waits for that

Each level of rank makes a second count once more. Work that is done twice is waited for by all who wait now, by half of
those who run, and by load / (1 - load) times as many who come until nobody waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sollol_agents.scorer.choice.profiles import speed_up
from sollol_agents.scorer.choice.verdicts import Verdicts
from sollol_agents.scorer.choice.waiting import ClassKey, Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.queue import Queue
from sollol_agents.scorer.queue.replan import Place, Replan
from sollol_agents.scorer.queue.untried import Untried
from sollol_agents.scorer.queue.victims import Victim
from sollol_schemas.continuation import CUTS_MAX

PAUSE_S = 0.1
"""From the cut until the request is there again."""
LEAST_GAIN_S, LEAST_GAIN_RATIO = 2.0, 0.3
"""What a move to another node must save: so many seconds, and such a share of what is left."""
DISTURBANCE_S = 1.0
"""What a swap costs besides what is predicted: predictions are not exact."""
LEAST_LEVELS = 3.0
"""Levels by which a request must rank above the answer whose slot it takes."""
_LEVELS_MAX = 10.0
CROWD_SHARE = 1.0
_BUSIEST = 19.0  # at a load of .95
_NODES_MAX = 8  # nodes that are worked out for one request
_CAUTION = 2.0  # so many times longer than predicted, and a victim must still meet its deadline


class Swap(NamedTuple):
    """A victim that makes room for a request."""

    gain_s: float
    saved_s: float
    """Seconds by which the request is complete sooner."""
    moved_s: float
    victim: Victim
    urgent: Place
    goes_on: Place


class Move(NamedTuple):
    """A victim that is better off elsewhere."""

    gain_s: float
    moved_s: float
    victim: Victim
    goes_on: Place


class Crowd(NamedTuple):
    """What could go on with a victim, all nodes together."""

    waits: float
    """How many wait for what is done twice: those who are here, and who come until nobody waits."""
    tps: float
    """Tokens a second of all nodes, when they are full."""
    fastest_tps: float
    """Tokens a second of the fastest alone."""


class Gains:
    """Works out what cuts win; what holds for all victims of a kind is worked out once a look.

    Args:
        config: How requests age.
        queue: What waits.
        verdicts: Where a request may run.
        planner: What it costs there.
        untried: What was moved to nodes that nobody measured.
    """

    def __init__(
        self, config: ScorerConfig, queue: Queue, verdicts: Verdicts, planner: Planner, untried: Untried
    ) -> None:
        self._config = config
        self._queue = queue
        self._verdicts = verdicts
        self._planner = planner
        self._untried = untried
        self._likely: dict[tuple[ClassKey, str], Sequence[Node]] = {}
        self._crowds: dict[tuple[ClassKey, str], Crowd] = {}

    def begin(self) -> None:
        """A look begins: what the one before worked out is forgotten."""
        self._likely.clear()
        self._crowds.clear()

    def nodes(self, waiting: Waiting, now: float) -> Sequence[Node]:
        """Where a request may run."""
        return self._verdicts.of(waiting, now).nodes

    def likely(self, waiting: Waiting, now: float) -> Sequence[Node]:
        """Where it is worked out: of many nodes those with its model in memory, a free slot, and the most speed."""
        key = waiting.class_key, waiting.model
        known = self._likely.get(key)
        if known is None:
            known = self._likely[key] = self._likely_of(waiting, now)
        return known

    def _likely_of(self, waiting: Waiting, now: float) -> Sequence[Node]:
        nodes, profiles = self.nodes(waiting, now), self._planner.profiles
        if len(nodes) <= _NODES_MAX:
            return nodes

        def reluctance(node: Node) -> tuple[bool, bool, float]:
            is_full = len(node.attempts) >= node.slots
            return node.resident(waiting.model) is None, is_full, -profiles.of(node, waiting.model).decode_tps

        return heapq.nsmallest(_NODES_MAX, nodes, key=reluctance)

    def rank(self, waiting: Waiting, now: float) -> float:
        """The rank it has reached."""
        return waiting.rank(now, self._config.ageing_s)

    def swap(self, urgent: Waiting, end: float, victims: Iterable[Victim], planned: Replan, now: float) -> Swap | None:
        """The victim by which most is won; None where nothing is.

        Args:
            urgent: The request that would take the slot.
            end: When it would be complete without that.
            victims: Running answers.
            planned: What is planned so far.
            now: The present instant.
        """
        rank = self.rank(urgent, now)
        able = {node.node_id for node in self.nodes(urgent, now)}
        best: Swap | None = None
        least_s = 0.0
        for victim in victims:
            if rank - victim.granted_rank < LEAST_LEVELS or victim.node.node_id not in able:
                continue
            if victim.cuts + 1 >= CUTS_MAX:  # the last move is kept for one that it needs itself
                continue
            levels = rank - victim.rank
            if levels < LEAST_LEVELS:
                continue
            there = planned.instead(urgent, victim)
            if there is None:
                continue
            saved_s = end - there.end - PAUSE_S
            counted_s = (1.0 + min(levels, _LEVELS_MAX)) * saved_s - DISTURBANCE_S
            if counted_s <= least_s:
                continue
            goes_on = planned.best_after(victim, there, urgent.model, self._places(victim, now))
            if goes_on is None or not self._is_in_time(victim, goes_on, now):
                continue
            moved_s = goes_on.end + PAUSE_S - now
            gain_s = counted_s - (moved_s - victim.left_s) - self._price_s(victim, goes_on, now)
            if gain_s > least_s:
                best, least_s = Swap(gain_s, saved_s, moved_s, victim, there, goes_on), gain_s
        return best

    def move(self, victim: Victim, planned: Replan, now: float) -> Move | None:
        """The node that a victim should go on at, no way back; None where it should stay."""
        places = [n for n in self._places(victim, now) if n.node_id != victim.left]
        goes_on = planned.going_on(victim, places, besides=victim.node)
        if goes_on is None or not goes_on.cost.is_free:
            return None
        moved_s = goes_on.end + PAUSE_S - now
        saved_s, least_s = victim.left_s - moved_s, max(LEAST_GAIN_S, LEAST_GAIN_RATIO * victim.left_s)
        if saved_s <= least_s:
            return None
        idle_share = 1.0 - min(1.0, goes_on.node.work.load(now))
        relief_s = planned.relief_s(victim) - planned.disturbance_s(goes_on, victim.rest.model, moved_s)
        gain_s = idle_share * (saved_s + relief_s) - self._price_s(victim, goes_on, now)
        return Move(gain_s, moved_s, victim, goes_on) if gain_s > least_s else None

    def rescue(self, victim: Victim, planned: Replan, now: float) -> Move | None:
        """Where a victim would meet the deadline that it misses where it is; None where nowhere."""
        if now + victim.left_s < victim.rest.deadline_at:
            return None
        goes_on = planned.going_on(victim, self._places(victim, now), besides=victim.node)
        if goes_on is None:
            return None
        moved_s = goes_on.end + PAUSE_S - now + self._ahead_s(victim, now)
        saved_s = victim.left_s - moved_s
        if now + moved_s >= victim.rest.deadline_at or saved_s <= max(LEAST_GAIN_S, LEAST_GAIN_RATIO * victim.left_s):
            return None
        return Move(saved_s, moved_s, victim, goes_on)

    def _places(self, victim: Victim, now: float) -> list[Node]:
        """Where a victim may go on: where it is, and where it may be moved to."""
        rest, may_take = victim.rest, self._untried.may_take
        return [n for n in self.likely(rest, now) if n is victim.node or may_take(n, rest.model, now)]

    def _is_in_time(self, victim: Victim, goes_on: Place, now: float) -> bool:
        """Whether a victim would be complete well before its deadline."""
        return now + _CAUTION * (goes_on.end - now + self._ahead_s(victim, now)) < victim.rest.deadline_at

    def _ahead_s(self, victim: Victim, now: float) -> float:
        """Seconds of all nodes that what waits ahead of a victim takes."""
        work_s = sum(line.place_of(victim.rest) * line.work_s / len(line) for line in self._queue.lines())
        crowd = self._crowd(victim, now)
        return work_s * crowd.fastest_tps / crowd.tps

    def _price_s(self, victim: Victim, goes_on: Place, now: float) -> float:
        """What all others lose by what is read once more."""
        e, crowd = goes_on.cost.estimate, self._crowd(victim, now)
        share = e.profile.decode_tps / crowd.tps
        return CROWD_SHARE * victim.read_share * e.prefill_s * share * crowd.waits

    def _crowd(self, victim: Victim, now: float) -> Crowd:
        key = victim.rest.class_key, victim.rest.model
        known = self._crowds.get(key)
        if known is None:
            known = self._crowds[key] = self._crowd_of(victim.rest, now)
        return known

    def _crowd_of(self, rest: Waiting, now: float) -> Crowd:
        nodes = self.nodes(rest, now)
        weighted = [(n.work.load(now), n.slots * n.speeds.decode_tps(rest.model, 0.0)) for n in nodes]
        load = sum(min(1.0, x) * w for x, w in weighted) / max(1e-6, sum(w for _, w in weighted))
        here = len(self._queue) + 0.5 * sum(len(n.attempts) for n in nodes)
        profiles = self._planner.profiles.of_all(nodes, rest.model, rest.request.context.num_ctx)
        tps = sum(p.decode_tps * speed_up(p.node.slots, p.node.speeds.beta) for p in profiles)
        fastest_tps = max((p.decode_tps for p in profiles), default=1e-6)
        return Crowd(here * min(_BUSIEST, load / max(1e-6, 1.0 - load)), max(tps, 1e-6), fastest_tps)
