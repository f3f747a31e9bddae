"""How far a batch is, from what is kept of it and the states of its jobs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from sollol_schemas.batch_progress import BatchPlan, BatchReason, BatchStage, BatchTally, BatchTell, BatchView
from sollol_schemas.batches import BatchRecord, BatchState
from sollol_schemas.instants import InvalidInstant, instant, parse_instant
from sollol_schemas.jobs import TERMINAL, JobState, JobStatus
from sollol_schemas.owners import reference

_REASONS_MAX: Final = 8
_MESSAGE_MAX: Final = 300
_NODES_MAX: Final = 1000
_BEGINNING_S: Final = 10.0
"""Whoever hands a batch over has so long until its first requests must be there."""
_OTHERS: Final = "others"
_STAGES: Final = {
    BatchState.FAILED: BatchStage.FAILED,
    BatchState.COMPLETED: BatchStage.DONE,
    BatchState.EXPIRED: BatchStage.EXPIRED,
    BatchState.CANCELLING: BatchStage.CANCELLED,
    BatchState.CANCELLED: BatchStage.CANCELLED,
}

States = Mapping[int, JobStatus]
"""The states of a batch's jobs by their numbers, those that have one."""


def reached(plan: BatchPlan | None, tell: BatchTell, ref: str) -> BatchPlan:
    """What is kept of a batch, with how far somebody told that it is handed over; a cancelled one stays as it is."""
    known = plan or BatchPlan(batch_id=ref)
    if known.is_cancelled:
        return known
    submitted = min(tell.total, max(known.submitted, tell.submitted))
    return msgspec.structs.replace(known, total=tell.total, submitted=submitted)


def begun(plan: BatchPlan, tell: BatchTell, ended: int, now_s: float) -> BatchPlan:
    """The plan of a batch that somebody begins to hand over, while so many of its requests have ended."""
    if plan.is_cancelled:
        return plan
    return msgspec.structs.replace(
        plan,
        requests=tell.requests,
        answers=tell.answers,
        host=tell.host,
        priority=tell.priority,
        began_at=instant(now_s),
        earlier=ended,
    )


def counted(plan: BatchPlan, states: States, now_s: float) -> BatchPlan:
    """The plan with the jobs at its beginning that have ended, and are not in its tally yet, counted in."""
    end = plan.counted
    while end < plan.submitted and end in states and states[end].state in TERMINAL:
        end += 1
    tally = tally_of((states[n] for n in range(plan.counted, end)), plan.tally) if end > plan.counted else plan.tally
    is_over = end >= plan.total or (plan.is_cancelled and end >= plan.submitted)
    ended_at = plan.ended_at
    if is_over and not ended_at:
        ended_at = max((s.finished_at for s in states.values()), default="") or instant(now_s)
    return msgspec.structs.replace(plan, counted=end, tally=tally, ended_at=ended_at)


def is_settled(plan: BatchPlan) -> bool:
    """Whether the tally tells everything: no job of it can change any more by itself."""
    return bool(plan.ended_at)


def recounted(plan: BatchPlan) -> BatchPlan:
    """The plan when one of its jobs is run again: everything is to be counted anew."""
    return msgspec.structs.replace(plan, counted=0, tally=BatchTally(), ended_at="")


def tally_of(statuses: Iterable[JobStatus], before: BatchTally | None = None) -> BatchTally:
    """The sums over jobs that have ended, added to earlier ones."""
    before = before or BatchTally()
    states: Counter[JobState] = Counter()
    nodes, tokens, work_s = Counter(before.by_node), before.tokens, before.work_s
    reasons = {reason.code: reason for reason in before.reasons}
    for status in statuses:
        states[status.state] += 1
        if status.state is JobState.DONE:
            tokens += status.tokens
            work_s += _worked_s(status)
            if status.node_id and (status.node_id in nodes or len(nodes) < _NODES_MAX):
                nodes[status.node_id] += 1
        elif status.state is not JobState.CANCELLED:
            _count(reasons, status)
    return BatchTally(
        done=before.done + states[JobState.DONE],
        failed=before.failed + states[JobState.FAILED] + states[JobState.DEAD],
        cancelled=before.cancelled + states[JobState.CANCELLED],
        tokens=tokens,
        work_s=work_s,
        by_node=dict(nodes),
        reasons=tuple(sorted(reasons.values(), key=lambda reason: -reason.count)),
    )


