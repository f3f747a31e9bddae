"""What to do when an attempt fails: try another node, or tell the caller. Pure.

Before the first chunk reached the caller another node is tried at once, with the failed one excluded and the
request's age kept, for up to three attempts within the deadline. After the first chunk nothing is ever restarted.
Refusals (`busy`, `draining`, `stale_term`) cost no attempt. Errors of the client are never retried.
"""

from __future__ import annotations

import msgspec

from sollol_schemas.errors import FREE_OF_CHARGE, RETRYABLE, ErrorBody, ErrorCode
from sollol_schemas.grant import GrantRefused


class Tries(msgspec.Struct, kw_only=True):
    """The attempts that one request has made."""

    max_attempts: int
    number: int
    """Number of the next attempt."""
    charged: int = 0
    """Attempts that count against the limit."""
    refusals: int = 0
    excluded: tuple[str, ...] = ()
    """Nodes that failed this request."""
    busy: tuple[str, ...] = ()
    """Nodes that refused in the last round."""
    last_error: ErrorBody | None = None


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for another slot after `delay_s`."""

    delay_s: float = 0.0


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the caller."""

    error: ErrorBody


REFUSAL_DELAY_S = 0.02
"""After a refusal the scorer gets this long to hear of the node's new load; doubles up to `REFUSAL_DELAY_MAX_S`."""
REFUSAL_DELAY_MAX_S = 1.0


def after_failure(tries: Tries, node_id: str, error: ErrorBody, *, has_streamed: bool) -> Retry | GiveUp:
    """What to do after an attempt on `node_id` failed with `error`; records it in `tries`."""
    tries.number += 1
    if has_streamed or error.code not in RETRYABLE:
        return GiveUp(error=error)
    if error.code in FREE_OF_CHARGE:
        tries.refusals += 1
        tries.busy = (*tries.busy[-7:], node_id)
        return Retry(delay_s=min(REFUSAL_DELAY_MAX_S, REFUSAL_DELAY_S * 2 ** min(10, tries.refusals - 1)))
    tries.charged += 1
    tries.busy = ()
    tries.excluded = (*tries.excluded, node_id)
    tries.last_error = error
    if tries.charged >= tries.max_attempts:
        return GiveUp(error=exhausted(tries))
    return Retry()


def after_refusal(tries: Tries, refused: GrantRefused) -> ErrorBody:
    """What the caller is told when the scorer refuses: after failures, those are the real reason.

    When the scorer expects that asking again may succeed, the details say after how many seconds (`retry_after_s`).
    """
    error = refused.error
    if tries.last_error is not None and error.code in (ErrorCode.NO_ELIGIBLE_NODE, ErrorCode.NO_NODES):
        error = exhausted(tries)
    if refused.retry_after_s <= 0:
        return error
    return msgspec.structs.replace(error, details=error.details | {"retry_after_s": round(refused.retry_after_s, 3)})


def exhausted(tries: Tries) -> ErrorBody:
    """The error of a request whose attempts all failed."""
    last = tries.last_error
    nodes = ", ".join(tries.excluded)
    reason = f"{last.code}: {last.message}" if last else "no attempt could be made"
    return ErrorBody(
        code=ErrorCode.ATTEMPTS_EXHAUSTED,
        message=f"{tries.charged} of {tries.max_attempts} attempts failed (on {nodes}); the last: {reason}",
        details={"nodes": list(tries.excluded), "last_code": last.code.value if last else ""},
    )
