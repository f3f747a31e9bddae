"""The cost of running one request on one node, in predicted seconds.

    cost = wait * A + load + b + 2 * beta * e + evict + prefix + risk + preference

`b` is the work alone at the node's pace (prefill and expected decode), `A` stretches a wait by the work that
will overtake, `beta * e` is the slow-down suffered beside running attempts and once more the one caused to
them. Estimates that depend only on the request and the node's speeds are kept with the waiting request;
what depends on the moment comes from the node's horizon.
"""

from __future__ import annotations

from typing import NamedTuple

from sollol_agents.scorer.attempts import Attempt
from sollol_agents.scorer.horizon import Horizon, LoadPlan
from sollol_agents.scorer.lognormal import MEAN_FACTOR
from sollol_agents.scorer.nodes import Node
from sollol_agents.scorer.priors import cpu_machine, decode_tps, weight_bytes
from sollol_agents.scorer.residency import need_bytes
from sollol_agents.scorer.waiting import Waiting
from sollol_schemas.decision import CandidateCost
from sollol_schemas.routing import RoutingMode

_SOON_S = 0.02
_RELIABLE_RISK_FACTOR = 5.0
_DISPERSION_WEIGHT = 0.5
_UPTIME_WEIGHT_S = 0.05
_UPTIME_FULL_S = 3600.0
_LOCAL_RTT_SHARE = 0.5


class Estimate:
    """What is known of one request on one node, whatever the moment. Seconds at the node's usual pace."""

    __slots__ = (
        "decode_s",
        "decode_tps",
        "fixed_s",
        "hit_tokens",
        "load_s",
        "model_slots",
        "need_bytes",
        "output_median",
        "preference_s",
        "prefill_s",
        "prefix_evict_s",
        "risk_s",
        "rtt_s",
        "shape_version",
        "speed_version",
        "work_s",
    )

    decode_s: float
    decode_tps: float
    fixed_s: float
    hit_tokens: int
    load_s: float
    model_slots: int
    need_bytes: float
    output_median: float
    preference_s: float
    prefill_s: float
    prefix_evict_s: float
    risk_s: float
    rtt_s: float
    shape_version: int
    speed_version: int
    work_s: float


class CostRules(NamedTuple):
    """Settings that enter a cost."""

    risk_overhead_s: float
    async_gpu_factor: float
    ageing_s: float


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


def estimate(waiting: Waiting, node: Node, rules: CostRules, *, has_cpu_rival: bool) -> Estimate:
    """The moment-independent part of a request's cost on a node; kept until the node's figures change."""
    known = waiting.estimates.get(node.node_id)
    if (
        isinstance(known, Estimate)
        and known.speed_version == node.speed_version + node.speeds.version
        and known.shape_version == node.shape_version
    ):
        return known
    fresh = _estimate(waiting, node, rules, has_cpu_rival)
    waiting.estimates[node.node_id] = fresh
    return fresh


def _estimate(waiting: Waiting, node: Node, rules: CostRules, has_cpu_rival: bool) -> Estimate:
    context, routing = waiting.request.context, waiting.request.routing
    model = node.installed[waiting.model]
    size = weight_bytes(model)
    e = Estimate()
    e.shape_version = node.shape_version
    e.speed_version = node.speed_version + node.speeds.version
    e.model_slots = node.model_slots(model)
    e.need_bytes = need_bytes(model, e.model_slots, context.num_ctx)
    prompt = context.prompt_tokens
    hit = node.mirror.hit_tokens(waiting.model, routing.session_id, context.prefix_hashes, context.prefix_tokens)
    e.hit_tokens = max(0, min(hit, prompt - 1))
    spill = _spill(node, e.need_bytes, waiting.model)
    prompt_tps = node.speeds.prompt_tps(waiting.model, size) / spill
    e.decode_tps = node.speeds.decode_tps(waiting.model, size) / spill
    e.prefill_s = (prompt - e.hit_tokens) / prompt_tps
    e.output_median = 0.0 if context.is_load_only else waiting.output_median
    mean = e.output_median * MEAN_FACTOR
    if context.max_output_tokens is not None:
        mean = min(mean, float(context.max_output_tokens))
    e.decode_s = mean / e.decode_tps
    e.work_s = e.prefill_s + e.decode_s
    e.load_s = node.speeds.load_s(waiting.model, size)
    lost = 0 if e.hit_tokens else _lost_prefix_tokens(waiting, node, e.model_slots)
    e.prefix_evict_s = 2.0 * lost / prompt_tps
    e.rtt_s = min(node.telemetry.bus_rtt_s, 10.0) * (1.0 if routing.prefer_local else _LOCAL_RTT_SHARE)
    e.risk_s = _risk_s(waiting, node, e.work_s, rules)
    e.preference_s = _preference_s(waiting, node, e.work_s, rules, has_cpu_rival)
    e.fixed_s = e.prefix_evict_s + e.rtt_s + e.risk_s + e.preference_s
    return e


def _spill(node: Node, need: float, model: str) -> float:
    """Slow-down of a model that does not lie in video memory as a whole; 1 when it does."""
    vram = node.budget.vram_bytes
    if not node.has_gpu or node.is_router_free or vram <= 0 or need <= vram or node.resident(model) is not None:
        return 1.0
    outside = 1.0 - vram / need
    cpu = decode_tps(cpu_machine(node.telemetry.cpu_count), need)
    alone = node.speeds.decode_tps(model, need)
    return max(1.0, 1.0 - outside + outside * alone / cpu)


