"""What happens after an attempt failed."""

from __future__ import annotations

import pytest

from sollol_agents.dispatcher.requests.failover import GiveUp, Retry, Tries, after_failure, after_refusal
from sollol_bus.errors import SollolError
from sollol_schemas.errors import FREE_OF_CHARGE, RETRYABLE, ErrorBody, ErrorCode
from sollol_schemas.grant import GrantRefused


def tries() -> Tries:
    return Tries(max_attempts=3, number=1)


def error(code: ErrorCode) -> ErrorBody:
    return ErrorBody(code=code, message="it broke")


def refused(code: ErrorCode, retry_after_s: float = 0.0) -> GrantRefused:
    body = ErrorBody(code=code, message="it broke", details={"limit": 3})
    return GrantRefused(request_id="r1", error=body, retry_after_s=retry_after_s)


def test_another_node_is_tried_at_once_and_the_failed_one_is_excluded() -> None:
    state = tries()
    assert after_failure(state, "n1", error(ErrorCode.NODE_LOST), has_streamed=False) == Retry()
    assert state.excluded == ("n1",)
    assert state.number == 2


def test_three_failures_are_the_end_and_name_every_node() -> None:
    state = tries()
    for node in ("n1", "n2"):
        assert isinstance(after_failure(state, node, error(ErrorCode.STALLED), has_streamed=False), Retry)
    last = after_failure(state, "n3", error(ErrorCode.ENGINE_FAILED), has_streamed=False)
    assert isinstance(last, GiveUp)
    assert last.error.code is ErrorCode.ATTEMPTS_EXHAUSTED
    assert last.error.details["nodes"] == ["n1", "n2", "n3"]


@pytest.mark.parametrize("code", sorted(FREE_OF_CHARGE))
def test_a_refusal_costs_no_attempt_but_waits_a_little_longer_each_time(code: ErrorCode) -> None:
    state = tries()
    delays = []
    for _ in range(12):
        action = after_failure(state, "n1", error(code), has_streamed=False)
        assert isinstance(action, Retry)
        delays.append(action.delay_s)
    assert state.charged == 0
    assert state.excluded == ()
    assert delays == sorted(delays)
    assert delays[-1] <= 1.0
    assert len(state.busy) <= 8


@pytest.mark.parametrize("code", sorted(RETRYABLE))
def test_nothing_is_restarted_once_the_caller_has_a_chunk(code: ErrorCode) -> None:
    action = after_failure(tries(), "n1", error(code), has_streamed=True)
    assert action == GiveUp(error=error(code))


@pytest.mark.parametrize("code", sorted(set(ErrorCode) - RETRYABLE))
def test_what_another_node_cannot_heal_is_told_at_once(code: ErrorCode) -> None:
    assert isinstance(after_failure(tries(), "n1", error(code), has_streamed=False), GiveUp)


def test_after_failures_the_caller_hears_of_them_and_not_that_nodes_are_excluded() -> None:
    state = tries()
    after_failure(state, "n1", error(ErrorCode.NODE_LOST), has_streamed=False)
    told = after_refusal(state, refused(ErrorCode.NO_ELIGIBLE_NODE))
    assert told.code is ErrorCode.ATTEMPTS_EXHAUSTED
    assert "node_lost" in told.message
    assert after_refusal(tries(), refused(ErrorCode.NO_ELIGIBLE_NODE)).code is ErrorCode.NO_ELIGIBLE_NODE


@pytest.mark.parametrize("code", [ErrorCode.QUEUE_FULL, ErrorCode.DEADLINE_UNREACHABLE, ErrorCode.NO_ELIGIBLE_NODE])
def test_when_to_ask_again_reaches_the_caller_with_the_details_there_were(code: ErrorCode) -> None:
    told = after_refusal(tries(), refused(code, 7.25))
    assert told.code is code
    assert told.details == {"limit": 3, "retry_after_s": 7.25}
    assert SollolError(body=told).retry_after_s == 7.25
    failed = tries()
    after_failure(failed, "n1", error(ErrorCode.NODE_LOST), has_streamed=False)
    assert after_refusal(failed, refused(code, 7.25)).details["retry_after_s"] == 7.25


def test_nothing_is_promised_when_asking_again_cannot_help() -> None:
    told = after_refusal(tries(), refused(ErrorCode.UNKNOWN_MODEL))
    assert "retry_after_s" not in told.details
    assert SollolError(body=told).retry_after_s is None


@pytest.mark.parametrize("nonsense", [True, "3", -1, 0, None])
def test_what_is_no_time_is_no_time_to_ask_again(nonsense: object) -> None:
    body = ErrorBody(code=ErrorCode.QUEUE_FULL, message="full", details={"retry_after_s": nonsense})
    assert SollolError(body=body).retry_after_s is None
