"""Stops attempts before their end, so that others say the rest."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from sollol_agents.node.attempts.attempt import Attempt
from sollol_bus.errors import ActorStopped, BusError, DecodeFailed, SollolError, error_from
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, encode, error_of
from sollol_schemas import subjects
from sollol_schemas.continuation import CutReason
from sollol_schemas.control import AttemptState, ControlCut, HandOverReply, HandOverRequest
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)

_ANSWER_S: Final = 0.5
_OVER: Final = (AttemptState.ENDED_SPOKEN, AttemptState.ENDED_SILENT)


def to_cut(
    asked: ControlCut, attempt: Attempt | None, state: AttemptState, *, highest_term: int
) -> Attempt | ErrorBody:
    """The attempt that is to be stopped in its middle, or why none is.

    Args:
        asked: What a scorer wants.
        attempt: The attempt, while it runs.
        state: What is known of it.
        highest_term: The highest term of office seen so far.
    """
    name = asked.attempt_id
    if asked.term < highest_term:
        message = f"the cut is of term {asked.term}; term {highest_term} has begun"
        return ErrorBody(code=ErrorCode.STALE_TERM, message=message)
    if state in _OVER:
        return ErrorBody(code=ErrorCode.CONFLICT, message=f"{name} is over")
    if attempt is None:
        return ErrorBody(code=ErrorCode.UNKNOWN_REQUEST, message=f"no attempt {name} is known here")
    if not attempt.is_resumable:
        return ErrorBody(code=ErrorCode.CONFLICT, message=f"the caller of {name} does not go on elsewhere")
    if not attempt.wants_stream and attempt.last_at is not None:
        message = f"{name} is not streamed: it would begin anew"
        return ErrorBody(code=ErrorCode.CONFLICT, message=message)
    return attempt


def cut(attempt: Attempt, reason: str, cause: str) -> None:
    """Stops an attempt whose caller goes on elsewhere; the engine's connection is closed at once."""
    _tell(attempt, reason)
    attempt.stop(_error(ErrorCode.MOVED, reason or "the answer goes on elsewhere", {"reason": cause}))


def hand_over(attempts: Iterable[Attempt], reason: str) -> None:
    """Stops attempts whose callers go on elsewhere; one that has said nothing begins anew there."""
    for attempt in attempts:
        if attempt.has_spoken:
            cut(attempt, reason, CutReason.DRAIN)
        else:
            _tell(attempt, reason)
            attempt.stop(_error(ErrorCode.DRAINING, reason))


async def places_for_answers(bus: Bus, node_id: str, instance: str) -> frozenset[str] | None:
    """The models of this node whose answers another node can go on with; None: no scorer says so in time."""
    asked = encode(HandOverRequest(instance=instance))
    try:
        msg = await bus.request(subjects.HAND_OVER.of(node_id), asked, timeout_s=_ANSWER_S)
        refusal = error_of(msg)
        if refusal is None:
            return frozenset(decode(msg.data, HandOverReply).models)
        why = refusal.message
    except (BusError, DecodeFailed) as error:
        why = str(error)
    log.info("not known who could go on: %s", why, extra={"action": "hand_over_unknown"})
    return None


def hand_back(attempts: Iterable[Attempt], reason: str) -> None:
    """Stops all of them: other nodes may take what has said nothing."""
    for attempt in list(attempts):
        attempt.stop(ActorStopped(reason) if attempt.has_spoken else _error(ErrorCode.DRAINING, reason))


def _tell(attempt: Attempt, reason: str) -> None:
    extra = {
        "action": "attempt_moved",
        "request_id": attempt.decision.request_id,
        "attempt_id": attempt.attempt_id,
    }
    log.info("stops %s, which goes on elsewhere: %s", attempt.attempt_id, reason, extra=extra)


def _error(code: ErrorCode, message: str, details: dict[str, str] | None = None) -> SollolError:
    return error_from(ErrorBody(code=code, message=message, details=details or {}))
