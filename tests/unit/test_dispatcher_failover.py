"""What happens after an attempt failed."""

from __future__ import annotations

import pytest

from sollol_agents.dispatcher.failover import GiveUp, Retry, Tries, after_failure, after_refusal
from sollol_schemas.errors import FREE_OF_CHARGE, RETRYABLE, ErrorBody, ErrorCode


def tries() -> Tries:
    return Tries(max_attempts=3, number=1)


def error(code: ErrorCode) -> ErrorBody:
    return ErrorBody(code=code, message="it broke")


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
    told = after_refusal(state, error(ErrorCode.NO_ELIGIBLE_NODE))
    assert told.code is ErrorCode.ATTEMPTS_EXHAUSTED
    assert "node_lost" in told.message
    assert after_refusal(tries(), error(ErrorCode.NO_ELIGIBLE_NODE)).code is ErrorCode.NO_ELIGIBLE_NODE
