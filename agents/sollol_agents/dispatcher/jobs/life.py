"""The life of a job: who may take it up, what follows a failed try, and when it is over. Pure.

Failures are of four kinds. A fault of the job itself ends it at once (`failed`). A fault of an engine, or of what the
model made, costs a try; after the last one it is `dead`. A process that died or a connection that broke is a loss: it
costs no try, but too many of them end the job too, because it might be what kills them. Everything else (no node, a
full queue, a shutdown) costs nothing and is waited out.
"""

from __future__ import annotations

import random

import msgspec

from sollol_schemas.decision import RejectionReason
from sollol_schemas.errors import ErrorBody, ErrorCode, Owner
from sollol_schemas.jobs import TERMINAL, JobResult, JobState, JobStatus

MAX_LOSSES = 10
MAX_DOUBTS = 8
_DOUBT_FIRST_S = 1.0
_DOUBT_MAX_S = 4.0
_MODELS_NAMED = 10
_WAIT_S = 2.0

FINAL: frozenset[ErrorCode] = frozenset(
    {
        ErrorCode.BAD_REQUEST,
        ErrorCode.UNSUPPORTED_FIELD,
        ErrorCode.UNAUTHORIZED,
        ErrorCode.FORBIDDEN,
        ErrorCode.CONFLICT,
        ErrorCode.REQUEST_TOO_LARGE,
        ErrorCode.REPLY_TOO_LARGE,
        ErrorCode.ENGINE_REJECTED,
        ErrorCode.DEADLINE_UNREACHABLE,
        ErrorCode.DEADLINE_EXCEEDED,
    }
)
"""The job itself is at fault: trying again changes nothing."""
LOSSES: frozenset[ErrorCode] = frozenset({ErrorCode.NODE_LOST, ErrorCode.CONNECTION_LOST})
PATIENT: frozenset[ErrorCode] = frozenset(
    {
        ErrorCode.NO_NODES,
        ErrorCode.NO_ELIGIBLE_NODE,
        ErrorCode.UNKNOWN_NODE,
        ErrorCode.QUEUE_FULL,
        ErrorCode.BUSY,
        ErrorCode.DRAINING,
        ErrorCode.STALE_TERM,
        ErrorCode.ACTOR_STOPPED,
        ErrorCode.CANCELLED,
    }
)
"""Nobody's fault: waited out without counting."""
_LASTING = frozenset({RejectionReason.MODEL_MISSING.value, RejectionReason.WRONG_CAPABILITY.value})


