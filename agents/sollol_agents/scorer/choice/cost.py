"""The cost of running one request on one node, in predicted seconds.

    cost = wait * A + wake + load + b + 2 * beta * e + evict + prefix + risk + burst + preference

`b` is the work alone at the node's pace (prefill and expected decode), `A` stretches a wait by the work that
will overtake, `beta * e` is the slow-down suffered beside running attempts and once more the one caused to
them. `wake` is until a node that sleeps is there, and half as much again for waking it. `burst` counts while no
newcomers are expected. An answer may become long: a batch waits for its last, and a slow node makes a long answer
much later than a fast one. And slots that work for another model will go on to do so, and lose more beside this
request than beside one of their own. Estimates that depend only on the request and the node's speeds are kept with
the waiting request; what depends on the moment comes from the node's horizon.
"""

from __future__ import annotations

from typing import NamedTuple

from sollol_agents.scorer.choice.horizon import Horizon, LoadPlan
from sollol_agents.scorer.choice.profiles import Profile
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.nodes import Node
from sollol_schemas.decision import CandidateCost
from sollol_schemas.label_terms import unmet
from sollol_schemas.routing import RoutingMode

_SOON_S = 0.02
_new_tuple = tuple.__new__  # what calling a named tuple comes to, without a call in between
_RELIABLE_RISK_FACTOR = 5.0
_DISPERSION_WEIGHT = 0.5
_UPTIME_WEIGHT_S = 0.05
_UPTIME_FULL_S = 3600.0
TASK_PREFERENCE_SHARE = 0.1
"""Share of the work by which a node is cheaper for a type of task that it prefers; see `TASK_PREFERENCE_MOST_S`."""
TASK_PREFERENCE_MOST_S = 1.0
"""Seconds that such a preference is worth at most: it settles what is nearly equal, and never fills a slow node."""
LATE = 2.0
"""Nine answers of ten are shorter than so many times their mean."""
_STREAM_RATIO = 0.4  # so many newcomers for each answer, and it is a stream
_LATE_SHARE = 0.5  # how much of what an answer may last beyond its mean counts when no newcomers are expected
LOCAL_RTT_SHARE = 0.5
"""How much of the round trip counts, unless the caller prefers nearby nodes."""


class Estimate:
    """What is known of one request on one node, whatever the moment. Seconds at the node's usual pace."""

    __slots__ = (
        "decode_s",
        "fixed_s",
        "hit_tokens",
        "output_median",
        "preference_s",
        "prefill_s",
        "prefix_evict_s",
        "profile",
        "risk_s",
        "rtt_s",
        "work_s",
    )

    def __init__(self, waiting: Waiting, profile: Profile, rules: CostRules, *, has_cpu_rival: bool) -> None:
        context, routing = waiting.request.context, waiting.request.routing
        self.profile = profile
        self.hit_tokens = 0
        self.prefix_evict_s = 0.0
        if waiting.has_prefix:
            self._look_for_prefix(waiting)
        self.prefill_s = (context.prompt_tokens - self.hit_tokens) / profile.prompt_tps
        self.output_median = 0.0 if context.is_load_only else waiting.output_median
        self.decode_s = waiting.output_mean / profile.decode_tps
        self.work_s = self.prefill_s + self.decode_s
        self.rtt_s = profile.rtt_s if routing.prefer_local else profile.rtt_s * LOCAL_RTT_SHARE
        self.risk_s = profile.risk_ratio * (self.work_s + rules.risk_overhead_s)
        self.preference_s = profile.weight_ratio * self.work_s
        if context.task_type in profile.node.telemetry.preferred_task_types:
            self.preference_s -= min(TASK_PREFERENCE_MOST_S, TASK_PREFERENCE_SHARE * self.work_s)
        if routing.prefer is not None:
            self.preference_s += rules.prefer_s * len(unmet(routing.prefer, profile.node.telemetry.labels))
        if waiting.mode is RoutingMode.RELIABLE:
            self.risk_s *= _RELIABLE_RISK_FACTOR
            self.preference_s += _unsteadiness_s(profile.node, self.work_s)
        elif waiting.mode is RoutingMode.ASYNC and profile.node.has_gpu and has_cpu_rival:
            self.preference_s += (rules.async_gpu_factor - 1.0) * self.work_s
        self.fixed_s = self.prefix_evict_s + self.rtt_s + self.risk_s + self.preference_s

    def _look_for_prefix(self, waiting: Waiting) -> None:
        context, session = waiting.request.context, waiting.request.routing.session_id
        mirror = self.profile.node.mirror
        hit = mirror.hit_tokens(waiting.model, session, context.prefix_hashes, context.prefix_tokens)
        if waiting.cached_on == self.profile.node.node_id:
            hit = context.prompt_tokens
        self.hit_tokens = max(0, min(hit, context.prompt_tokens - 1))
        if session is not None and not self.hit_tokens:
            lost = mirror.would_evict_tokens(waiting.model, session, self.profile.model_slots)
            self.prefix_evict_s = 2.0 * lost / self.profile.prompt_tps


