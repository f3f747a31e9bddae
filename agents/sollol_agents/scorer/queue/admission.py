"""What a request is expected to be when it comes, and why one cannot be served."""

from __future__ import annotations

import math
from collections.abc import Callable

from sollol_agents.scorer.choice.contexts import Rooms
from sollol_agents.scorer.choice.eligibility import EligibilityClass
from sollol_agents.scorer.choice.groups import GroupBook
from sollol_agents.scorer.choice.verdicts import Verdicts
from sollol_agents.scorer.choice.waiting import Belief, Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.knowledge.reliability import CEILING
from sollol_agents.scorer.queue import refusals
from sollol_agents.scorer.queue.births import Births
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.queue import Queue
from sollol_agents.scorer.queue.refusals import Refusal
from sollol_schemas.decision import RejectionReason
from sollol_schemas.grant import GrantRequest
from sollol_schemas.routing import RoutingMode

_SIZE_PIVOT_S = 4.0  # work that neither gains nor loses rank
_QUIET_WARM_UPS = 3.0  # so long without a new node, and none more is on its way
_RETRY_AFTER_MAX_S = 120.0
_BACK_WITHIN_S = 2.0  # a link that is whole again brings requests at once, and heartbeats within a second
_MISSED_S = 60.0  # so long a node that fell silent is waited for


