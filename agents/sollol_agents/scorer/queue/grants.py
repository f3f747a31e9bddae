"""What a grant says: the decision with its candidates, the reply to the dispatcher, the ledger's entry."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec

from sollol_agents.scorer.choice.cost import Cost, end_of, explain, first_token_s, gap_s, longest_prefill_s
from sollol_agents.scorer.choice.eligibility import EligibilityClass
from sollol_agents.scorer.choice.expense import expense_of
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.strategies.base import Choice
from sollol_schemas.contrasts import contrast
from sollol_schemas.decision import CandidateCost, Decision, DecisionEvent, Forecast
from sollol_schemas.grant import Granted
from sollol_schemas.groups import GroupStrategy
from sollol_schemas.ids import attempt_id
from sollol_schemas.prices import significant
from sollol_schemas.slim import rounded

_CANDIDATES = 8
_REJECTIONS = 8


class Circumstances(NamedTuple):
    """What a decision says besides the choice itself."""

    term: int
    now: float
    queued: int
    strategy: str


def made_decision(
    waiting: Waiting, choice: Choice, verdict: EligibilityClass, facts: Circumstances, *, is_dry_run: bool = False
) -> DecisionEvent:
    """The decision as it is published: the choice, the best candidates term by term, the refused nodes."""
    cost, now = choice.cost, facts.now
    best = list(choice.costs)
    if len(best) > 1:
        best = sorted(best, key=lambda c: c.total_s)[:_CANDIDATES]
        if cost not in best:
            best[-1] = cost
    candidates = tuple([_with_expense(explain(c, now), c) for c in best])
    reason = choice.reason or contrast(
        candidates[best.index(cost)],
        candidates,
        verdict.rejections,
        eligible=len(verdict.nodes),
        min_vram_gib=waiting.request.routing.min_vram_gb,
        where=waiting.request.routing.where,
    )
    return DecisionEvent(
        decision=_decision(waiting, cost, _of_group(waiting, _reason(reason, verdict, choice.note)), verdict, facts),
        candidates=candidates,
        rejections=verdict.rejections[:_REJECTIONS],
        queued=facts.queued,
        models=waiting.bound.candidates() if waiting.bound is not None else (),
        is_dry_run=is_dry_run,
    )


def _with_expense(told: CandidateCost, cost: Cost) -> CandidateCost:
    """A candidate with what it would cost in money, where its node has a price."""
    money = expense_of(cost)
    if money is None:
        return told
    currency = cost.horizon.node.telemetry.price.currency
    return msgspec.structs.replace(told, expense=significant(money, 4), currency=currency)


def _reason(reason: str, verdict: EligibilityClass, note: str) -> str:
    reason = f"{reason}; {note}" if note else reason
    if verdict.is_stopgap and len(verdict.nodes) == 1:
        return verdict.fallback  # it lacks what is wanted as well as the others do
    return f"{reason}; {verdict.fallback}" if verdict.fallback else reason


def _of_group(waiting: Waiting, reason: str) -> str:
    """Why this model of the group that was named, then why this node."""
    if waiting.bound is None:
        return reason
    return f"{waiting.request.context.model} of {waiting.bound.group.name}: {waiting.bound.reason}; {reason}"


def _decision(waiting: Waiting, cost: Cost, reason: str, verdict: EligibilityClass, facts: Circumstances) -> Decision:
    request, node, bound = waiting.request, cost.horizon.node, waiting.bound
    context, model = request.context, node.installed[waiting.model]
    return Decision(
        request_id=request.request_id,
        attempt_id=attempt_id(request.request_id, request.number),
        job_id=context.job_id,
        node_id=node.node_id,
        node_url=node.telemetry.engine.url,
        host=node.host,
        instance=node.instance,
        model=model.name,
        fingerprint=model.fingerprint,
        continued_tokens=waiting.said_tokens,
        group=bound.group.name if bound is not None else "",
        alternatives=max(0, len(bound.models) - 1) if bound is not None else 0,
        is_cheap_first=bound is not None and bound.group.strategy is GroupStrategy.CHEAP_FIRST,
        kind=context.kind,
        task_type=context.task_type,
        coding_category=context.coding_category or "",
        complexity=context.complexity_class,
        mode=waiting.mode,
        strategy=facts.strategy,
        priority=waiting.priority,
        queue_s=rounded(max(0.0, facts.now - waiting.enqueued_at), 4),
        attempt=request.number,
        reason=reason,
        rejected=dict(Counter(r.reason.value for r in verdict.rejections)) if verdict.rejections else {},
        term=facts.term,
        forecast=_forecast(waiting, cost, facts.now),
        caller=request.caller,
    )


def _forecast(waiting: Waiting, cost: Cost, now: float) -> Forecast:
    return Forecast(
        total_s=rounded(max(0.0, end_of(cost) - now) + cost.estimate.rtt_s, 4),
        first_token_s=rounded(max(0.0, cost.start - now) + first_token_s(cost), 4),
        needs_load=cost.load is not None,
        load_s=rounded(cost.estimate.profile.load_s, 4) if cost.load is not None else 0.0,
        gap_s=rounded(gap_s(cost), 6),
        co_runner_prefill_s=rounded(longest_prefill_s(cost.horizon, now), 4),
        prompt_tokens=waiting.request.context.prompt_tokens,
        output_tokens=rounded(waiting.output_mean, 1),
    )


def made_grant(
    waiting: Waiting, cost: Cost, decision: Decision, keep_alive_s: float, now: float
) -> tuple[Attempt, Granted]:
    """The ledger's entry and the dispatcher's reply for a request that starts now."""
    granted = Granted(decision=decision, keep_alive_s=keep_alive_s)
    return _entry(waiting, cost, granted, now), granted


def occupy(attempt: Attempt, cost: Cost, now: float) -> None:
    """Notes what the grant loads and pushes out on its node."""
    if cost.load is None:
        return
    node, profile = cost.horizon.node, cost.estimate.profile
    attempt.evicts = cost.load.victims
    for victim in cost.load.victims:
        node.mirror.forget(victim)
    node.residents.begin_load(
        attempt.model,
        profile.need_bytes,
        loader=attempt.attempt_id,
        ready_at=now + profile.load_s,
        evicts=cost.load.victims,
    )


def _entry(waiting: Waiting, cost: Cost, granted: Granted, now: float) -> Attempt:
    request, node, e = waiting.request, cost.horizon.node, cost.estimate
    attempt = Attempt(
        attempt_id=granted.decision.attempt_id,
        request_id=request.request_id,
        node_id=node.node_id,
        instance=node.instance,
        model=waiting.model,
        wire_model=granted.decision.model,
        granted_at=now,
    )
    attempt.dispatcher = request.dispatcher
    attempt.mode = waiting.mode
    attempt.priority = waiting.priority
    attempt.arrival_rank = waiting.arrival_rank()
    attempt.task_type = request.context.task_type
    attempt.predicted_s = granted.decision.forecast.total_s
    attempt.load_s = e.profile.load_s if cost.load is not None else 0.0
    attempt.prefill_s = e.prefill_s
    attempt.decode_tps = e.profile.decode_tps if e.output_median > 0 else 0.0
    attempt.output_median = e.output_median
    attempt.prompt_tokens = request.context.prompt_tokens
    attempt.max_output_tokens = request.context.max_output_tokens
    attempt.continued_tokens = waiting.said_tokens
    attempt.is_resumable = request.is_resumable
    attempt.cuts = request.continuation.cuts if request.continuation is not None else 0
    attempt.fingerprint = granted.decision.fingerprint
    attempt.session_id = request.routing.session_id
    attempt.prefix_hashes = request.context.prefix_hashes
    attempt.grant = granted
    return attempt