class CostRules(NamedTuple):
    """Settings that enter a cost."""

    risk_overhead_s: float
    async_gpu_factor: float
    ageing_s: float
    prefer_s: float = 5.0
    cheap_patience_s: float = 60.0

    @classmethod
    def of(cls, config: ScorerConfig) -> CostRules:
        """As configured."""
        return cls(
            config.risk_overhead_s,
            config.async_gpu_factor,
            config.ageing_s,
            config.prefer_s,
            config.cheap_patience_s,
        )


class Cost(NamedTuple):
    """The cost of one candidate at one moment; compared by `total_s`."""

    total_s: float
    start: float
    is_free: bool
    load: LoadPlan | None
    slowdown_s: float
    overtaking: float
    horizon: Horizon
    estimate: Estimate
    burst_s: float = 0.0


def estimate(waiting: Waiting, profile: Profile, rules: CostRules, *, has_cpu_rival: bool = False) -> Estimate:
    """The moment-independent part of a request's cost on a node; kept until the node's figures change."""
    node_id = profile.node.node_id
    known: Estimate | None = waiting.estimates.get(node_id)
    if known is not None and known.profile is profile:
        return known
    fresh = waiting.estimates[node_id] = Estimate(waiting, profile, rules, has_cpu_rival=has_cpu_rival)
    return fresh


def _unsteadiness_s(node: Node, work_s: float) -> float:
    """What RELIABLE requests pay for a node whose times stray, and a little for one that just started."""
    youth = 1.0 - min(node.telemetry.uptime_s, _UPTIME_FULL_S) / _UPTIME_FULL_S
    return work_s * _DISPERSION_WEIGHT * node.record.dispersion + _UPTIME_WEIGHT_S * youth


def evaluate(waiting: Waiting, e: Estimate, h: Horizon, now: float, bucket: int) -> Cost:
    """The cost of starting the request on this node as soon as the horizon allows.

    This is the innermost loop of every decision, so it is one function without calls that could be spared.
    """
    profile = e.profile
    finishes = h.finishes
    running = len(finishes)
    model = waiting.model
    start = h.free_at or now
    is_free = h.free_at == 0.0
    if profile.model_slots < h.slots:
        own = [f for f, m in finishes if m == model]
        if len(own) >= profile.model_slots:
            is_free = False
            start = max(start, own[len(own) - profile.model_slots])
    load_s = evict_s = 0.0
    load: LoadPlan | None = None
    ready_at = h.ready.get(model)
    if ready_at is None:
        load = h.load_plan(profile.need_bytes)
        load_s, evict_s = profile.load_s, load.evict_s
        if load.begins_at > start:
            start, is_free = load.begins_at, False
    elif ready_at > start:
        start, is_free = ready_at, False
    if not is_free and start < now + _SOON_S:
        start = now + _SOON_S
    work_s = e.work_s / h.pace
    slowdown_s = 0.0
    if running:
        begin = start + load_s
        company = 1.0 + h.beta * ((min(h.slots, running)) - 1)
        for end, other in reversed(finishes):
            left = end - begin
            if left <= 0.0:
                break
            overlap = left / company
            beta = h.beta if other == model else h.beta_other
            slowdown_s += beta * (overlap if overlap < work_s else work_s)  # noqa: FURB136 a call costs more than the rest
    overtaking = 1.0
    if not is_free:
        overtaking = h.node.work.overtaking_factor(bucket, now)
    burst_s = _burst_s(waiting, e, h) if waiting.newcomers_ratio < _STREAM_RATIO else 0.0
    total = (start - now) * overtaking + load_s + work_s + 2.0 * slowdown_s + evict_s + burst_s + e.fixed_s
    total += h.wake_price_s
    return _new_tuple(Cost, (total, start, is_free, load, slowdown_s, overtaking, h, e, burst_s))


