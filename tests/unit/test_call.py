"""How long a caller waits before it sends its request again."""

from __future__ import annotations

import random

import pytest

from sollol_bus.errors import ActorStopped, SollolError
from sollol_bus.sdk.pacing import gone_within_s, taken_within_s
from sollol_bus.sdk.sending import MAX_RESENDS
from sollol_bus.transport.streaming import MAX_ANSWER_BYTES, grown
from sollol_schemas.errors import ErrorBody, ErrorCode


def test_each_sending_waits_twice_as_long_and_none_longer_than_a_minute() -> None:
    class NoSpread(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return a

    waits = [taken_within_s(sent, NoSpread()) for sent in range(MAX_RESENDS)]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_callers_whose_requests_were_lost_together_do_not_come_back_together() -> None:
    waits = {taken_within_s(0, random.Random(seed)) for seed in range(100)}
    assert len(waits) == 100
    assert 2.0 <= min(waits) < 2.1
    assert 2.9 < max(waits) <= 3.0


def test_the_same_seed_waits_the_same_time() -> None:
    assert taken_within_s(3, random.Random(7)) == taken_within_s(3, random.Random(7))


@pytest.mark.parametrize(
    ("told", "believed"),
    [(30, 30.0), (0.5, 0.5), (None, 0.0), (-1, 0.0), ("9", 0.0), (1e9, 3600.0), (float("nan"), 0.0)],
)
def test_how_long_a_dispatcher_stays_is_believed_within_reason(told: object, believed: float) -> None:
    body = ErrorBody(code=ErrorCode.ACTOR_STOPPED, message="", details={"gone_within_s": told})
    assert gone_within_s(ActorStopped(body=body)) == believed


def test_what_is_collected_of_an_answer_has_a_bound() -> None:
    assert grown(MAX_ANSWER_BYTES - 1, b"x") == MAX_ANSWER_BYTES
    with pytest.raises(SollolError) as refused:
        grown(MAX_ANSWER_BYTES, b"x")
    assert refused.value.body.code is ErrorCode.REPLY_TOO_LARGE