class RetryRules(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how soon a failed job is tried again."""

    max_tries: int
    first_s: float
    max_s: float


class TakeUp(msgspec.Struct, frozen=True, kw_only=True):
    """Work on it: write `status` over what is known, then run."""

    status: JobStatus
    was_taken: bool = False
    """Whether somebody had it before and did not finish: its result may be stored already."""


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """The message is not needed: its job has ended, or another message stands for it."""

    is_conflict: bool = False
    """Whether it held another body under the same id."""


class LookFor(msgspec.Struct, frozen=True, kw_only=True):
    """Another message stands for the job, unless it is gone: look whether it is stored, and judge again."""

    stream_seq: int


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """Try again after a while."""

    status: JobStatus
    delay_s: float
    is_patient: bool = False
    """Whether nothing failed: it only waits for the fleet."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The job is over without an answer."""

    status: JobStatus


def take_up(known: JobStatus | None, fresh: JobStatus, *, is_other_gone: bool = False) -> TakeUp | Drop | LookFor:
    """What to do with a delivered message.

    Args:
        known: What the state bucket says about the job.
        fresh: What the message says, as if nobody had worked on the job yet.
        is_other_gone: Whether the message that `known` came from was looked for and is gone.
    """
    if known is None:
        return TakeUp(status=fresh)
    is_same = known.body_hash in ("", fresh.body_hash)
    if known.state in TERMINAL:
        if fresh.run > known.run:
            return TakeUp(status=_after(known, fresh))
        return Drop(is_conflict=not is_same)
    if known.stream_seq not in (0, fresh.stream_seq):
        if not is_other_gone:
            return LookFor(stream_seq=known.stream_seq)
        if not is_same:
            return TakeUp(status=_after(known, fresh))
    lost = known.state is JobState.RUNNING
    status = msgspec.structs.replace(
        known,
        state=JobState.QUEUED,
        worker=fresh.worker,
        priority=fresh.priority,
        stream_seq=fresh.stream_seq,
        body_hash=fresh.body_hash,
        losses=known.losses + lost,
        node_id="",
    )
    return TakeUp(status=status, was_taken=True)


def _after(known: JobStatus, fresh: JobStatus) -> JobStatus:
    """The state of a job that begins anew in the place of one that is known."""
    return msgspec.structs.replace(fresh, result_seq=known.result_seq)


def is_news(before: ErrorBody | None, step: Again) -> bool:
    """Whether somebody wants to hear that a job waits for another try; a dispatcher that drains is no news."""
    error = step.status.error
    if not step.is_patient or error is None:
        return True
    return error.code is not ErrorCode.ACTOR_STOPPED and (before is None or before.code is not error.code)


def concluded(status: JobStatus, standing: JobResult, seq: int) -> JobStatus:
    """The last state of a job, as the result that is stored under number `seq` has it."""
    return msgspec.structs.replace(
        status,
        state=standing.state,
        result_seq=seq,
        error=standing.error,
        worker="",
        finished_at=standing.finished_at,
    )


def handed_back(status: JobStatus) -> JobStatus:
    """The state of a job that leaves this dispatcher in an orderly way while a node worked on it."""
    return msgspec.structs.replace(status, state=JobState.QUEUED, node_id="", worker="", tokens=0, resumed=0)


def after_failure(status: JobStatus, error: ErrorBody, rules: RetryRules, rng: random.Random) -> Again | End:
    """What follows a failed try."""
    code = _cause(error)
    status = msgspec.structs.replace(
        status, state=JobState.QUEUED, error=error, node_id="", worker="", tokens=0, resumed=0
    )
    if code in FINAL or (error.owner is Owner.REQUEST and code not in (ErrorCode.UNKNOWN_MODEL, *PATIENT)):
        return End(status=msgspec.structs.replace(status, state=JobState.FAILED))
    if code is ErrorCode.UNKNOWN_MODEL:
        return _doubt(status, error)
    if code in PATIENT:
        wait_s = min(rules.max_s, max(_WAIT_S, error.retry_after_s))
        return Again(status=status, delay_s=wait_s * _spread(rng), is_patient=True)
    return _loss(status, rules, rng) if code in LOSSES else _fault(status, error, rules, rng)


def _fault(status: JobStatus, error: ErrorBody, rules: RetryRules, rng: random.Random) -> Again | End:
    status = msgspec.structs.replace(status, tries=status.tries + 1)
    if status.tries >= rules.max_tries:
        return End(status=_dead(status))
    delay_s = min(rules.max_s, max(rules.first_s * 2.0 ** min(30, status.tries - 1), error.retry_after_s))
    return Again(status=status, delay_s=delay_s * _spread(rng))


def _loss(status: JobStatus, rules: RetryRules, rng: random.Random) -> Again | End:
    status = msgspec.structs.replace(status, losses=status.losses + 1)
    if status.losses >= MAX_LOSSES:
        return End(status=_dead(status))
    return Again(status=status, delay_s=min(rules.first_s, 0.2 * 2.0**status.losses) * _spread(rng))


def is_worn_out(status: JobStatus) -> bool:
    """Whether so many who worked on it died that it must not be tried again."""
    return status.losses >= MAX_LOSSES


def worn_out(status: JobStatus) -> JobStatus:
    """The end of a job whose workers died again and again."""
    error = ErrorBody(code=ErrorCode.ATTEMPTS_EXHAUSTED, message=f"{status.losses} processes died or were lost with it")
    return _dead(msgspec.structs.replace(status, error=error))


def undeliverable(status: JobStatus, deliveries: int) -> JobStatus:
    """The end of a job that was delivered again and again without an end."""
    message = f"delivered {deliveries} times without anybody finishing it"
    return _dead(msgspec.structs.replace(status, error=ErrorBody(code=ErrorCode.INTERNAL, message=message)))


def is_settled(known: JobStatus, final: JobStatus) -> bool:
    """Whether `final` need not be written over what is known.

    A result that is stored has been seen and stands: a job that was cancelled just then is done all the same.
    """
    if known.run != final.run:
        return known.run > final.run
    return known.state in TERMINAL and not (known.state is JobState.CANCELLED and final.state is not JobState.CANCELLED)


def cancelled(status: JobStatus) -> JobStatus:
    """The end of a job that somebody cancelled."""
    error = ErrorBody(code=ErrorCode.CANCELLED, message="cancelled by request")
    return msgspec.structs.replace(status, state=JobState.CANCELLED, error=error, node_id="", worker="")


def _doubt(status: JobStatus, error: ErrorBody) -> Again | End:
    """A model that nobody has ends the job, unless nodes are still joining: one of them may have it."""
    status = msgspec.structs.replace(status, doubts=status.doubts + 1, error=_with_models(error))
    if error.details.get("is_settled") or status.doubts > MAX_DOUBTS:
        return End(status=msgspec.structs.replace(status, state=JobState.FAILED))
    delay_s = min(_DOUBT_MAX_S, _DOUBT_FIRST_S * 2.0 ** (status.doubts - 1))
    return Again(status=status, delay_s=delay_s, is_patient=True)


def _with_models(error: ErrorBody) -> ErrorBody:
    """The error, with the models that there are in its message too: letters and lists show nothing else."""
    models = error.details.get("models")
    if not isinstance(models, list) or not models:
        return error
    names = ", ".join(str(name) for name in models[:_MODELS_NAMED])
    more = ", …" if len(models) > _MODELS_NAMED else ""
    return msgspec.structs.replace(error, message=f"{error.message}; there are {names}{more}")


def _dead(status: JobStatus) -> JobStatus:
    return msgspec.structs.replace(status, state=JobState.DEAD, worker="", node_id="")


def _cause(error: ErrorBody) -> ErrorCode:
    """The code that counts: of exhausted attempts the last one's, when no engine was at fault.

    A model that every node has for another kind of work is as good as missing.
    """
    last = error.details.get("last_code")
    if error.code is ErrorCode.ATTEMPTS_EXHAUSTED and last in {code.value for code in LOSSES}:
        return ErrorCode(last)
    nodes = error.details.get("nodes")
    if error.code is ErrorCode.NO_ELIGIBLE_NODE and isinstance(nodes, dict) and nodes:
        is_lasting = all(str(why).partition(":")[0] in _LASTING for why in nodes.values())
        return ErrorCode.UNKNOWN_MODEL if is_lasting else error.code
    return error.code


def _spread(rng: random.Random) -> float:
    return 0.75 + 0.5 * rng.random()
