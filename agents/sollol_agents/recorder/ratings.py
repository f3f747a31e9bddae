"""What feedback means, of which answer it speaks, and how much of it one caller may give. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from sollol_bus.errors import BadRequest
from sollol_schemas.callers import ANONYMOUS, word_of
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.feedback import FeedbackRequest
from sollol_schemas.queries import WhyReply
from sollol_schemas.subjects import NO_NODE

_MINUTE_S: Final = 60.0
_CALLERS_MAX: Final = 10_000


class Answered(NamedTuple):
    """Who answered what."""

    request_id: str
    """Empty: feedback on a model."""
    model: str
    group: str = ""
    category: str = ""


def score_of(request: FeedbackRequest) -> float:
    """The score that was given.

    Raises:
        BadRequest: None was given, or it does not say of what.
    """
    if not request.request_id and not request.model:
        raise BadRequest("say what the feedback is about: request_id, or model and category")
    if request.request_id and request.model:
        raise BadRequest("give request_id or model, not both: which model answered a request is recorded")
    if request.comment and not request.request_id:
        raise BadRequest("comment needs a request_id: it is shown where the request is explained")
    if request.score is not None:
        return request.score
    if request.success is None:
        raise BadRequest("say how good the answer was: score from 0 to 1, or success true or false")
    return 1.0 if request.success else 0.0


def answered(known: WhyReply, caller: str, *, is_final: bool, attempt_id: str = "") -> Answered | None:
    """Who gave the answer that feedback speaks of, as far as it is recorded; None: that is not known yet.

    Args:
        known: What is recorded of the request, or of every try of a job.
        caller: The name of whoever gives feedback; empty: it may speak of everybody's.
        is_final: Whether an answer whose end is not recorded will do: it may still run.
        attempt_id: The attempt whose answer is meant; empty: the last that answered.

    Raises:
        BadRequest: No model answered.
    """
    decisions = [event.decision for event in known.decisions if _is_of(event.decision, caller)]
    ends = [outcome for outcome in known.outcomes if _is_of(outcome.decision, caller)]
    if attempt_id:
        decisions = [decision for decision in decisions if decision.attempt_id == attempt_id]
        ends = [outcome for outcome in ends if outcome.decision.attempt_id == attempt_id]
    good = [outcome.decision for outcome in ends if outcome.status is OutcomeStatus.SUCCESS]
    if good:
        return _answered_by(good[-1])
    if not is_final:
        return None
    tried = [decision for decision in (*decisions, *(o.decision for o in ends)) if decision.node_id != NO_NODE]
    if tried:
        return _answered_by(max(tried, key=lambda decision: decision.attempt))
    if decisions or ends:
        raise BadRequest("no model answered that request: there is nothing to rate")
    return None


def _is_of(decision: Decision, caller: str) -> bool:
    """Whether a caller may speak of an answer: of its own, and an operator of everybody's."""
    return not caller or decision.caller == (word_of(caller) if caller != ANONYMOUS else "")


def _answered_by(decision: Decision) -> Answered:
    return Answered(decision.request_id, decision.model, decision.group, decision.category)


def said_category(request: FeedbackRequest, known: str) -> str:
    """The category that feedback counts for."""
    return request.category.strip().lower() or known


class Allowances:
    """How much feedback each caller may still give; those go first that gave none for longest.

    Args:
        per_minute: For each caller; 0: however much.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def refusal(self, caller: str, now: float) -> ErrorBody | None:
        """Counts one, or says when to come again; nobody in particular, an operator or an open bus, is not counted."""
        if not caller or not self._per_minute:
            return None
        left, at = self._left.get(caller, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - at) * self._per_minute / _MINUTE_S)
        is_over = left < 1.0
        self._left[caller] = (left if is_over else left - 1.0, now)
        self._left.move_to_end(caller)
        if len(self._left) > _CALLERS_MAX:
            self._left.popitem(last=False)
        if not is_over:
            return None
        wait_s = round((1.0 - left) * _MINUTE_S / self._per_minute, 3)
        message = f"{self._per_minute} feedback a minute is the ceiling of one caller; come again in {wait_s:.1f} s"
        return ErrorBody(code=ErrorCode.QUEUE_FULL, message=message, details={"retry_after_s": wait_s})
