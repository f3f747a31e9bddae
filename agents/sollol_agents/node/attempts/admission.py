"""Whether a node takes an attempt: everything that can be known before a slot is touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sollol_agents.requests.paths import is_closed
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Exec
from sollol_schemas.inboxes import is_client_inbox

TERM_KEPT_S: Final = 15.0
"""Longer than a scorer is in office without renewing: whose term is refused for so long is out of office for sure."""


class Terms:
    """The highest term of office that a node has heard of, while a scorer of it may live."""

    def __init__(self) -> None:
        self._highest = 0
        self._heard_at = 0.0

    def highest(self, now: float) -> int:
        """Decisions of a lower term are refused; 0 when that term was not heard of for `TERM_KEPT_S`."""
        return self._highest if now - self._heard_at < TERM_KEPT_S else 0

    def heard(self, term: int, now: float) -> None:
        """A decision of this term arrived."""
        if term >= self.highest(now):
            self._highest, self._heard_at = term, now

    def forget(self) -> None:
        """Takes decisions of any term again."""
        self._highest = 0


def refusal_of(
    exec_: Exec,
    reply_to: str,
    *,
    highest_term: int,
    is_draining: bool,
    has_engine: bool,
    open_paths: Iterable[str] = (),
) -> ErrorBody | None:
    """Why the node does not take an attempt, or None when a free slot is all it needs.

    Args:
        exec_: The attempt.
        reply_to: Where its tokens shall go.
        highest_term: The highest term of office seen so far.
        is_draining: Whether the node takes no new work.
        has_engine: Whether an engine was ever found.
        open_paths: Paths that plain requests may use although they change an engine or tell of its inside.
    """
    term = exec_.decision.term
    if term < highest_term:
        return ErrorBody(
            code=ErrorCode.STALE_TERM, message=f"the decision is of term {term}; term {highest_term} has begun"
        )
    if not is_client_inbox(reply_to):
        return ErrorBody(code=ErrorCode.FORBIDDEN, message=f"{reply_to[:80]!r} is not an inbox of a caller")
    if exec_.path and is_closed(exec_.path, open_paths):
        message = f"{exec_.path[:80]} is closed on this node; its operator may open it with open_paths"
        return ErrorBody(code=ErrorCode.FORBIDDEN, message=message)
    if is_draining:
        return ErrorBody(code=ErrorCode.DRAINING, message="the node takes no new work")
    if not has_engine:
        return ErrorBody(code=ErrorCode.ENGINE_UNAVAILABLE, message="the node has not found its engine yet")
    return None


def busy(slots: int, running: int, model: str, model_slots: int) -> ErrorBody:
    """The refusal of a node without a free slot."""
    limit = f"{model_slots} of {model}" if model_slots else f"{slots}"
    return ErrorBody(
        code=ErrorCode.BUSY,
        message=f"no free slot: {running} attempts run, the limit is {limit}",
        details={"slots": slots, "running": running},
    )
