"""When a caller asks about an answer that says nothing, and what it makes of what it hears."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_bus.errors import BackendUnavailable, ConnectionLost
from sollol_bus.sdk.silence import LOOK_EVERY_S, LOOK_RARELY_S, SUDDEN_S, Pace, Silence, end_told, question_about
from sollol_bus.transport.messages import Msg, encode, error_headers
from sollol_schemas import headers as h
from sollol_schemas.control import AttemptState, StateAnswer, StateQuestion
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode


def message(data: bytes, headers: dict[str, str] | None = None) -> Msg:
    return Msg(cast("Any", None), data=data, headers=headers)


@given(st.lists(st.floats(0.0, 40.0), min_size=1, max_size=30), st.floats(1.0, 60.0))
def test_a_silence_is_asked_about_within_seconds_and_talk_never(gaps_s: list[float], silent_s: float) -> None:
    """Messages come with these gaps between them, and then nothing for a while; in virtual time."""
    came: list[float] = []
    for gap_s in gaps_s:
        came.append((came[-1] if came else 0.0) + gap_s)
    over = came[-1] + silent_s
    silence, now, asked = Silence(), 0.0, []
    while now <= over:
        look = silence.look(sum(1 for at in came if at <= now))
        assert LOOK_EVERY_S <= look.again_in_s <= LOOK_RARELY_S
        if look.is_silent:
            asked.append(now)
        now += look.again_in_s
    for at in asked:
        assert not any(at - LOOK_EVERY_S < one <= at for one in came)
    if silent_s > 2 * LOOK_RARELY_S:
        assert any(at > came[-1] for at in asked)
        assert min(at for at in asked if at > came[-1]) - came[-1] <= LOOK_RARELY_S + LOOK_EVERY_S


def test_a_stream_that_stops_after_steady_talk_is_asked_about_within_two_looks() -> None:
    silence = Silence()
    assert [silence.look(number).is_silent for number in (10, 20, 30, 30)] == [False, False, False, True]
    assert [silence.look(30).again_in_s for _ in range(3)] == [12.0, 12.0, 12.0]
    assert silence.look(31).again_in_s == LOOK_EVERY_S


def sudden(came: list[float], until: float) -> list[float]:
    """When the silence of a stream is called sudden whose messages come at these instants."""
    pace, now, found = Pace(), 0.3, []
    while now <= until:
        look = pace.look(sum(1 for at in came if at <= now), now)
        assert 0.0 < look.again_in_s <= LOOK_EVERY_S
        if look.is_silent:
            found.append(now)
        now += look.again_in_s
    return found


@given(st.floats(0.002, 1.0), st.integers(0, 200), st.lists(st.floats(0.3, 1.7), min_size=200, max_size=200))
def test_a_steady_stream_is_never_suddenly_silent(gap_s: float, number: int, strays: list[float]) -> None:
    came = [0.0]
    for stray in strays[:number]:
        came.append(came[-1] + gap_s * stray)
    assert not sudden(came, came[-1])


@given(st.floats(0.002, 0.3), st.integers(0, 12))
def test_a_stream_that_had_a_pace_and_stops_is_asked_about_soon_and_twice(gap_s: float, more: int) -> None:
    number = 8 + round(3 * max(SUDDEN_S, 8 * gap_s) / gap_s) + more
    came = [gap_s * n for n in range(number)]
    found = sudden(came, came[-1] + 60.0)
    assert len(found) == 2
    assert found[0] - came[-1] <= 3 * max(SUDDEN_S, 8 * gap_s)
    assert found[1] - found[0] <= LOOK_EVERY_S


@given(st.integers(0, 7), st.floats(0.01, 1.0))
def test_a_stream_without_a_pace_is_never_suddenly_silent(number: int, gap_s: float) -> None:
    assert not sudden([gap_s * n for n in range(number)], 60.0)


def test_a_stream_that_speaks_again_may_be_suddenly_silent_again() -> None:
    first = [0.05 * n for n in range(40)]
    again = [12.0 + 0.05 * n for n in range(80)]
    found = sudden(first + again, 30.0)
    assert len(found) == 4
    assert found[1] < again[0] < again[-1] < found[2]


def test_only_an_answer_that_says_who_makes_it_can_be_asked_about() -> None:
    decision = Decision(request_id="r", attempt_id="r-1", node_id="n1", instance="i", model="m")
    first = message(b"a", {h.DECISION: encode(decision).decode()})
    assert question_about(first) == StateQuestion(node_id="n1", attempt_id="r-1")
    assert question_about(message(b"a")) is None
    assert question_about(None) is None


@pytest.mark.parametrize("state", [AttemptState.RUNNING, AttemptState.STREAMING])
def test_an_attempt_that_runs_goes_on(state: AttemptState) -> None:
    assert end_told(message(encode(StateAnswer(state=state)))) is None


def test_an_attempt_that_has_ended_tells_how_many_messages_there_were() -> None:
    assert end_told(message(encode(StateAnswer(state=AttemptState.ENDED_SPOKEN, chunks=0)))) == 0
    assert end_told(message(encode(StateAnswer(state=AttemptState.ENDED_SPOKEN, chunks=7)))) == 7


@pytest.mark.parametrize("state", [AttemptState.UNKNOWN, AttemptState.ENDED_SPOKEN, AttemptState.ENDED_SILENT])
def test_an_end_of_which_nothing_is_known_is_a_lost_connection(state: AttemptState) -> None:
    assert isinstance(end_told(message(encode(StateAnswer(state=state)))), ConnectionLost)


def test_a_node_that_is_gone_is_told_and_what_cannot_be_read_is_no_end() -> None:
    gone = ErrorBody(code=ErrorCode.NODE_LOST, message="gone")
    assert isinstance(end_told(message(encode(gone), error_headers(gone))), BackendUnavailable)
    assert end_told(message(b"{")) is None