def view_of(plan: BatchPlan, states: States, now_s: float) -> BatchView:
    """How far a batch is.

    Args:
        plan: What is kept of it.
        states: Of the jobs that are not in its tally.
        now_s: The present instant.
    """
    further = [status for number, status in states.items() if plan.counted <= number < plan.submitted]
    tally = tally_of((status for status in further if status.state in TERMINAL), plan.tally)
    ended = tally.done + tally.failed + tally.cancelled
    running = sum(status.state is JobState.RUNNING for status in further)
    stage = _stage(plan, ended, now_s)
    rate_per_s = _rate_per_s(plan, ended, now_s)
    is_told = stage is BatchStage.RUNNING and rate_per_s > 0
    return BatchView(
        batch_id=plan.batch_id,
        stage=stage,
        total=plan.total,
        submitted=plan.submitted,
        done=tally.done,
        failed=tally.failed,
        cancelled=tally.cancelled,
        running=running,
        waiting=max(0, plan.submitted - ended - running),
        earlier=min(plan.earlier, ended),
        tokens=tally.tokens,
        work_s=tally.work_s,
        by_node=tally.by_node,
        reasons=tally.reasons,
        requests=plan.requests,
        answers=plan.answers,
        host=plan.host,
        priority=plan.priority,
        began_at=plan.began_at,
        ended_at=plan.ended_at,
        rate_per_s=rate_per_s,
        left_s=(plan.total - ended) / rate_per_s if is_told else None,
    )


def view_of_record(record: BatchRecord) -> BatchView:
    """How far a batch of a gateway is, as the gateway that works on it has written down."""
    ended_at = max(record.entered_at.values(), default="") if record.state in _STAGES else ""
    problems = [BatchReason(code=one.code, message=one.message[:_MESSAGE_MAX]) for one in record.problems]
    stage = _STAGES.get(record.state, BatchStage.RUNNING)
    return BatchView(
        batch_id=reference(record.jobs_owner, record.batch_id),
        stage=stage,
        total=record.total,
        submitted=record.total,
        done=record.completed,
        failed=record.failed,
        waiting=max(0, record.total - record.completed - record.failed) if stage is BatchStage.RUNNING else 0,
        reasons=tuple(problems[:_REASONS_MAX]),
        requests=record.input_file_id,
        answers=record.output_file_id,
        priority=record.priority,
        began_at=record.created_at,
        ended_at=ended_at,
        is_of_gateway=True,
    )


def _count(reasons: dict[str, BatchReason], status: JobStatus) -> None:
    """Counts why a job failed."""
    code = status.error.code.value if status.error is not None else "internal"
    if code not in reasons and len(reasons) >= _REASONS_MAX - 1:
        code = _OTHERS
    known = reasons.get(code)
    if known is not None:
        reasons[code] = msgspec.structs.replace(known, count=known.count + 1)
        return
    message = status.error.message[:_MESSAGE_MAX] if status.error is not None and code != _OTHERS else ""
    reasons[code] = BatchReason(code=code, message=message)


def _stage(plan: BatchPlan, ended: int, now_s: float) -> BatchStage:
    if plan.is_cancelled:
        return BatchStage.CANCELLED
    if ended >= plan.total:
        return BatchStage.DONE
    is_beginning = now_s - _unix_s(plan.began_at) < _BEGINNING_S
    return BatchStage.RUNNING if plan.submitted > ended or is_beginning else BatchStage.STOPPED


def _rate_per_s(plan: BatchPlan, ended: int, now_s: float) -> float:
    until_s = _unix_s(plan.ended_at) or now_s
    taken_s = until_s - _unix_s(plan.began_at)
    return max(0, ended - plan.earlier) / taken_s if taken_s > 0 else 0.0


def _worked_s(status: JobStatus) -> float:
    if not status.started_at or not status.finished_at:
        return 0.0
    return max(0.0, _unix_s(status.finished_at) - _unix_s(status.started_at))


def _unix_s(text: str) -> float:
    try:
        return parse_instant(text)
    except InvalidInstant:
        return 0.0
