"""When a node may speak: the lease of the first chunk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.node.attempts.fence import Fence, Verdict


def asked(at: float = 100.0, go_s: float = 2.0) -> Fence:
    fence = Fence(go_s)
    fence.accepted_sent(at)
    return fence


def test_it_waits_until_the_dispatcher_answers() -> None:
    assert asked().verdict(100.1) is Verdict.WAIT


def test_a_go_holds_from_the_moment_the_question_was_sent() -> None:
    fence = asked(at=100.0)
    fence.accepted_answered(go=True)
    assert fence.verdict(101.9) is Verdict.SPEAK
    assert fence.verdict(102.0) is Verdict.ASK


def test_a_go_that_arrives_after_its_time_is_worth_nothing() -> None:
    fence = asked(at=100.0)
    fence.accepted_answered(go=True)
    assert fence.verdict(103.0) is Verdict.ASK


def test_a_no_stops_the_attempt_for_good() -> None:
    fence = asked()
    fence.accepted_answered(go=False)
    assert fence.verdict(100.1) is Verdict.STOP
    fence.nobody_listens(is_settling=False)
    assert fence.verdict(100.1) is Verdict.STOP


def test_the_answer_to_start_holds_for_good() -> None:
    fence = asked()
    fence.start_sent()
    assert fence.verdict(200.0) is Verdict.WAIT
    fence.start_answered(go=True)
    assert fence.verdict(1e9) is Verdict.SPEAK


def test_a_no_to_start_stops_the_attempt() -> None:
    fence = asked()
    fence.start_sent()
    fence.start_answered(go=False)
    assert fence.verdict(100.5) is Verdict.STOP


def test_without_a_dispatcher_nobody_else_can_retry_so_it_may_speak() -> None:
    fence = asked()
    fence.nobody_listens(is_settling=False)
    assert fence.verdict(1e9) is Verdict.SPEAK


def test_just_after_its_own_reconnect_a_missing_dispatcher_proves_nothing() -> None:
    fence = asked()
    fence.nobody_listens(is_settling=True)
    assert fence.verdict(100.1) is Verdict.ASK


def test_an_unanswered_question_is_asked_again() -> None:
    fence = asked()
    fence.unanswered()
    assert fence.verdict(100.1) is Verdict.ASK


def test_a_process_that_was_suspended_asks_again() -> None:
    fence = asked()
    fence.accepted_answered(go=True)
    fence.void()
    assert fence.verdict(100.1) is Verdict.ASK


def test_a_disconnect_drops_what_has_not_spoken_and_nothing_else() -> None:
    silent, speaking = asked(), asked()
    for fence in (silent, speaking):
        fence.accepted_answered(go=True)
    speaking.spoke()
    for fence in (silent, speaking):
        fence.disconnected()
    assert silent.verdict(100.1) is Verdict.STOP
    assert speaking.verdict(100.1) is Verdict.SPEAK


@given(
    events=st.lists(st.sampled_from(["go", "unanswered", "void", "settling"]), max_size=6),
    late_s=st.floats(min_value=0, max_value=1e6),
)
def test_it_never_speaks_on_a_lease_that_ran_out(events: list[str], late_s: float) -> None:
    fence = asked(at=100.0, go_s=2.0)
    for event in events:
        match event:
            case "go":
                fence.accepted_answered(go=True)
            case "unanswered":
                fence.unanswered()
            case "void":
                fence.void()
            case _:
                fence.nobody_listens(is_settling=True)
    assert fence.verdict(102.0 + late_s) is not Verdict.SPEAK
