"""How long each attempt of a request waited for its slot. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sollol_schemas.decision import Decision
from sollol_schemas.events import Outcome


def waited_s(made: Decision, outcomes: Iterable[Outcome]) -> float | None:
    """Seconds that an attempt waited, which is since the one before it ended, or since the request came.

    Args:
        made: What was decided of the attempt.
        outcomes: How attempts ended, of this request and of others.

    Returns:
        None where it is not known when the one before ended.
    """
    before = [o for o in outcomes if o.request_id == made.request_id and 0 < o.decision.attempt < made.attempt]
    if not before:
        return None if made.continued_tokens else made.queue_s
    last = max(before, key=lambda outcome: outcome.decision.attempt)
    if last.figures is None:
        return None
    return max(0.0, made.queue_s - last.decision.queue_s - last.figures.actual_s)
