"""Which running answers to cut, so that they go on elsewhere, and why. Pure.

An answer is moved for two reasons. *Rebalance*: another node would have finished it so much sooner, waiting and reading
again what was said included, that moving it pays. *Priority*: a request of higher rank waits, and what it saves in the
slot of a running answer, weighted by how far it ranks above it, is more than that answer loses by going on elsewhere.
Both are judged against the predicted state by which requests are planned, in which every cut of the same look already
stands, so that all victims are planned again in one walk (CrashSafe, LUMEN 2606.17787; Llumnix, OSDI 24).

Never cut is an answer whose caller does not go on or which no node has confirmed; one that was moved `CUTS_MAX` times,
or came to its node a moment ago; one that is soon over; one that only a node could go on with that would have to load
its model; and one that could come close to its deadline. Nothing swings: a victim ranks below
whatever takes its slot, by what is left of it too, so that it can never take the slot back, and a move to another node
must win much more than it would have to win to stay there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sollol_agents.scorer.choice.eligibility import Verdicts
from sollol_agents.scorer.choice.horizon import Horizon
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.queue.ledger import GrantLedger
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.queue import Queue, merged
from sollol_agents.scorer.queue.replan import Place, Replan
from sollol_agents.scorer.queue.victims import SOON_OVER_S, Victim, may_be_cut
from sollol_schemas.continuation import CUTS_MAX, Cut, CutReason
from sollol_schemas.slim import rounded

PAUSE_S = 0.1
"""From the cut until the request is there again."""
LEAST_GAIN_S, LEAST_GAIN_RATIO = 2.0, 0.3
"""What a move to another node must save: so many seconds, and such a share of what is left."""
DISTURBANCE_S = 3.0
"""What a cut costs besides what is predicted: predictions are not exact."""
LEAST_RANK = 3.0
"""Levels by which a request must rank above the answer whose slot it takes."""
LEVEL_WEIGHT = 1.0
"""A second of a request counts `1 + LEVEL_WEIGHT * levels` seconds of one that ranks so many levels lower."""
LOOK_EVERY_S = 0.5
_URGENT = 4  # waiting requests of each class that may take a slot in one look
_VICTIMS = 6  # running answers of each node that are looked at for one request
_PENDING_S = 2.0  # so long a cut is waited for
_REFUSED_S = 10.0
_CUTS_KEPT = 4096


class _Swap(NamedTuple):
    """A victim that makes room for a request."""

    gain_s: float
    saved_s: float
    moved_s: float
    weight: float
    victim: Victim
    urgent: Place
    goes_on: Place


class Undo:
    """Decides now and then, and remembers what it asked for.

    Args:
        config: Whether and for what answers are moved, and how requests age.
        queue: What waits.
        ledger: What runs where, and what it was granted for.
        verdicts: Where a request may run.
        planner: What it costs there.
    """

    def __init__(
        self, config: ScorerConfig, queue: Queue, ledger: GrantLedger, verdicts: Verdicts, planner: Planner
    ) -> None:
        self._config = config
        self._fleet = ledger.fleet
        self._queue = queue
        self._ledger = ledger
        self._verdicts = verdicts
        self._planner = planner
        self._pending: dict[str, tuple[float, str]] = {}
        """Attempts that are being cut: until when that is waited for, and the request that gets the slot."""
        self._refused: dict[str, float] = {}
        self._cuts: OrderedDict[str, int] = OrderedDict()
        self._looked: dict[str, float] = {}
        """When each of the first waiting requests was looked at last."""
        self._seen: object = None

    def cuts(self, now: float) -> list[Cut]:
        """What to cut now; each is remembered as under way, and is not named again."""
        config = self._config
        if not (config.undo_for_priority or config.undo_to_rebalance) or not self._fleet.in_flight:
            return []
        self._settle(now)
        if len(self._queue):
            return self._for_priority(now) if config.undo_for_priority else []
        return self._rebalance(now) if config.undo_to_rebalance else []

    def refused(self, attempt_id: str, now: float) -> None:
        """The node does not cut an attempt, or does not answer: it is left alone for a while."""
        self._pending.pop(attempt_id, None)
        self._refused[attempt_id] = now + _REFUSED_S

    def _settle(self, now: float) -> None:
        """Forgets what is over."""
        attempt = self._fleet.attempt
        for attempt_id, (until, _) in list(self._pending.items()):
            if attempt(attempt_id) is None:
                del self._pending[attempt_id]
            elif until <= now:
                self.refused(attempt_id, now)
        if self._refused:
            self._refused = {a: until for a, until in self._refused.items() if until > now and attempt(a) is not None}

    # Priority.

    def _for_priority(self, now: float) -> list[Cut]:
        level_s = self._config.ageing_s
        first = [w for w in merged(self._queue.lines(), _URGENT) if not w.is_away]
        looked = self._looked
        due = {w.request_id for w in first if looked.get(w.request_id, -math.inf) + LOOK_EVERY_S <= now}
        if not due:
            return []
        self._looked = {w.request_id: now if w.request_id in due else looked[w.request_id] for w in first}
        victims = list(self._victims(now))
        if not victims:
            return []
        lowest = min(v.rank for v in victims)
        favoured = {request_id for _, request_id in self._pending.values()}
        planned = Replan(self._planner, now)
        found: list[Cut] = []
        for urgent in first:
            if not due or urgent.rank(now, level_s) < lowest + LEAST_RANK:
                break
            due.discard(urgent.request_id)
            if urgent.request_id in favoured:
                continue
            place = planned.best(urgent, self._verdicts.of(urgent, now).nodes)
            if place is None:
                continue
            swap = self._best_swap(urgent, place.end, victims, planned, now)
            if swap is None:
                planned.commit(place, urgent.model)
                continue
            planned.replace(swap.victim, swap.urgent, urgent.model)
            planned.commit(swap.goes_on, swap.victim.rest.model)
            victims.remove(swap.victim)
            found.append(self._cut_for(urgent, swap, now))
        return found

    def _best_swap(
        self, urgent: Waiting, end: float, victims: Iterable[Victim], planned: Replan, now: float
    ) -> _Swap | None:
        """The victim by which most is won, over all that are concerned; None where nothing is."""
        rank = urgent.rank(now, self._config.ageing_s)
        nodes = {node.node_id for node in self._verdicts.of(urgent, now).nodes}
        best: _Swap | None = None
        for victim in victims:
            levels = rank - victim.rank
            if levels < LEAST_RANK or victim.node.node_id not in nodes:
                continue
            there = planned.instead(urgent, victim)
            if there is None:
                continue
            saved_s = end - there.end - PAUSE_S
            weight = 1.0 + LEVEL_WEIGHT * levels
            if weight * saved_s <= DISTURBANCE_S + (best.gain_s if best is not None else 0.0):
                continue
            goes_on = planned.best_after(victim, there, urgent.model, self._verdicts.of(victim.rest, now).nodes)
            if goes_on is None or not self._is_in_time(victim, goes_on.end, now):
                continue
            moved_s = goes_on.end + PAUSE_S - now
            gain_s = weight * saved_s - (moved_s - victim.left_s) - DISTURBANCE_S
            if gain_s > (best.gain_s if best is not None else 0.0):
                best = _Swap(gain_s, saved_s, moved_s, weight, victim, there, goes_on)
        return best

    def _is_in_time(self, victim: Victim, end: float, now: float) -> bool:
        """Whether it would be complete well before its deadline, even if it took twice as long."""
        ahead_s = self._queue.work_ahead_s(victim.rest)
        return now + 2.0 * (end - now + ahead_s) < victim.rest.deadline_at

    def _cut_for(self, urgent: Waiting, swap: _Swap, now: float) -> Cut:
        victim = swap.victim
        text = (
            f"{urgent.request_id} (priority {urgent.priority}) takes its slot and is {swap.saved_s:.1f} s sooner, each "
            f"counted {swap.weight:.1f} times; {victim.left_s:.0f} s left here, {swap.moved_s:.0f} s at "
            f"{swap.goes_on.node.node_id}"
        )
        return self._noted(
            victim,
            now,
            reason=CutReason.PRIORITY,
            to=swap.goes_on.node.node_id,
            in_favour_of=urgent.request_id,
            moved_s=swap.moved_s,
            gain_s=swap.gain_s,
            text=text,
        )

    # Rebalance.

    def _rebalance(self, now: float) -> list[Cut]:
        if not self._may_have_changed(now):
            return []
        planned = Replan(self._planner, now)
        found: list[Cut] = []
        victims = sorted(self._victims(now), key=lambda v: v.left_s, reverse=True)
        for victim in victims:
            goes_on = planned.best(victim.rest, self._verdicts.of(victim.rest, now).nodes, besides=victim.node)
            if goes_on is None or not goes_on.cost.is_free:
                continue
            moved_s = goes_on.end + PAUSE_S - now
            gain_s = victim.left_s - moved_s
            if gain_s <= max(LEAST_GAIN_S, LEAST_GAIN_RATIO * victim.left_s):
                continue
            disturbed_s = planned.disturbance_s(goes_on, victim.rest.model, moved_s) - planned.relief_s(victim)
            if gain_s <= disturbed_s:
                continue
            planned.leave(victim)
            planned.commit(goes_on, victim.rest.model)
            text = (
                f"moved to {goes_on.node.node_id}: {victim.left_s:.0f} s left here, {moved_s:.0f} s there, "
                f"saves {gain_s:.0f} s"
            )
            found.append(
                self._noted(
                    victim,
                    now,
                    reason=CutReason.REBALANCE,
                    to=goes_on.node.node_id,
                    in_favour_of="",
                    moved_s=moved_s,
                    gain_s=gain_s - disturbed_s,
                    text=text,
                )
            )
        return found

    def _may_have_changed(self, now: float) -> bool:
        """Whether a slot is free, and another one or a node came, or a moment passed, since the last look."""
        free = sum(max(0, n.slots - len(n.attempts)) for n in self._fleet.nodes.values())
        if not free:
            return False
        seen = (int(now / LOOK_EVERY_S), self._fleet.shape_version, free)
        changed, self._seen = seen != self._seen, seen
        return changed

    # Both.

    def _victims(self, now: float) -> Iterator[Victim]:
        """What may be cut, and would not be over soon."""
        for node in self._fleet.nodes.values():
            horizon: Horizon | None = None
            for attempt in node.attempts.values():
                waiting = self._ledger.asked(attempt)
                cuts = max(attempt.cuts, self._cuts.get(attempt.request_id, 0))
                if waiting is None or cuts >= CUTS_MAX or not may_be_cut(attempt, cuts, now):
                    continue
                if attempt.attempt_id in self._pending or attempt.attempt_id in self._refused:
                    continue
                if horizon is None:
                    horizon = self._planner.horizon(node, now)
                victim = Victim(attempt, node, waiting, cuts)
                victim.judge(self._base_left_s(attempt, horizon, now), horizon, self._config, now)
                if victim.left_s > SOON_OVER_S:
                    yield victim

    def _base_left_s(self, attempt: Attempt, horizon: Horizon, now: float) -> float:
        running = max(1, len(horizon.finishes))
        return self._planner.base_left_s(attempt, now, horizon.pace / (1.0 + horizon.beta * (running - 1)))

    def _noted(
        self,
        victim: Victim,
        now: float,
        *,
        reason: CutReason,
        to: str,
        in_favour_of: str,
        moved_s: float,
        gain_s: float,
        text: str,
    ) -> Cut:
        attempt = victim.attempt
        self._pending[attempt.attempt_id] = (now + _PENDING_S, in_favour_of)
        self._cuts[attempt.request_id] = victim.cuts + 1
        self._cuts.move_to_end(attempt.request_id)
        if len(self._cuts) > _CUTS_KEPT:
            self._cuts.popitem(last=False)
        return Cut(
            request_id=attempt.request_id,
            attempt_id=attempt.attempt_id,
            node_id=victim.node.node_id,
            reason=reason,
            to=to,
            in_favour_of=in_favour_of,
            left_s=rounded(victim.left_s, 3),
            moved_s=rounded(moved_s, 3),
            gain_s=rounded(gain_s, 3),
            cuts=victim.cuts + 1,
            text=text,
        )