def _burst_s(waiting: Waiting, e: Estimate, h: Horizon) -> float:
    """What counts in a burst alone: how long the answer may become, and slots that will work for other models."""
    strangers = sum(other != waiting.model for _, other in h.finishes[-h.slots :])
    mixing_s = strangers * max(0.0, h.beta_other - h.beta) * e.work_s
    return (late_share(waiting) * e.decode_s + _burst_share(waiting) * mixing_s) / h.pace


def _burst_share(waiting: Waiting) -> float:
    """1 when no newcomers are expected, 0 in a stream."""
    return max(0.0, 1.0 - waiting.newcomers_ratio / _STREAM_RATIO)


def late_share(waiting: Waiting) -> float:
    """How much of its mean answer a request is charged because the answer may become long; 0 in a stream."""
    return _LATE_SHARE * (LATE - 1.0) * _burst_share(waiting)


def is_free_for(model: str, profile: Profile, h: Horizon, now: float) -> bool:
    """Whether `evaluate` would find a request of this model free to start now, on a node that has a free slot."""
    if profile.model_slots < h.slots and sum(m == model for _, m in h.finishes) >= profile.model_slots:
        return False
    ready_at = h.ready.get(model)
    begins_at = h.load_plan(profile.need_bytes).begins_at if ready_at is None else ready_at
    return begins_at <= now


def end_of(cost: Cost) -> float:
    """When the request would be complete."""
    load_s = cost.estimate.profile.load_s if cost.load is not None else 0.0
    return cost.start + load_s + cost.estimate.work_s / cost.horizon.pace + cost.slowdown_s


def latest_end(cost: Cost) -> float:
    """When a request would end if its answer became long, the reloads that it causes included."""
    evict_s = cost.load.evict_s if cost.load is not None else 0.0
    work_s = cost.estimate.work_s
    late_s = (LATE - 1.0) * cost.estimate.decode_s / cost.horizon.pace
    return end_of(cost) + evict_s + late_s * (1.0 + cost.slowdown_s * cost.horizon.pace / max(work_s, 1e-6))


def first_token_s(cost: Cost) -> float:
    """Predicted seconds from the start to the first token."""
    e, h = cost.estimate, cost.horizon
    load_s = e.profile.load_s if cost.load is not None else 0.0
    company = 1.0 + h.beta * len(h.finishes)
    return load_s + e.prefill_s * company / h.pace + e.rtt_s


def gap_s(cost: Cost) -> float:
    """Predicted seconds between two tokens beside what runs there."""
    e, h = cost.estimate, cost.horizon
    return (1.0 + h.beta * len(h.finishes)) / (h.pace * e.profile.decode_tps)


def explain(cost: Cost, now: float) -> CandidateCost:
    """The cost term by term; whoever publishes it cuts the digits."""
    e, h = cost.estimate, cost.horizon
    wait_s = max(0.0, cost.start - now)
    wake_s = max(0.0, min(wait_s, h.wakes_at - now))
    return CandidateCost(
        node_id=h.node.node_id,
        total_s=cost.total_s,
        completion_s=end_of(cost) - now + e.rtt_s,
        wait_s=wait_s - wake_s,
        overtaking_s=wait_s * (cost.overtaking - 1.0),
        wake_s=wake_s + h.wake_price_s,
        load_s=e.profile.load_s if cost.load is not None else 0.0,
        prefill_s=e.prefill_s / h.pace,
        decode_s=e.decode_s / h.pace,
        slowdown_s=2.0 * cost.slowdown_s,
        evict_s=cost.load.evict_s if cost.load is not None else 0.0,
        prefix_evict_s=e.prefix_evict_s,
        risk_s=e.risk_s + cost.burst_s,
        preference_s=e.preference_s,
        rtt_s=e.rtt_s,
        prefix_hit_tokens=e.hit_tokens,
        is_busy=not cost.is_free,
    )


def longest_prefill_s(horizon: Horizon, now: float) -> float:
    """Seconds for which some prefill that runs there may still hold others' tokens back."""
    longest, pace = 0.0, horizon.pace
    for attempt in horizon.node.attempts.values():
        if not attempt.has_first_token:
            left, done = attempt.prefill_s / pace, now - attempt.granted_at - attempt.load_s
            if done > 0.0:
                left -= done
            if left > longest:  # noqa: PLR1730 a call costs more than the rest
                longest = left
    return longest
