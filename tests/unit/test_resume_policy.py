"""Whether an answer that broke off goes on, with what, and for how long it is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_bus.sdk.resume.interface import Said
from sollol_bus.sdk.resume.policy import RESUMES_MAX, Again, Broken, GiveUp, judged, refused
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.errors import ErrorBody, ErrorCode, Owner

_FIRST = ContinueFrom(resumed=0)
_SAID = Said("text", "", 2)


def _broken(code: ErrorCode = ErrorCode.NODE_LOST, said: Said = _SAID, **changes: object) -> Broken:
    error = ErrorBody(code=code, message="m", details=changes.pop("details", {}))  # type: ignore[arg-type]
    broken = Broken(error=error, said=said, node_id="attic", fingerprint="ollama:0", left_s=10.0)
    return broken._replace(**changes)  # type: ignore[arg-type]


@given(code=st.sampled_from(ErrorCode), owner=st.none() | st.sampled_from(Owner), resumed=st.integers(0, 12))
def test_only_faults_of_node_engine_and_bus_are_mended_and_no_more_than_eight_times(
    code: ErrorCode, owner: Owner | None, resumed: int
) -> None:
    error = ErrorBody(code=code, message="m", owner=owner)
    step = judged(_broken(error=error), ContinueFrom(resumed=resumed))
    if isinstance(step, Again):
        assert error.blamed not in (Owner.REQUEST, Owner.OUTPUT)
        assert step.continued.resumed == resumed + 1 <= RESUMES_MAX


@pytest.mark.parametrize(
    "broken",
    [
        _broken(said=Said("text", refusal="no")),
        _broken(left_s=0.0),
        _broken(fingerprint=""),
        _broken(ErrorCode.ENGINE_REJECTED),
        _broken(ErrorCode.CANCELLED),
    ],
    ids=["refused", "late", "alien", "request", "cancelled"],
)
def test_what_cannot_go_on_ends(broken: Broken) -> None:
    assert isinstance(judged(broken, _FIRST), GiveUp)


def test_where_nothing_was_said_it_begins_anew_on_any_engine() -> None:
    step = judged(_broken(said=Said(), fingerprint=""), _FIRST)
    assert isinstance(step, Again)
    assert step.continued.is_blank


@pytest.mark.parametrize(
    ("broken", "is_excluded"),
    [
        (_broken(ErrorCode.NODE_LOST), True),
        (_broken(ErrorCode.CONNECTION_LOST), True),
        (_broken(ErrorCode.CONNECTION_LOST, is_own=True), False),
        (_broken(ErrorCode.MOVED), True),
        (_broken(ErrorCode.MOVED, details={"reason": "drain"}), True),
        (_broken(ErrorCode.MOVED, details={"reason": "priority"}), False),
        (_broken(ErrorCode.MOVED, details={"reason": "rebalance"}), False),
        (_broken(ErrorCode.ACTOR_STOPPED), True),
        (_broken(ErrorCode.ACTOR_STOPPED, details={"gone_within_s": 3.0}), False),
    ],
)
def test_the_node_at_fault_is_excluded(broken: Broken, is_excluded: bool) -> None:
    step = judged(broken, ContinueFrom(resumed=1, excluded=("cellar",)))
    assert isinstance(step, Again)
    assert step.continued.excluded == (("cellar", "attic") if is_excluded else ("cellar",))


@pytest.mark.parametrize("code", [ErrorCode.NO_ELIGIBLE_NODE, ErrorCode.NO_NODES, ErrorCode.ATTEMPTS_EXHAUSTED])
def test_what_a_dispatcher_says_that_did_not_hear_it_begin_is_mended(code: ErrorCode) -> None:
    step = judged(_broken(code), _FIRST)
    assert isinstance(step, Again)
    assert step.continued.text == "text"


@pytest.mark.parametrize(("is_own", "node_id"), [(True, "attic"), (False, "")])
def test_the_node_that_was_not_at_fault_is_told_as_the_one_that_has_it_in_its_cache(is_own: bool, node_id: str) -> None:
    step = judged(_broken(ErrorCode.CONNECTION_LOST, is_own=is_own), ContinueFrom(resumed=1, node_id="cellar"))
    assert isinstance(step, Again)
    assert step.continued.node_id == node_id


def test_cuts_are_counted() -> None:
    step = judged(_broken(ErrorCode.MOVED), ContinueFrom(resumed=2, cuts=1))
    assert isinstance(step, Again)
    assert (step.continued.resumed, step.continued.cuts) == (3, 2)
    step = judged(_broken(), step.continued)
    assert isinstance(step, Again)
    assert step.continued.cuts == 2


def _refusal(code: ErrorCode, **details: object) -> ErrorBody:
    return ErrorBody(code=code, message="said", details=details)


def test_a_refused_request_is_sent_without_exclusions_then_for_some_seconds_and_then_given_up() -> None:
    sent = ContinueFrom(text="t", excluded=("attic",), fingerprint="f", cuts=1)
    nobody = _refusal(ErrorCode.NO_ELIGIBLE_NODE)
    again = refused(nobody, sent, 0.1, 60.0)
    assert again == Again(ContinueFrom(text="t", fingerprint="f", cuts=1))
    assert isinstance(again, Again)
    later = refused(nobody, again.continued, 0.2, 60.0)
    assert isinstance(later, Again)
    assert later.after_s > 0
    assert refused(nobody, again.continued, 60.0, 60.0) == GiveUp("said")
    assert isinstance(refused(nobody, again.continued, 0.2, 0.1), GiveUp)
    settled = _refusal(ErrorCode.NO_ELIGIBLE_NODE, is_settled=True)
    assert isinstance(refused(settled, again.continued, 0.2, 60.0), GiveUp)


def test_a_second_fault_before_the_rest_is_one_more_time() -> None:
    sent = ContinueFrom(text="t", excluded=("attic",), fingerprint="f")
    step = refused(_refusal(ErrorCode.ATTEMPTS_EXHAUSTED), sent, 1.0, 60.0)
    assert isinstance(step, Again)
    assert step.continued.resumed == 2
    last = ContinueFrom(text="t", resumed=RESUMES_MAX)
    tried = GiveUp(f"it went on {RESUMES_MAX} times already")
    assert refused(_refusal(ErrorCode.NODE_LOST), last, 1.0, 60.0) == tried


@pytest.mark.parametrize("code", [ErrorCode.ENGINE_PROTOCOL, ErrorCode.ENGINE_FAILED, ErrorCode.STALLED])
def test_a_rest_that_breaks_one_engine_after_the_other_breaks_no_more_of_them(code: ErrorCode) -> None:
    sent = ContinueFrom(text="t", fingerprint="f")
    nodes = ["attic", "cellar", "desk"]
    broken = _refusal(ErrorCode.ATTEMPTS_EXHAUSTED, last_code=code.value, nodes=nodes)
    assert isinstance(refused(broken, sent, 1.0, 60.0), GiveUp)
    few = _refusal(ErrorCode.ATTEMPTS_EXHAUSTED, last_code=code.value, nodes=nodes[:2])
    assert isinstance(refused(few, sent, 1.0, 60.0), Again)
    assert isinstance(refused(few, ContinueFrom(text="t", fingerprint="f", resumed=5), 1.0, 60.0), GiveUp)
    gone = _refusal(ErrorCode.ATTEMPTS_EXHAUSTED, last_code=ErrorCode.ENGINE_UNAVAILABLE.value, nodes=nodes)
    assert isinstance(refused(gone, sent, 1.0, 60.0), Again)


@pytest.mark.parametrize(
    "code", [ErrorCode.ENGINE_UNAVAILABLE, ErrorCode.ENGINE_PROTOCOL, ErrorCode.ATTEMPTS_EXHAUSTED]
)
def test_an_engine_that_starts_anew_is_waited_for(code: ErrorCode) -> None:
    sent, since_s, times = ContinueFrom(text="t", fingerprint="f"), 0.05, []
    while isinstance(step := refused(_refusal(code), sent, since_s, 60.0), Again):
        sent, since_s = step.continued, since_s + step.after_s
        times.append(since_s)
    assert len(times) == RESUMES_MAX - 1
    assert len([at for at in times if at < 2.0]) <= 3  # with the first fault fewer than open a circuit breaker
    assert 8.0 < times[-1] < 20.0
    late = GiveUp("nobody went on with it before its deadline")
    assert refused(_refusal(code), ContinueFrom(text="t"), 3.0, 2.0) == late
    moved = refused(_refusal(ErrorCode.MOVED), ContinueFrom(text="t"), 3.0, 60.0)
    assert isinstance(moved, Again)
    assert moved.after_s == 0.0


def test_a_node_that_cannot_go_on_says_why() -> None:
    step = refused(_refusal(ErrorCode.NOT_CONTINUED), ContinueFrom(text="t"), 0.1, 60.0)
    assert step == GiveUp("said")