def _lost_prefix_tokens(waiting: Waiting, node: Node, slots: int) -> int:
    session = waiting.request.routing.session_id
    if session is None:
        return 0
    return node.mirror.would_evict_tokens(waiting.model, session, slots)


def _risk_s(waiting: Waiting, node: Node, work_s: float, rules: CostRules) -> float:
    """Expected seconds lost to failure; five times that for RELIABLE requests."""
    success = node.record.expected
    risk = (1.0 - success) / max(0.2, success) * (work_s + rules.risk_overhead_s)
    return risk * _RELIABLE_RISK_FACTOR if waiting.mode is RoutingMode.RELIABLE else risk


def _preference_s(waiting: Waiting, node: Node, work_s: float, rules: CostRules, has_cpu_rival: bool) -> float:
    """Preferences as seconds: the operator's weight, patience with CPUs, steadiness for RELIABLE."""
    preference = work_s * (1.0 / node.telemetry.weight - 1.0)
    if waiting.mode is RoutingMode.ASYNC and node.has_gpu and has_cpu_rival:
        preference += work_s * (rules.async_gpu_factor - 1.0)
    if waiting.mode is RoutingMode.RELIABLE:
        youth = 1.0 - min(node.telemetry.uptime_s, _UPTIME_FULL_S) / _UPTIME_FULL_S
        preference += work_s * _DISPERSION_WEIGHT * node.record.dispersion + _UPTIME_WEIGHT_S * youth
    return preference


def evaluate(waiting: Waiting, e: Estimate, h: Horizon, now: float, rules: CostRules) -> Cost:
    """The cost of starting the request on this node as soon as the horizon allows."""
    finishes = h.finishes
    running = len(finishes)
    model = waiting.model
    start = now
    is_free = True
    if running >= h.slots or h.is_full:
        is_free = False
        start = finishes[min(running - 1, max(0, running - h.slots))][0] if running else now + _SOON_S
    if e.model_slots < h.slots:
        own = [f for f, m in finishes if m == model]
        if len(own) >= e.model_slots:
            is_free = False
            start = max(start, own[len(own) - e.model_slots])
    load_s = evict_s = 0.0
    load: LoadPlan | None = None
    ready_at = h.ready.get(model)
    if ready_at is None:
        load = h.load_plan(model, e.need_bytes)
        load_s, evict_s = e.load_s, load.evict_s
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
        company = 1.0 + h.beta * (running - 1)
        for end, other in reversed(finishes):
            left = end - begin
            if left <= 0.0:
                break
            overlap = left / company
            beta = h.beta if other == model else h.beta_other
            slowdown_s += beta * min(overlap, work_s)
    overtaking = 1.0
    if not is_free:
        overtaking = h.node.work.overtaking_factor(waiting.rank(now, rules.ageing_s), now)
    total = (start - now) * overtaking + load_s + work_s + 2.0 * slowdown_s + evict_s + e.fixed_s
    return Cost(total, start, is_free, load, slowdown_s, overtaking, h, e)


def end_of(cost: Cost) -> float:
    """When the request would be complete."""
    load_s = cost.estimate.load_s if cost.load is not None else 0.0
    return cost.start + load_s + cost.estimate.work_s / cost.horizon.pace + cost.slowdown_s


def first_token_s(cost: Cost) -> float:
    """Predicted seconds from the start to the first token."""
    e, h = cost.estimate, cost.horizon
    load_s = e.load_s if cost.load is not None else 0.0
    company = 1.0 + h.beta * len(h.finishes)
    return load_s + e.prefill_s * company / h.pace + e.rtt_s


def gap_s(cost: Cost) -> float:
    """Predicted seconds between two tokens beside what runs there."""
    e, h = cost.estimate, cost.horizon
    return (1.0 + h.beta * len(h.finishes)) / (h.pace * e.decode_tps)


def explain(cost: Cost, now: float) -> CandidateCost:
    """The cost term by term, as it is published."""
    e, h = cost.estimate, cost.horizon
    wait_s = max(0.0, cost.start - now)
    return CandidateCost(
        node_id=h.node.node_id,
        total_s=round(cost.total_s, 4),
        completion_s=round(end_of(cost) - now + e.rtt_s, 4),
        wait_s=round(wait_s, 4),
        overtaking_s=round(wait_s * (cost.overtaking - 1.0), 4),
        load_s=round(e.load_s, 4) if cost.load is not None else 0.0,
        prefill_s=round(e.prefill_s / h.pace, 4),
        decode_s=round(e.decode_s / h.pace, 4),
        slowdown_s=round(cost.slowdown_s, 4),
        externality_s=round(cost.slowdown_s, 4),
        evict_s=round(cost.load.evict_s, 4) if cost.load is not None else 0.0,
        prefix_evict_s=round(e.prefix_evict_s, 4),
        risk_s=round(e.risk_s, 4),
        preference_s=round(e.preference_s, 4),
        rtt_s=round(e.rtt_s, 5),
        prefix_hit_tokens=e.hit_tokens,
        is_free_now=cost.is_free,
    )


def prefill_left_s(attempt: Attempt, now: float, pace: float) -> float:
    """Seconds for which an attempt's prefill may still hold others' tokens back."""
    if attempt.has_first_token:
        return 0.0
    return max(0.0, attempt.prefill_s / pace - max(0.0, now - attempt.granted_at - attempt.load_s))
