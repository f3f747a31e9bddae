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

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator

from sollol_agents.scorer.choice.cost import Cost
from sollol_agents.scorer.choice.horizon import Horizon
from sollol_agents.scorer.choice.verdicts import Verdicts
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.queue.gains import LEAST_GAIN_S, LEAST_LEVELS, Gains, Move, Swap
from sollol_agents.scorer.queue.ledger import GrantLedger
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.queue import Queue, merged
from sollol_agents.scorer.queue.replan import Replan
from sollol_agents.scorer.queue.untried import Untried
from sollol_agents.scorer.queue.victims import SOON_OVER_S, Victim, may_be_cut, taken_over
from sollol_schemas.continuation import CUTS_MAX, Cut, CutReason
from sollol_schemas.slim import rounded

_LOOK_EVERY_S = 0.5  # so often a waiting request is looked at, and rebalancing while nothing changes
_URGENT = 4  # waiting requests of each class that may take a slot
_SWAPS = 64  # of a request and a running answer that are worked out in one look
_VICTIMS_MAX = 24  # running answers that are worked out in one look, and fewer where nodes are many
_VICTIMS_MIN = 6
_PAIRS = 400  # of a running answer and a node
_HEARD_S = 5.0  # nobody has asked for cuts for so long: nothing is held for them
_PENDING_S = 2.0  # so long a cut is waited for
_AGAIN_S = 5.0  # so long after a cut in its favour a request gets no other
_REFUSED_S = 10.0
_NO_WAY_BACK_S = 60.0  # so long an answer does not go back, for a better time, to the node that it was moved off
_CUTS_KEPT = 4096


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
        self._planner = planner
        self._untried = Untried()
        self._gains = Gains(config, queue, verdicts, planner, self._untried)
        self._pending: dict[str, tuple[float, str]] = {}
        """Attempts that are being cut: until when that is waited for, and the request that gets the slot."""
        self._favoured: dict[str, float] = {}
        """Requests in whose favour something was cut, until they may have another cut."""
        self._refused: dict[str, float] = {}
        """Attempts that were not cut, until they may be asked for again."""
        self._taken_over: dict[str, Waiting] = {}
        """Requests of attempts that a predecessor granted."""
        self._counts: OrderedDict[str, int] = OrderedDict()
        """How often each request was moved, as far as this scorer did it."""
        self._left: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """The node that each of them was moved off last for a better time elsewhere, and until when that counts."""
        self._looked: dict[str, float] = {}
        """When each of the first waiting requests was looked at last."""
        self._seen: object = None
        self._ready: list[Cut] = []
        """Found by `holds`, and not told yet."""
        self._heard_at = -math.inf
        """When somebody asked for cuts last."""

    def may_cut(self, now: float) -> bool:
        """Whether anything runs that could be cut; whoever asks this takes the cuts for which requests wait."""
        self._heard_at = now
        return bool(self._fleet.in_flight) and (self._config.undo_for_priority or self._config.undo_to_rebalance)

    def cuts(self, now: float) -> list[Cut]:
        """What to cut now; each is remembered as under way, and is not named again."""
        config = self._config
        found = [cut for cut in self._ready if self._fleet.attempt(cut.attempt_id) is not None]
        self._ready.clear()
        if not self.may_cut(now):
            return []
        self._settle(now)
        self._gains.begin()
        if config.undo_for_priority and len(self._queue):
            found += self._for_priority(now)
        if config.undo_to_rebalance and self._has_changed(now):
            found += self._rescued(now) if len(self._queue) else self._rebalanced(now)
        return found

    def refused(self, attempt_id: str, now: float) -> None:
        """The node does not cut an attempt, or does not answer: it is left alone for a while."""
        attempt = self._fleet.attempt(attempt_id)
        if self._pending.pop(attempt_id, None) is not None and attempt is not None:
            self._counts[attempt.request_id] = max(0, self._counts.get(attempt.request_id, 0) - 1)
        self._refused[attempt_id] = now + _REFUSED_S

    def holds(self, waiting: Waiting, cost: Cost, now: float) -> bool:
        """Whether a request waits a moment for the slot of a running answer, rather than start where it could now.

        The cut is among the next `cuts`; nothing is held where nobody asks for these.
        """
        if not self._config.undo_for_priority or now - self._heard_at > _HEARD_S:
            return False
        rank = self._gains.rank(waiting, now)
        if rank < self._fleet.least_rank + LEAST_LEVELS or rank < self._ledger.least_rank_now() + LEAST_LEVELS:
            return False
        self._settle(now)
        if waiting.request_id in self._favoured:
            return any(request_id == waiting.request_id for _, request_id in self._pending.values())
        self._gains.begin()
        planned = Replan(self._planner, now)
        here = planned.at(waiting, cost.horizon.node)
        least_end = here.end - LEAST_GAIN_S
        nodes = [n for n in self._gains.likely(waiting, now) if n.resident(waiting.model) is not None]
        if not any(planned.soonest(waiting, node) < least_end for node in nodes):
            return False
        swap = self._gains.swap(waiting, here.end, self._victims(_least_urgent, now), planned, now)
        if swap is None or swap.saved_s < LEAST_GAIN_S:
            return False
        self._ready.append(self._swapped(waiting, swap, now))
        return True

    def _settle(self, now: float) -> None:
        """Forgets what is over."""
        attempt = self._fleet.attempt
        for attempt_id, (until, _) in list(self._pending.items()):
            if attempt(attempt_id) is None:
                del self._pending[attempt_id]
            elif until <= now:
                self.refused(attempt_id, now)
        self._taken_over = {a: waiting for a, waiting in self._taken_over.items() if attempt(a) is not None}
        self._favoured = {r: until for r, until in self._favoured.items() if until > now}
        self._refused = {a: until for a, until in self._refused.items() if until > now and attempt(a) is not None}

    def _for_priority(self, now: float) -> list[Cut]:
        """Swaps for what waits, in order of rank."""
        first = [w for w in merged(self._queue.lines(), _URGENT) if not w.is_away]
        before = self._looked
        due = {w.request_id for w in first if before.get(w.request_id, -math.inf) + _LOOK_EVERY_S <= now}
        if not due:
            return []
        victims = self._victims(_least_urgent, now)
        most = max(_URGENT, _SWAPS // max(1, len(victims)))
        if len(first) > most:  # those that were looked at a moment ago give way to the others
            first = [w for w in first if w.request_id in due][:most]
            due = {w.request_id for w in first}
        self._looked = {r: at for r, at in before.items() if at + _LOOK_EVERY_S > now} | dict.fromkeys(due, now)
        if not victims:
            return []
        least_rank = min(v.granted_rank for v in victims) + LEAST_LEVELS
        planned = Replan(self._planner, now)
        found: list[Cut] = []
        for urgent in first:
            if not due or self._gains.rank(urgent, now) < least_rank:
                break
            due.discard(urgent.request_id)
            place = planned.best(urgent, self._gains.likely(urgent, now))
            if place is None or urgent.request_id in self._favoured:
                continue
            swap = self._gains.swap(urgent, place.end, victims, planned, now)
            if swap is None:
                planned.commit(place, urgent.model)
                continue
            planned.replace(swap.victim, swap.urgent, urgent.model)
            planned.commit(swap.goes_on, swap.victim.rest.model)
            victims.remove(swap.victim)
            found.append(self._swapped(urgent, swap, now))
        return found

    def _rebalanced(self, now: float) -> list[Cut]:
        """Moves to slots that nobody waits for, the answers with most left first."""
        nodes = self._fleet.nodes.values()
        if len(nodes) < 2 or not any(len(n.attempts) < n.slots for n in nodes):
            return []
        planned = Replan(self._planner, now)
        found: list[Cut] = []
        for victim in sorted(self._victims(self._longest, now), key=lambda v: v.left_s, reverse=True):
            victim.beside(planned.horizon(victim.node))
            if victim.left_s <= SOON_OVER_S:
                continue
            move = self._gains.move(victim, planned, now)
            if move is not None:
                planned.leave(victim)
                planned.commit(move.goes_on, victim.rest.model)
                found.append(self._moved(move, now, "saves"))
        return found

    def _rescued(self, now: float) -> list[Cut]:
        """A move of the answer that misses its deadline by most where it is, though others wait."""
        planned = Replan(self._planner, now)
        moves = (self._gains.rescue(victim, planned, now) for victim in self._victims(self._longest, now))
        worst = max((m for m in moves if m is not None), key=lambda m: m.gain_s, default=None)
        return [self._moved(worst, now, "would be too late here: saves")] if worst is not None else []

    def _has_changed(self, now: float) -> bool:
        """Whether slots came free or nodes changed, or a moment passed, since the last look."""
        free = sum(max(0, n.slots - len(n.attempts)) for n in self._fleet.nodes.values())
        seen = (int(now / _LOOK_EVERY_S), self._fleet.shape_version, free)
        has_changed, self._seen = seen != self._seen, seen
        return has_changed

    def _victims(self, first: Callable[[Attempt, float], float], now: float) -> list[Victim]:
        """What may be cut, and would not be over soon: of many those of which `first` tells the least."""
        able = [one for node in self._fleet.nodes.values() for one in self._able(node, now)]
        most = max(_VICTIMS_MIN, min(_VICTIMS_MAX, _PAIRS // max(1, len(self._fleet.nodes))))
        if len(able) > most:
            able = heapq.nsmallest(most, able, key=lambda victim: first(victim.attempt, now))
        horizons: dict[str, Horizon] = {}
        for victim in able:
            node = victim.node
            horizon = horizons.get(node.node_id) or self._planner.horizon(node, now)
            horizons[node.node_id] = horizon
            victim.judge(self._base_left_s(victim.attempt, horizon, now), horizon, self._config, now)
        return [victim for victim in able if victim.left_s > SOON_OVER_S]

    def _able(self, node: Node, now: float) -> Iterator[Victim]:
        for attempt in node.attempts.values():
            waiting = self._ledger.asked(attempt) or self._taken_over_from(attempt, now)
            cuts = max(attempt.cuts, self._counts.get(attempt.request_id, 0))
            is_asked = attempt.attempt_id in self._pending or attempt.attempt_id in self._refused
            if waiting is not None and not is_asked and cuts < CUTS_MAX and may_be_cut(attempt, cuts, now):
                left, until = self._left.get(attempt.request_id, ("", 0.0))
                yield Victim(attempt, node, waiting, cuts, left=left if now < until else "")

    def _taken_over_from(self, attempt: Attempt, now: float) -> Waiting | None:
        """The request of an attempt that a predecessor in office granted."""
        known = self._taken_over.get(attempt.attempt_id)
        if known is None and (known := taken_over(attempt, self._config.ageing_s, now)) is not None:
            self._taken_over[attempt.attempt_id] = known
        return known

    def _longest(self, attempt: Attempt, now: float) -> float:
        return -self._planner.base_left_s(attempt, now, 1.0)

    def _base_left_s(self, attempt: Attempt, horizon: Horizon, now: float) -> float:
        running = max(1, len(horizon.finishes))
        return self._planner.base_left_s(attempt, now, horizon.pace / (1.0 + horizon.beta * (running - 1)))

    def _swapped(self, urgent: Waiting, swap: Swap, now: float) -> Cut:
        left_s, to, here = swap.victim.left_s, swap.goes_on.node.node_id, swap.victim.node.node_id
        if to == here:
            lost = f"gives way and goes on here afterwards: {left_s:.0f} s left, {swap.moved_s:.0f} s with the break; "
        else:
            lost = f"moved to {to}: {left_s:.0f} s left here, {swap.moved_s:.0f} s there; "
        text = lost + (f"{urgent.request_id} of priority {urgent.priority} gets the slot, {swap.saved_s:.1f} s sooner")
        self._favoured[urgent.request_id] = now + _AGAIN_S
        return self._noted(swap, CutReason.PRIORITY, text, now, in_favour_of=urgent.request_id)

    def _moved(self, move: Move, now: float, why: str) -> Cut:
        left_s, to = move.victim.left_s, move.goes_on.node.node_id
        text = (
            f"moved to {to}: {left_s:.0f} s left here, {move.moved_s:.0f} s there, {why} {left_s - move.moved_s:.0f} s"
        )
        request_id = move.victim.attempt.request_id
        self._left[request_id] = (move.victim.node.node_id, now + _NO_WAY_BACK_S)
        self._left.move_to_end(request_id)
        if len(self._left) > _CUTS_KEPT:
            self._left.popitem(last=False)
        return self._noted(move, CutReason.REBALANCE, text, now)

    def _noted(self, cut: Swap | Move, reason: CutReason, text: str, now: float, *, in_favour_of: str = "") -> Cut:
        """The cut as it is told; it is under way from now on."""
        attempt, victim = cut.victim.attempt, cut.victim
        self._pending[attempt.attempt_id] = (now + _PENDING_S, in_favour_of)
        self._untried.note(cut.goes_on.node, victim.rest.model, now)
        self._counts[attempt.request_id] = victim.cuts + 1
        self._counts.move_to_end(attempt.request_id)
        if len(self._counts) > _CUTS_KEPT:
            self._counts.popitem(last=False)
        return Cut(
            request_id=attempt.request_id,
            attempt_id=attempt.attempt_id,
            node_id=victim.node.node_id,
            reason=reason,
            to=cut.goes_on.node.node_id,
            in_favour_of=in_favour_of,
            left_s=rounded(victim.left_s, 3),
            moved_s=rounded(cut.moved_s, 3),
            gain_s=rounded(cut.gain_s, 3),
            cuts=victim.cuts + 1,
            text=text,
        )


def _least_urgent(attempt: Attempt, _now: float) -> float:
    return attempt.arrival_rank
