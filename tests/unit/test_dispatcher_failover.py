"""What happens after an attempt failed."""

from __future__ import annotations

import pytest

from sollol_agents.dispatcher.requests.failover import (
    MOVES_MAX,
    GiveUp,
    Retry,
    Tries,
    after_failure,
    after_refusal,
    is_doubt,
)
from sollol_agents.node.attempts.admission import TERM_KEPT_S
from sollol_bus.errors import SollolError
from sollol_schemas.errors import FREE_OF_CHARGE, RETRYABLE, ErrorBody, ErrorCode, Lack, Owner
from sollol_schemas.grant import GrantRefused


def tries() -> Tries:
    return Tries(max_attempts=3, number=1)


def error(code: ErrorCode) -> ErrorBody:
    return ErrorBody(code=code, message="it broke")


def refused(code: ErrorCode, retry_after_s: float = 0.0) -> GrantRefused:
    body = ErrorBody(code=code, message="it broke", details={"limit": 3})
    return GrantRefused(request_id="r1", error=body, retry_after_s=retry_after_s)


def unclear(text: str = "boom") -> ErrorBody:
    return ErrorBody(code=ErrorCode.ENGINE_FAILED, message=text, details={"engine_status": 500, "engine_body": text})


def lacking(lack: Lack, text: str = "no") -> ErrorBody:
    return ErrorBody(code=ErrorCode.ENGINE_REJECTED, message=text, status=400, lack=lack)


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


def test_the_same_refusal_of_a_second_node_acquits_both_and_is_told_in_the_engines_words() -> None:
    state = tries()
    assert after_failure(state, "n1", unclear(), has_streamed=False) == Retry()
    action = after_failure(state, "n2", unclear(), has_streamed=False)
    assert isinstance(action, GiveUp)
    assert (action.error.code, action.error.http_status) == (ErrorCode.ENGINE_REJECTED, 500)
    assert (action.error.blamed, action.error.details["engine_body"]) == (Owner.REQUEST, "boom")


def test_other_words_of_a_second_node_acquit_nobody() -> None:
    state = tries()
    after_failure(state, "n1", unclear(), has_streamed=False)
    assert after_failure(state, "n2", unclear("something else"), has_streamed=False) == Retry()
    assert state.excluded == ("n1", "n2")


def test_with_one_node_alone_the_caller_gets_what_the_engine_said() -> None:
    state = tries()
    after_failure(state, "n1", unclear(), has_streamed=False)
    told = after_refusal(state, refused(ErrorCode.NO_ELIGIBLE_NODE))
    assert (told.code, told.http_status, told.message) == (ErrorCode.ENGINE_FAILED, 500, "boom")


def test_what_a_node_lacks_is_asked_of_others_and_costs_no_attempt() -> None:
    state = tries()
    for number in range(MOVES_MAX):
        assert after_failure(state, f"n{number}", lacking(Lack.CONTEXT), has_streamed=False) == Retry()
    assert state.charged == 0
    assert len(state.excluded) == MOVES_MAX
    assert isinstance(after_failure(state, "last", lacking(Lack.CONTEXT), has_streamed=False), GiveUp)


def test_when_all_refuse_the_words_of_the_most_able_are_told() -> None:
    state = tries()
    long = "request (9000 tokens) exceeds the available context size (8192 tokens)"
    short = "request (9000 tokens) exceeds the available context size (2048 tokens)"
    for node, error_ in (
        ("n1", lacking(Lack.CONTEXT, short)),
        ("n2", lacking(Lack.CONTEXT, long)),
        ("n3", lacking(Lack.MODEL)),
    ):
        after_failure(state, node, error_, has_streamed=False)
    assert after_refusal(state, refused(ErrorCode.NO_ELIGIBLE_NODE)).message == long


@pytest.mark.parametrize("owner", [Owner.REQUEST, Owner.OUTPUT])
def test_a_fault_of_the_request_or_of_what_the_model_made_is_not_tried_elsewhere(owner: Owner) -> None:
    body = ErrorBody(code=ErrorCode.ENGINE_PROTOCOL, message="no JSON", owner=owner)
    assert after_failure(tries(), "n1", body, has_streamed=False) == GiveUp(error=body)


def test_nodes_and_engines_that_went_away_are_said_to_be_back_soon() -> None:
    state = tries()
    after_failure(state, "n1", error(ErrorCode.ENGINE_UNAVAILABLE), has_streamed=False)
    assert after_refusal(state, refused(ErrorCode.NO_ELIGIBLE_NODE)).retry_after_s > 0
    state = tries()
    after_failure(state, "n1", error(ErrorCode.STALLED), has_streamed=False)
    assert after_refusal(state, refused(ErrorCode.NO_ELIGIBLE_NODE)).retry_after_s == 0


def test_only_what_is_not_clear_is_proven_by_another_nodes_success() -> None:
    assert is_doubt(unclear())
    assert not is_doubt(error(ErrorCode.STALLED))
    assert not is_doubt(lacking(Lack.CONTEXT))


def test_nodes_that_know_a_later_scorer_are_asked_for_a_while_and_then_the_caller_is_told() -> None:
    tries = Tries(max_attempts=3, number=1)
    stale = ErrorBody(code=ErrorCode.STALE_TERM, message="the decision is of term 5; term 9 has begun")
    waited_s, asked = 0.0, 0
    while isinstance(action := after_failure(tries, "n", stale, has_streamed=False), Retry):
        waited_s, asked = waited_s + action.delay_s, asked + 1
        assert asked < 100
    assert action.error is stale
    assert TERM_KEPT_S < waited_s < 60  # by then a node has forgotten a scorer that lives no more
    assert tries.charged == 0
