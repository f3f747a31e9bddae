"""`sollol why` about an answer that went on: both attempts in order, and why the first one ended."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from sollol_agents.cli.commands import explaining
from sollol_agents.cli.output import Form, on_screen
from sollol_agents.fleet_view.waits import waited_s
from sollol_agents.lab.testing.messages import decision, outcome
from sollol_schemas.continuation import Cut, CutReason
from sollol_schemas.decision import Decision, DecisionEvent, Forecast
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.execution import Figures
from sollol_schemas.queries import WhyReply

WHY_RESUMED = WhyReply(
    request_id="d955c98695e90364",
    decisions=(
        DecisionEvent(
            decision=Decision(
                request_id="d955c98695e90364",
                attempt_id="d955c98695e90364-1",
                node_id="gaming-pc",
                model="llama3.1:8b",
                queue_s=0.25,
                reason="1.2 s before den",
                forecast=Forecast(first_token_s=0.2, total_s=1.41, prompt_tokens=512, output_tokens=219.4),
            ),
            queued=1,
        ),
        DecisionEvent(
            decision=Decision(
                request_id="d955c98695e90364",
                attempt_id="d955c98695e90364-11",
                node_id="den",
                model="llama3.1:8b",
                queue_s=6.1,
                attempt=11,
                reason="only node that can go on with the answer",
                continued_tokens=152,
                forecast=Forecast(first_token_s=0.4, total_s=1.9, prompt_tokens=664, output_tokens=90.0),
            ),
        ),
    ),
    outcomes=(
        outcome(
            "d955c98695e90364-1",
            "gaming-pc",
            code=ErrorCode.MOVED,
            figures=Figures(actual_s=5.2, output_tokens=152),
            message="a request of higher rank needs the slot",
            predicted_s=1.41,
            queue_s=0.25,
        ),
        outcome(
            "d955c98695e90364-11",
            "den",
            figures=Figures(actual_s=2.0, prompt_tokens=664, output_tokens=93, continued_tokens=152),
            predicted_s=1.9,
            queue_s=6.1,
            attempt=11,
            continued_tokens=152,
        ),
    ),
    cuts=(
        Cut(
            request_id="d955c98695e90364",
            attempt_id="d955c98695e90364-1",
            node_id="gaming-pc",
            reason=CutReason.PRIORITY,
            to="den",
            text="4.1 s left here, 2.6 s on den; a request of priority 9 starts 4.1 s sooner",
        ),
    ),
)


@pytest.mark.parametrize("width", [60, 100])
def test_both_attempts_are_told_in_order(
    width: int, capsys: pytest.CaptureFixture[str], assert_kept: Callable[[str, str], None]
) -> None:
    with on_screen(Form.TABLE, width):
        explaining.show_why(WHY_RESUMED)
    assert_kept(f"why_resumed_{width}", capsys.readouterr().out)


def test_an_attempt_whose_forerunner_nobody_recorded_tells_at_least_where_it_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = DecisionEvent(decision=decision("r-11", "den", attempt=11, continued_tokens=1))
    explaining.show_why(WhyReply(request_id="r", decisions=(made,)))
    assert "resumed: it goes on after 1 token of the answer\n" in capsys.readouterr().out


def test_why_an_answer_was_moved_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    (cut,) = WHY_RESUMED.cuts
    first, last = WHY_RESUMED.outcomes
    outcomes = (msgspec.structs.replace(first, message=cut.text), last)
    with on_screen(Form.TABLE, 200):
        explaining.show_why(msgspec.structs.replace(WHY_RESUMED, outcomes=outcomes))
    assert capsys.readouterr().out.count(cut.text) == 1


def test_an_attempt_that_was_given_up_and_ended_later_is_no_cause(capsys: pytest.CaptureFixture[str]) -> None:
    first, last = WHY_RESUMED.outcomes
    late = msgspec.structs.replace(first, status=OutcomeStatus.SUCCESS, code=None, message="")
    with on_screen(Form.TABLE, 200):
        explaining.show_why(msgspec.structs.replace(WHY_RESUMED, outcomes=(late, last), cuts=()))
    said = capsys.readouterr().out
    assert "attempt 1 on gaming-pc was given up, and ended there all the same" in said
    assert "ended: success" not in said


def test_an_urgent_request_is_told_whose_slot_it_got(capsys: pytest.CaptureFixture[str]) -> None:
    (cut,) = WHY_RESUMED.cuts
    way = msgspec.structs.replace(cut, request_id="r-low", in_favour_of="r-urgent")
    made = DecisionEvent(decision=decision("r-urgent-1", "gaming-pc"))
    with on_screen(Form.TABLE, 200):
        explaining.show_why(WhyReply(request_id="r-urgent", decisions=(made,), gave_way=(way,)))
    assert f"got the slot of r-low on gaming-pc: {cut.text}\n" in capsys.readouterr().out


def test_a_later_attempt_waited_since_the_one_before_ended() -> None:
    first, last = WHY_RESUMED.outcomes
    both = (first, last)
    assert waited_s(first.decision, both) == 0.25
    assert waited_s(last.decision, both) == pytest.approx(6.1 - 0.25 - 5.2)
    lost = msgspec.structs.replace(first, figures=None)
    assert waited_s(last.decision, (lost, last)) is None, "nobody knows when it ended"
    assert waited_s(last.decision, (last,)) is None
    again = msgspec.structs.replace(last.decision, continued_tokens=0)
    assert waited_s(again, (last,)) == 6.1, "its dispatcher died before it was granted anything"
    longer = msgspec.structs.replace(first, figures=Figures(actual_s=9.0))
    assert waited_s(last.decision, (longer, last)) == 0.0


def test_when_a_lost_attempt_ended_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    first, last = WHY_RESUMED.outcomes
    lost = msgspec.structs.replace(first, figures=None, status=OutcomeStatus.PRESUMED_LOST, code=ErrorCode.NODE_LOST)
    with on_screen(Form.TABLE, 200):
        explaining.show_why(msgspec.structs.replace(WHY_RESUMED, outcomes=(lost, last), cuts=()))
    assert "waited: until 6.10 s after the request came; still waiting" in capsys.readouterr().out
