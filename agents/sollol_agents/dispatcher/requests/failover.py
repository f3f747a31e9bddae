"""What to do when an attempt fails: try another node, or tell the caller. Pure.

Before the first chunk reached the caller another node is tried at once, with the failed one excluded and the
request's age kept, for up to three attempts within the deadline. After the first chunk nothing is ever restarted.
Refusals (`busy`, `draining`, `moved`, `stale_term`) cost no attempt; after `STALE_MAX` of `stale_term` the caller is
told. What is the request's fault on every node is told at once; what only that node lacks is asked of another, and
costs no attempt either.

A failure that may be the request's or the engine's is a doubt about the two of them. Another node settles it: when it
refuses in the same way the request is at fault, and is answered in the engine's own words; when it serves the request
the first engine was.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from sollol_agents.requests.faults import is_alike
from sollol_schemas.errors import FREE_OF_CHARGE, RETRYABLE, ErrorBody, ErrorCode, Lack, Owner
from sollol_schemas.grant import GrantRefused

MOVES_MAX: Final = 8
"""A request is moved on so often from nodes that lack something."""
END_LOST: Final = ErrorBody(
    code=ErrorCode.CONNECTION_LOST, message="the end of the answer may have been lost on the way"
)
"""What a caller is told of an attempt that has ended unheard."""
STALE_MAX: Final = 24
"""For so long, about 20 s, the scorer in office and the nodes may differ on who that is; a node forgets in 15 s."""
_GONE: Final = (ErrorCode.NODE_LOST, ErrorCode.ENGINE_UNAVAILABLE)
_COMES_BACK_S: Final = 2.0
_ABILITY: Final = (Lack.MODEL, Lack.PATH, Lack.FIELD, Lack.CAPABILITY, Lack.MEMORY, Lack.CONTEXT)
"""The further to the right, the nearer a node came to serving the request."""


_OF_MODEL: Final = (Lack.MODEL, Lack.CAPABILITY, Lack.MEMORY, Lack.CONTEXT)
"""What another model on the same node may have."""
_LENGTH: Final = re.compile(r"(?:context (?:size|length)|batch size)\D{0,20}(\d{1,9})")


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt failed."""

    node_id: str
    error: ErrorBody


class Tries(msgspec.Struct, kw_only=True):
    """The attempts that one request has made."""

    max_attempts: int
    number: int
    """Number of the next attempt."""
    charged: int = 0
    """Attempts that count against the limit."""
    refusals: int = 0
    stale: int = 0
    """Refusals of nodes that know a later scorer than the one that decided."""
    excluded: tuple[str, ...] = ()
    """Nodes that failed this request, or cannot serve it."""
    failed_models: tuple[str, ...] = ()
    """Models of the group that it named that failed it, wherever they are."""
    busy: tuple[str, ...] = ()
    """Nodes that refused in the last round."""
    failed: tuple[Failed, ...] = ()
    """How attempts failed that count against the limit."""
    cuts: int = 0
    """How often it was moved before it had spoken."""
    lacking: tuple[ErrorBody, ...] = ()
    """What nodes said that cannot serve the request."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for another slot after `delay_s`."""

    delay_s: float = 0.0


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the caller."""

    error: ErrorBody


REFUSAL_DELAY_S = 0.02
"""After a refusal the scorer gets this long to hear of the node's new load; doubles up to `REFUSAL_DELAY_MAX_S`."""
REFUSAL_DELAY_MAX_S = 1.0


def after_failure(
    tries: Tries, node_id: str, error: ErrorBody, *, has_streamed: bool, model: str = ""
) -> Retry | GiveUp:
    """What to do after an attempt on `node_id` failed with `error`; records it in `tries`.

    Where the scorer chose the `model` out of a group, what that model lacks is asked of another model, which the same
    node may have.
    """
    tries.number += 1
    tries.stale += error.code is ErrorCode.STALE_TERM
    if has_streamed or tries.stale > STALE_MAX:
        return GiveUp(error=error)
    if error.code in FREE_OF_CHARGE:
        tries.cuts += error.code is ErrorCode.MOVED
        tries.refusals += 1
        tries.busy = (*tries.busy[-7:], node_id)
        return Retry(delay_s=min(REFUSAL_DELAY_MAX_S, REFUSAL_DELAY_S * 2 ** min(10, tries.refusals - 1)))
    if error.lack is not None and error.blamed is not Owner.UNCLEAR:
        return _move_on(tries, node_id, error, model)
    if error.code not in RETRYABLE or error.blamed in (Owner.REQUEST, Owner.OUTPUT):
        return GiveUp(error=error)
    return _try_elsewhere(tries, node_id, error, model)