class Admission:
    """Works out what a request's place in the queue depends on, and refuses what cannot be served."""

    def __init__(
        self,
        *,
        config: ScorerConfig,
        fleet: Fleet,
        queue: Queue,
        verdicts: Verdicts,
        planner: Planner,
        expected_output: Callable[[Waiting], float],
        births: Births,
        groups: GroupBook,
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._queue = queue
        self._verdicts = verdicts
        self._planner = planner
        self._expected_output = expected_output
        self._births = births
        self._groups = groups
        self._rooms = Rooms(fleet)

    def admitted(self, request: GrantRequest, now: float) -> Waiting:
        """The request with everything that its place in the queue depends on."""
        told = request.birth.number if request.birth is not None else 0
        waiting = Waiting(request, now, told or self._queue.next_number(), born_at=self._births.of(request, now))
        waiting.look_for_room(self._rooms.needs_of(waiting.model, request.context))
        waiting.expect(self._expected_output(waiting))
        if request.routing.prefer_cpu:
            self._insist_on_cpu(waiting, now)
        fresh = self._fresh(waiting, waiting.output_median, now)
        held = self._queue.beliefs.of(waiting)
        if held is not None and held.has_moved(fresh, waiting):
            self._judge_anew(waiting, fresh)
            held = fresh
        self._rank_by(waiting, held or fresh)
        return waiting

    def judge_anew(self, now: float) -> None:
        """Ranks again what waits, where so much was learnt since, or nodes have come."""
        for example, held in self._queue.beliefs.examples():
            fresh = self._fresh(example, self._expected_output(example), now)
            if held.has_moved(fresh, example):
                self._judge_anew(example, fresh)

    def _judge_anew(self, example: Waiting, fresh: Belief) -> None:
        for waiting in self._queue.beliefs.replace(example, fresh):
            self._queue.take_out(waiting)
            waiting.expect(self._expected_output(waiting))
            self._rank_by(waiting, fresh)
            self._queue.put_in(waiting)

    def _fresh(self, waiting: Waiting, median: float, now: float) -> Belief:
        """What would be believed of the request now, with such a median of its output."""
        nodes = self._verdicts.of(waiting, now).nodes
        if not nodes:
            return Belief(median, 0.0, 0.0)
        fastest = self._planner.fastest(waiting, nodes)
        return Belief(median, fastest.prompt_tps, fastest.decode_tps)

    def _rank_by(self, waiting: Waiting, belief: Belief) -> None:
        waiting.belief = belief
        is_its = belief.median_tokens == waiting.output_median
        mean = waiting.output_mean if is_its else waiting.limited_mean(belief.median_tokens)
        waiting.best_work_s = work_s = belief.work_s(waiting.request.context.prompt_tokens, mean)
        is_ranked = waiting.mode is not RoutingMode.ASYNC and work_s > 0 and self._config.theta > 0
        if is_ranked and waiting.is_broken_off:  # somebody reads it, and waits in its middle
            waiting.size_levels = -self._config.size_clamp
        else:
            waiting.size_levels = size_levels(work_s, self._config) if is_ranked else 0.0

    def _insist_on_cpu(self, waiting: Waiting, now: float) -> None:
        left_s = waiting.deadline_at - now
        nodes = self._verdicts.of(waiting, now).nodes
        if any(not n.has_gpu and self._planner.work_s(waiting, n) < left_s for n in nodes):
            waiting.insist_on_cpu()

    def refusal_at_once(self, waiting: Waiting, now: float) -> Refusal | None:
        """Why the request cannot be served at all, or None."""
        floor = waiting.request.routing.min_success_rate
        if floor is not None and floor > CEILING and waiting.mode is RoutingMode.RELIABLE:
            return Refusal(refusals.unprovable(floor, CEILING))
        if waiting.wanted and self._verdicts.of(waiting, now).is_ambiguous:
            return self.lack_of_nodes(waiting, now)
        if self.is_hopeless(waiting, now):
            return self.lack_of_nodes(waiting, now)
        if waiting.request.number <= 1 and self._queue.is_full(waiting.priority):
            error = refusals.queue_full(waiting, self._config.queue_limit)
            retry_after_s = max(1.0, min(_RETRY_AFTER_MAX_S, 0.1 * self._predicted_wait_s(waiting, now)))
            return Refusal(error, retry_after_s)
        return None

    def refusal_by_deadline(self, waiting: Waiting, now: float) -> Refusal | None:
        """Why a request that must wait cannot be served in time, or None."""
        left_s = waiting.deadline_at - now
        wait_s = self._predicted_wait_s(waiting, now, enough_s=left_s)
        if wait_s <= left_s:
            return None
        return Refusal(refusals.unreachable(wait_s, left_s), min(_RETRY_AFTER_MAX_S, wait_s - left_s))

    def is_hopeless(self, waiting: Waiting, now: float) -> bool:
        """Whether no node is eligible and none is worth waiting for."""
        verdict = self._verdicts.of(waiting, now)
        if verdict.nodes or now < self._fleet.patient_until:
            return False
        if now < waiting.came_at + _BACK_WITHIN_S and verdict.is_transient and self._is_missed(verdict, now):
            return False
        return not (waiting.mode is RoutingMode.ASYNC and verdict.is_transient)

    def _is_missed(self, verdict: EligibilityClass, now: float) -> bool:
        """Whether a node fell silent lately, and not in order."""
        down = [self._fleet.nodes.get(r.node_id) for r in verdict.rejections if r.reason is RejectionReason.DOWN]
        return any(n is not None and now - n.seen_at < _MISSED_S and not self._fleet.has_left(n) for n in down)

    def lack_of_nodes(self, waiting: Waiting, now: float) -> Refusal:
        """Why no node serves requests like this one."""
        verdict = self._verdicts.of(waiting, now)
        nodes = self._fleet.nodes
        opens_in_s = {
            r.node_id: nodes[r.node_id].breakers.opens_in_s(waiting.model, now)
            for r in verdict.rejections
            if r.reason is RejectionReason.BREAKER_OPEN and r.node_id in nodes
        }
        is_settled = self._is_settled(verdict, now)
        since = {node_id: f"tried again in {math.ceil(left_s)} s" for node_id, left_s in opens_in_s.items()}
        since |= self._gone(verdict, now)
        if waiting.bound is not None and not waiting.bound.is_fixed and nodes:
            error = refusals.no_model(waiting.bound, is_settled=is_settled)
        else:
            groups = self._groups.names()
            error = refusals.no_place(waiting, verdict, nodes.values(), since, groups, is_settled=is_settled)
        if not verdict.is_transient:
            return Refusal(error)
        waits_s = [s for node_id, s in opens_in_s.items() if waiting.model in nodes[node_id].installed]
        return Refusal(error, max(1.0, min(waits_s, default=self._config.down_after_s)))

    def _gone(self, verdict: EligibilityClass, now: float) -> dict[str, str]:
        """Of nodes that are down: whether they left in order, or since when nothing is heard of them."""
        down = [r.node_id for r in verdict.rejections if r.reason is RejectionReason.DOWN]
        views = [self._fleet.nodes[node_id] for node_id in down if node_id in self._fleet.nodes]
        return {
            node.node_id: "it left in order" if self._fleet.has_left(node) else f"silent for {now - node.seen_at:.0f} s"
            for node in views
        }

    def _is_settled(self, verdict: EligibilityClass, now: float) -> bool:
        """Whether every node is known that can be expected: none joined lately, and none that counts is away."""
        quiet_since = max([self._fleet.patient_until, *(node.joined_at for node in self._fleet.nodes.values())])
        return now >= quiet_since + _QUIET_WARM_UPS * self._config.warm_up_s and not verdict.is_transient

    def _predicted_wait_s(self, waiting: Waiting, now: float, *, enough_s: float = -math.inf) -> float:
        """Seconds until a slot: the soonest start, and the work ahead spread over the class's nodes.

        With `enough_s`, some upper bound that is no greater, where the first nodes prove one.
        """
        ahead_s = self._queue.work_ahead_s(waiting)
        soonest, parallel, wait_s = math.inf, 0.0, 0.0
        for start, share in self._planner.prospects(waiting, self._verdicts.of(waiting, now).nodes, now):
            soonest = min(soonest, start)
            parallel += share
            wait_s = soonest - now + max(0.0, ahead_s) / max(parallel, 1e-6)
            if wait_s <= enough_s:
                break
        return wait_s


def size_levels(work_s: float, config: ScorerConfig) -> float:
    """Levels that a large request loses, or a small one gains (negative); `work_s` > 0."""
    levels = config.theta * math.log2(work_s / _SIZE_PIVOT_S)
    return max(-config.size_clamp, min(config.size_clamp, levels))
