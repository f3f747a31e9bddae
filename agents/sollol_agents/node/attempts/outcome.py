"""From an attempt's end to its figures and its outcome."""

from __future__ import annotations

import datetime as dt
from typing import Final

import msgspec

from sollol_agents.node.engines.base import EngineFigures
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.instants import instant

#: The request is at fault, on whatever node it runs.
_CLIENT_ERRORS: Final = frozenset(
    {
        ErrorCode.BAD_REQUEST,
        ErrorCode.UNSUPPORTED_FIELD,
        ErrorCode.FORBIDDEN,
        ErrorCode.UNKNOWN_MODEL,
        ErrorCode.REQUEST_TOO_LARGE,
        ErrorCode.REPLY_TOO_LARGE,
        ErrorCode.ENGINE_REJECTED,
    }
)
#: Nobody's fault. A broken bus strikes every node at once, so it may not count against any.
_CANCELLED: Final = frozenset(
    {
        ErrorCode.CANCELLED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.CONNECTION_LOST,
        ErrorCode.DRAINING,
        ErrorCode.ACTOR_STOPPED,
    }
)


class Course(msgspec.Struct, kw_only=True):
    """What the node itself measured of one attempt; instants are monotonic seconds."""

    accepted_at: float
    load_s: float = 0.0
    """The node's own load before the request."""
    began_at: float | None = None
    """When the request went to the engine."""
    first_at: float | None = None
    last_at: float | None = None
    chunks: int = 0
    """Messages published to the caller."""
    output_chunks: int = 0
    """Chunks of the engine, each about one token."""
    co_runners: float = 0.0
    gpu_share: float | None = None
    left_out: tuple[str, ...] = ()
    """Fields of the caller's body that the engine did not get."""


def figures_of(course: Course, engine: EngineFigures | None, now: float) -> Figures:
    """The figures of an attempt: the engine's own where it tells them, the node's clock elsewhere."""
    engine = engine or EngineFigures()
    decode_s, output_tokens = engine.decode_s, engine.output_tokens
    if decode_s is None and course.first_at is not None and course.last_at is not None:
        decode_s = course.last_at - course.first_at
    if output_tokens is None and course.output_chunks:
        output_tokens = course.output_chunks
    prompt_s = engine.prompt_s
    if prompt_s is None and course.first_at is not None and course.began_at is not None:
        prompt_s = course.first_at - course.began_at
    return Figures(
        actual_s=max(0.0, (course.last_at or now) - course.accepted_at),
        ttft_s=None if course.first_at is None else max(0.0, course.first_at - course.accepted_at),
        load_s=course.load_s + (engine.load_s or 0.0),
        slot_wait_s=_slot_wait_s(engine),
        prompt_tokens=engine.prompt_tokens,
        cached_tokens=engine.cached_tokens,
        output_tokens=output_tokens,
        prompt_s=prompt_s,
        decode_s=decode_s,
        chunks=course.chunks,
        co_runners=course.co_runners,
        gpu_share=course.gpu_share,
        left_out=course.left_out,
    )


def _slot_wait_s(engine: EngineFigures) -> float:
    """The time that is in no other figure of the engine: what the request waited for one of its slots."""
    if engine.total_s is None:
        return 0.0
    parts = (engine.load_s or 0.0) + (engine.prompt_s or 0.0) + (engine.decode_s or 0.0)
    return max(0.0, engine.total_s - parts)


def status_of(error: ErrorBody | None) -> OutcomeStatus:
    """How an attempt that ended with this error counts."""
    if error is None:
        return OutcomeStatus.SUCCESS
    if error.code in _CLIENT_ERRORS:
        return OutcomeStatus.CLIENT_ERROR
    return OutcomeStatus.CANCELLED if error.code in _CANCELLED else OutcomeStatus.FAILED


def outcome_of(decision: Decision, error: ErrorBody | None, figures: Figures, finished_at: dt.datetime) -> Outcome:
    """The outcome of an attempt, as the node reports it."""
    return Outcome.ended(
        decision,
        status_of(error),
        ReportedBy.NODE,
        error=error,
        figures=figures,
        finished_at=instant(finished_at),
    )