def _move_on(tries: Tries, node_id: str, error: ErrorBody, model: str) -> Retry | GiveUp:
    tries.lacking = (*tries.lacking, error)
    if len(tries.lacking) > MOVES_MAX:
        return GiveUp(error=_most_able(tries.lacking))
    _exclude(tries, node_id, error, model)
    return Retry()


def _try_elsewhere(tries: Tries, node_id: str, error: ErrorBody, model: str) -> Retry | GiveUp:
    if error.blamed is Owner.UNCLEAR and any(is_alike(before.error, error) for before in tries.failed):
        return GiveUp(error=acquitting(error))
    tries.charged += 1
    tries.failed = (*tries.failed, Failed(node_id=node_id, error=error))
    _exclude(tries, node_id, error, model)
    return GiveUp(error=exhausted(tries)) if tries.charged >= tries.max_attempts else Retry()


def _exclude(tries: Tries, node_id: str, error: ErrorBody, model: str) -> None:
    tries.busy = ()
    if model and (error.code is ErrorCode.LOAD_FAILED or error.lack in _OF_MODEL):
        tries.failed_models = (*tries.failed_models, model)
    else:
        tries.excluded = (*tries.excluded, node_id)


def is_doubt(error: ErrorBody) -> bool:
    """Whether a failure is proven to be the engine's once another node has served the request."""
    return error.blamed is Owner.UNCLEAR and error.lack is None


def after_refusal(tries: Tries, refused: GrantRefused) -> ErrorBody:
    """What the caller is told when the scorer refuses: after failures, those are the real reason.

    When the scorer expects that asking again may succeed, the details say after how many seconds (`retry_after_s`).
    """
    error = refused.error
    if error.code in (ErrorCode.NO_ELIGIBLE_NODE, ErrorCode.NO_NODES):
        if tries.failed:
            error = exhausted(tries)
        elif tries.lacking:
            return _most_able(tries.lacking)
    if refused.retry_after_s <= 0:
        return error
    return msgspec.structs.replace(error, details=error.details | {"retry_after_s": round(refused.retry_after_s, 3)})


def acquitting(error: ErrorBody) -> ErrorBody:
    """The request's own error, in the engine's words, when two nodes refused it in the same way."""
    if not error.engine_status:
        return msgspec.structs.replace(error, owner=Owner.REQUEST)
    return msgspec.structs.replace(
        error, code=ErrorCode.ENGINE_REJECTED, status=error.engine_status, owner=Owner.REQUEST
    )


def exhausted(tries: Tries) -> ErrorBody:
    """The error of a request whose attempts all failed: the engine's own answer when only one could be asked."""
    if len(tries.failed) == 1 and tries.failed[0].error.engine_status >= 500:
        only = tries.failed[0].error
        return msgspec.structs.replace(only, status=only.engine_status)
    last = tries.failed[-1].error if tries.failed else None
    nodes = [failed.node_id for failed in tries.failed]
    reason = f"{last.code}: {last.message}" if last else "no attempt could be made"
    details: dict[str, object] = {"nodes": nodes, "last_code": last.code.value if last else ""}
    if tries.failed and all(_is_gone(failed.error) for failed in tries.failed):
        details["retry_after_s"] = _COMES_BACK_S
    return ErrorBody(
        code=ErrorCode.ATTEMPTS_EXHAUSTED,
        message=f"{tries.charged} of {tries.max_attempts} attempts failed (on {', '.join(nodes)}); the last: {reason}",
        details=details,
    )


def _is_gone(error: ErrorBody) -> bool:
    """Whether a node or its engine went away, so that it may be back soon."""
    return error.code in _GONE or (error.code is ErrorCode.ENGINE_PROTOCOL and error.owner is Owner.ENGINE)


def _most_able(refusals: tuple[ErrorBody, ...]) -> ErrorBody:
    """What the node said that came nearest to serving the request."""
    return max(refusals, key=lambda error: (_ABILITY.index(error.lack or Lack.MODEL), _context_tokens(error)))


def _context_tokens(error: ErrorBody) -> int:
    """How long the context there is, where the refusal says so."""
    found = _LENGTH.search(error.message)
    return int(found.group(1)) if found is not None and error.lack is Lack.CONTEXT else 0
