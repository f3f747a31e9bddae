"""What feedback means, of which answer it speaks, and how much of it one caller may give."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.lab.testing.messages import decision, outcome
from sollol_agents.recorder.ratings import Allowances, Answered, answered, said_category, score_of
from sollol_bus.errors import BadRequest
from sollol_schemas.callers import word_of
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome
from sollol_schemas.execution import Figures
from sollol_schemas.feedback import FeedbackRequest
from sollol_schemas.queries import WhyReply
from sollol_schemas.subjects import NO_NODE


@pytest.mark.parametrize(
    ("said", "score"),
    [
        pytest.param({"score": 0.25}, 0.25, id="a score"),
        pytest.param({"success": True}, 1.0, id="success"),
        pytest.param({"success": False}, 0.0, id="no success"),
        pytest.param({"success": True, "score": 0.5}, 0.5, id="the score counts"),
    ],
)
def test_a_score_or_success_says_how_good_it_was(said: dict[str, Any], score: float) -> None:
    assert score_of(FeedbackRequest(request_id="r", **said)) == score


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        pytest.param({"score": 1.0}, "request_id, or model", id="about nothing"),
        pytest.param({"request_id": "r"}, "score from 0 to 1, or success", id="no score"),
        pytest.param({"request_id": "r", "model": "m", "score": 1.0}, "not both", id="both"),
        pytest.param({"model": "m", "score": 1.0, "comment": "fine"}, "needs a request_id", id="comment on a model"),
    ],
)
def test_feedback_that_says_too_little_or_too_much_is_refused_with_what_to_say(said: dict[str, Any], hint: str) -> None:
    with pytest.raises(BadRequest, match=hint):
        score_of(FeedbackRequest(**said))


def _decided(attempt: int, caller: str = "", **more: Any) -> DecisionEvent:
    made = decision(f"r-{attempt}", attempt=attempt, caller=word_of(caller), **{"model": f"m{attempt}", **more})
    return DecisionEvent(decision=made)


def _ended(attempt: int, caller: str = "", *, code: ErrorCode | None = None, **more: Any) -> Outcome:
    figures = None if code else Figures(actual_s=1.0)
    more = {"model": f"m{attempt}", "caller": word_of(caller), "figures": figures} | more
    return outcome(f"r-{attempt}", code=code, attempt=attempt, **more)


def test_the_model_that_answered_is_rated_and_not_one_that_failed_before() -> None:
    known = WhyReply(
        request_id="r",
        decisions=(_decided(1), _decided(2)),
        outcomes=(_ended(1, code=ErrorCode.ENGINE_FAILED), _ended(2, task_type="coding", coding_category="testing")),
    )
    assert answered(known, "", is_final=False) == Answered("r", "m2", category="testing")


def test_a_request_of_which_only_its_decision_is_recorded_is_waited_for_and_then_taken_as_it_is() -> None:
    known = WhyReply(request_id="r", decisions=(_decided(1), _decided(2, group="g", task_type="summarization")))
    assert answered(known, "", is_final=False) is None
    assert answered(known, "", is_final=True) == Answered("r", "m2", "g", "summarization")
    assert answered(WhyReply(request_id="r"), "", is_final=True) is None


def test_what_no_model_answered_cannot_be_rated() -> None:
    known = WhyReply(request_id="r", outcomes=(_ended(1, code=ErrorCode.NO_ELIGIBLE_NODE, node_id=NO_NODE),))
    with pytest.raises(BadRequest, match="no model answered"):
        answered(known, "", is_final=True)


def test_a_caller_speaks_of_its_own_requests_alone() -> None:
    known = WhyReply(request_id="r", decisions=(_decided(1, "alice"),), outcomes=(_ended(1, "alice"),))
    assert answered(known, "bob", is_final=True) is None
    assert answered(known, "alice", is_final=False) is not None
    assert answered(known, "", is_final=False) is not None, "an operator speaks of everybody's"


def test_the_category_that_is_said_counts_before_the_one_that_is_known() -> None:
    assert said_category(FeedbackRequest(request_id="r", category=" Testing "), "coding") == "testing"
    assert said_category(FeedbackRequest(request_id="r"), "coding") == "coding"


def test_one_caller_gives_so_much_feedback_a_minute_and_others_are_not_held_up() -> None:
    allowances = Allowances(3)
    assert [allowances.refusal("a", 10.0) is None for _ in range(4)] == [True, True, True, False]
    refusal = allowances.refusal("a", 10.0)
    assert refusal is not None
    assert refusal.http_status == 429
    assert refusal.retry_after == 20
    assert allowances.refusal("b", 10.0) is None
    assert allowances.refusal("a", 30.1) is None
    assert allowances.refusal("a", 30.2) is not None
    assert all(allowances.refusal("", 10.0) is None for _ in range(10))
    assert all(Allowances(0).refusal("a", 10.0) is None for _ in range(10))
