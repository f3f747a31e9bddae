"""Circuit breakers: when they open, who may try, and when they close."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.scorer.knowledge.breaker import Breaker, BreakerRules, Breakers, weight
from sollol_schemas.events import BreakerState
from sollol_schemas.execution import Evidence

RULES = BreakerRules()


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(RULES)
    for _ in range(RULES.failures):
        breaker.count(is_success=False, is_trial=False, now=at)
    return breaker


def test_five_failures_in_a_row_open_it() -> None:
    breaker = Breaker(RULES)
    for _ in range(4):
        assert not breaker.count(is_success=False, is_trial=False, now=0.0)
    breaker.count(is_success=True, is_trial=False, now=0.0)
    for _ in range(4):
        breaker.count(is_success=False, is_trial=False, now=0.0)
    assert breaker.allows(0.0)
    assert breaker.count(is_success=False, is_trial=False, now=0.0)
    assert not breaker.allows(0.0)
    assert breaker.opens_in_s(10.0) == 20.0


def test_a_failure_ratio_over_the_window_opens_it() -> None:
    breaker = Breaker(RULES)
    for i in range(20):
        breaker.count(is_success=i % 2 == 0, is_trial=False, now=0.0)
    assert breaker.state is BreakerState.OPEN


def test_after_30_seconds_two_trials_are_allowed_and_three_successes_close_it() -> None:
    breaker = opened()
    assert not breaker.allows(29.9)
    assert breaker.allows(30.0)
    assert breaker.start(30.0)
    assert breaker.start(30.0)
    assert not breaker.allows(30.0)
    breaker.count(is_success=True, is_trial=True, now=31.0)
    breaker.count(is_success=True, is_trial=True, now=31.0)
    assert breaker.start(31.0)
    assert breaker.count(is_success=True, is_trial=True, now=32.0)
    assert breaker.state is BreakerState.CLOSED
    assert not breaker.start(32.0)


def test_a_failed_trial_opens_it_again() -> None:
    breaker = opened()
    breaker.start(30.0)
    assert breaker.count(is_success=False, is_trial=True, now=31.0)
    assert not breaker.allows(60.0)
    assert breaker.allows(61.0)


def test_a_cancelled_trial_gives_its_place_back() -> None:
    breaker = opened()
    breaker.start(30.0)
    breaker.start(30.0)
    assert not breaker.allows(30.0)
    breaker.cancel(is_trial=True)
    assert breaker.allows(30.0)
    assert breaker.state is BreakerState.HALF_OPEN


def test_trials_whose_end_is_never_told_do_not_block_it_for_ever() -> None:
    breaker = opened()
    breaker.start(30.0)
    breaker.start(30.0)
    assert not breaker.refresh(300.0)
    assert breaker.refresh(331.0)
    assert breaker.allows(331.0)


def test_an_attempt_from_before_it_opened_is_no_trial() -> None:
    breaker = opened()
    breaker.start(30.0)
    assert not breaker.count(is_success=False, is_trial=False, now=31.0)
    assert breaker.state is BreakerState.HALF_OPEN


def test_one_models_failures_leave_other_models_of_the_node_alone_until_the_node_opens() -> None:
    breakers = Breakers(RULES)
    for _ in range(4):
        breakers.count("a", is_success=False, is_trial=False, now=0.0)
        breakers.count("b", is_success=True, is_trial=False, now=0.0)
    assert breakers.count("a", is_success=False, is_trial=False, now=0.0) == ["a"]
    assert breakers.refusing("a", 0.0) is breakers.of("a")
    assert breakers.refusing("b", 0.0) is None


@given(st.lists(st.tuples(st.sampled_from(["start", "ok", "bad", "cancel"]), st.floats(0, 20)), max_size=60))
def test_trials_never_exceed_their_limit(steps: list[tuple[str, float]]) -> None:
    breaker = Breaker(RULES)
    now = 0.0
    trials: list[bool] = []
    for step, passed in steps:
        now += passed
        if step == "start":
            if breaker.allows(now):
                trials.append(breaker.start(now))
        elif trials:
            is_trial = trials.pop(0)
            if step == "cancel":
                breaker.cancel(is_trial=is_trial)
            else:
                breaker.count(is_success=step == "ok", is_trial=is_trial, now=now)
        if breaker.state is BreakerState.HALF_OPEN:
            assert 0 <= breaker._trials <= RULES.trials


def test_made_up_names_do_not_close_an_open_breaker() -> None:
    breakers = Breakers(RULES)
    for _ in range(RULES.failures):
        breakers.count("broken", is_success=False, is_trial=False, now=0.0)
    for number in range(3000):
        breakers.count(f"made-up-{number}", is_success=True, is_trial=False, now=0.0)
    assert len(breakers.by_model) <= 513
    assert not breakers.of("broken").allows(1.0)


def asked(caller: str, body: str, *, is_confirmed: bool = False) -> Evidence:
    return Evidence(caller=caller, body=body, is_confirmed=is_confirmed)


def failing(*evidence: Evidence) -> Breaker:
    breaker = Breaker(RULES)
    for one in evidence:
        breaker.count(is_success=False, is_trial=False, now=0.0, evidence=one)
    return breaker


def test_one_caller_opens_no_breaker_however_many_bodies_it_sends() -> None:
    assert failing(*(asked("one", str(n)) for n in range(100))).is_closed


def test_one_body_opens_no_breaker_however_many_callers_send_it() -> None:
    assert failing(*(asked(str(n), "same") for n in range(100))).is_closed


def test_different_bodies_of_different_callers_open_it() -> None:
    breaker = failing(*(asked(str(n % 2), str(n)) for n in range(5)))
    assert breaker.state is BreakerState.OPEN


def test_what_the_agents_own_question_confirms_opens_it_as_fast_as_ever() -> None:
    row = [asked("one", "same", is_confirmed=True)] * RULES.failures
    assert failing(*row[1:]).is_closed
    assert failing(*row).state is BreakerState.OPEN


def test_one_caller_does_not_open_it_again_while_it_is_tried() -> None:
    breaker = opened()
    assert breaker.start(30.0)
    breaker.count(is_success=False, is_trial=True, now=31.0, evidence=asked("one", "a"))
    assert breaker.allows(31.0)
    assert breaker.start(31.0)
    breaker.count(is_success=False, is_trial=True, now=32.0, evidence=asked("one", "a", is_confirmed=True))
    assert not breaker.allows(32.0)


def test_a_model_that_cannot_be_loaded_closes_itself_and_not_its_node() -> None:
    breakers = Breakers(RULES)
    for _ in range(RULES.failures):
        breakers.count("big", is_success=False, is_trial=False, now=0.0, is_models=True)
    assert breakers.refusing("big", 0.0) is breakers.of("big")
    assert breakers.refusing("small", 0.0) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=30), st.integers(2, 10))
def test_no_caller_and_no_body_weighs_enough_alone(pairs: list[tuple[str, str]], needed: int) -> None:
    for caller in "abc":
        assert weight([asked(c, b) for c, b in pairs if c == caller], needed) < needed
    for body in "xyz":
        assert weight([asked(c, b) for c, b in pairs if b == body], needed) < needed


def test_an_engine_that_is_back_is_tried_at_once() -> None:
    breakers = Breakers(RULES)
    for _ in range(RULES.failures):
        breakers.count("m", is_success=False, is_trial=False, now=10.0)
    assert breakers.opens_in_s("m", 11.0) == 29.0
    breakers.try_soon(11.0)
    assert breakers.opens_in_s("m", 11.0) == 0.0
    assert breakers.start("m", 11.0)
    breakers.count("m", is_success=False, is_trial=True, now=12.0)
    assert breakers.opens_in_s("m", 12.0) == 30.0
    closed = Breaker(RULES)
    closed.try_soon(11.0)
    assert closed.is_closed
