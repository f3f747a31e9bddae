"""How much each caller may ask for: counted where requests of all gateways and dispatchers meet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL, grant_request
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued, refused
from sollol_agents.scorer.queue.ceilings import Ceilings
from sollol_bus.trust.callers import Roster
from sollol_schemas.callers import Standing, Standings, word_of
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.errors import ErrorBody, ErrorCode

LAPTOP = word_of("laptop")


def roster(**standing: Any) -> Roster:
    return Roster(Standings(callers={"laptop": Standing(**standing)}))


def fleet_with(slots: int = 1, **standing: Any) -> Fleet:
    fleet = Fleet()
    fleet.node(slots=slots)
    fleet.core.ceilings.know(roster(**standing))
    return fleet


def ask(fleet: Fleet, request_id: str, **more: Any) -> ErrorBody | None:
    return refused(fleet.ask(request_id, caller=LAPTOP, **more)).get(request_id)


def test_requests_of_all_dispatchers_count_together() -> None:
    fleet = fleet_with(max_concurrent=2)
    assert ask(fleet, "r1", dispatcher="d1") is None
    assert ask(fleet, "r2", dispatcher="d2") is None
    error = ask(fleet, "r3", dispatcher="d3")
    assert error is not None
    assert error.code is ErrorCode.QUEUE_FULL
    assert error.http_status == 429
    assert "laptop may have 2 requests open" in error.message
    assert "sollol fleet limit laptop --concurrent" in error.message


def test_a_refusal_says_when_to_come_back() -> None:
    fleet = fleet_with(requests_per_minute=2)
    assert [ask(fleet, f"r{n}") is None for n in range(3)] == [True, True, False]
    effects = fleet.ask("r3", caller=LAPTOP)
    assert [getattr(e, "retry_after_s", 0.0) for e in effects] == [pytest.approx(30.0)]
    fleet.now += 30.1
    assert ask(fleet, "r3") is None


def test_what_ended_makes_room() -> None:
    fleet = fleet_with(max_concurrent=1)
    assert "r1" in granted(fleet.ask("r1", caller=LAPTOP))
    assert ask(fleet, "r2") is not None
    fleet.end("r1-1", "gpu1")
    assert ask(fleet, "r2") is None


def test_who_asks_again_fails_over_or_goes_to_another_dispatcher_is_not_refused() -> None:
    fleet = fleet_with(requests_per_minute=1, max_concurrent=1)
    fleet.ask("other")
    assert queued(fleet.ask("r1", caller=LAPTOP)) == ["r1"]
    assert queued(fleet.ask("r1", caller=LAPTOP)) == ["r1"]
    fleet.core.release("r1", fleet.now)
    assert queued(fleet.ask("r1", caller=LAPTOP, dispatcher="d2")) == ["r1"]
    fleet.core.release("r1", fleet.now)
    assert queued(fleet.ask("r1", caller=LAPTOP, number=2, is_admitted=True)) == ["r1"]
    assert ask(fleet, "r2") is not None


def test_a_successor_counts_what_it_is_asked_again_and_refuses_none_of_it() -> None:
    fleet = fleet_with(requests_per_minute=1, max_concurrent=2)
    fleet.core.forget_queue()
    assert [ask(fleet, f"r{n}", is_admitted=True) for n in range(3)] == [None, None, None]
    assert ask(fleet, "new") is not None


def test_an_attempts_number_that_a_caller_wrote_spares_it_nothing() -> None:
    fleet = fleet_with(requests_per_minute=1)
    assert [ask(fleet, f"r{n}", number=11) is None for n in range(2)] == [True, False]


def test_jobs_and_callers_without_ceilings_are_not_counted() -> None:
    fleet = fleet_with(requests_per_minute=1, max_concurrent=1)
    job = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=10, job_id="j")
    assert [ask(fleet, f"j{n}", context=job) for n in range(3)] == [None, None, None]
    assert not refused([e for n in range(3) for e in fleet.ask(f"s{n}", caller=word_of("stranger"))])
    assert not refused([e for n in range(3) for e in fleet.ask(f"n{n}")])


def test_a_ceiling_that_changes_holds_at_once_for_what_comes() -> None:
    fleet = fleet_with(max_concurrent=1)
    assert [ask(fleet, f"r{n}") is None for n in range(2)] == [True, False]
    fleet.core.ceilings.know(roster(max_concurrent=2))
    assert [ask(fleet, f"r{n}") is None for n in range(1, 3)] == [True, False]
    fleet.core.ceilings.know(Roster())
    assert ask(fleet, "r3") is None


steps = st.lists(
    st.tuples(st.floats(0.0, 40.0), st.integers(0, 12), st.sampled_from(["ask", "end", "leave"])), max_size=60
)


@given(steps, st.integers(1, 4), st.integers(1, 5))
def test_whatever_comes_no_ceiling_is_passed_and_nobody_waits_for_nothing(
    came: list[tuple[float, int, str]], concurrent: int, per_minute: int
) -> None:
    open_: set[str] = set()
    ceilings = Ceilings(open_.__contains__)
    ceilings.know(roster(max_concurrent=concurrent, requests_per_minute=per_minute))
    now, let_in = 0.0, []
    for pause_s, number, what in came:
        now += pause_s
        name = f"r{number}"
        if what == "ask" and name not in open_:
            refusal = ceilings.refusal(grant_request(name, caller=LAPTOP), now, is_again=False)
            if refusal is None:
                open_.add(name)
                let_in.append(now)
            elif len(open_) < concurrent:
                assert refusal.retry_after_s > 0
                later = now + refusal.retry_after_s + 1e-6
                assert ceilings.refusal(grant_request("later", caller=LAPTOP), later, is_again=False) is None
                now = later
                let_in.append(now)
        elif what == "ask":
            assert ceilings.refusal(grant_request(name, caller=LAPTOP), now, is_again=True) is None
        else:
            open_.discard(name)
        assert len(open_) <= concurrent
        assert sum(at > now - 60.0 for at in let_in) <= 2 * per_minute
