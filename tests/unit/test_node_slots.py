"""Slots, concurrency, load messages and admission: what a node knows about its own load."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.node.attempts.admission import TERM_KEPT_S, Terms, busy, refusal_of
from sollol_agents.node.attempts.concurrency import Concurrency, mean_co_runners
from sollol_agents.node.attempts.slots import SlotTable
from sollol_agents.node.control.load_interval import LEAST_INTERVAL_S, LoadInterval
from sollol_schemas.decision import Decision
from sollol_schemas.errors import FREE_OF_CHARGE, ErrorCode
from sollol_schemas.execution import Exec


def test_no_more_run_than_there_are_slots() -> None:
    slots = SlotTable(2)
    assert [slots.take(name, "m") for name in ("a", "b", "c")] == [True, True, False]
    assert slots.release("a")
    assert slots.take("c", "m")


def test_a_model_may_have_fewer_slots_than_the_node() -> None:
    slots = SlotTable(4)
    assert slots.take("a", "embed", model_limit=1)
    assert not slots.take("b", "embed", model_limit=1)
    assert slots.take("c", "chat")


def test_releasing_twice_frees_one_slot() -> None:
    slots = SlotTable(2)
    slots.take("a", "m")
    slots.take("b", "m")
    assert slots.release("a")
    assert not slots.release("a")
    assert len(slots) == 1


def test_a_lowered_limit_lets_running_attempts_finish() -> None:
    slots = SlotTable(3)
    for name in ("a", "b", "c"):
        slots.take(name, "m")
    slots.limit = 1
    assert len(slots) == 3
    slots.release("a")
    slots.release("b")
    assert not slots.take("d", "m")
    slots.release("c")
    assert slots.take("d", "m")


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.sampled_from(["m", "n"])), max_size=200),
    st.integers(0, 4),
)
def test_slots_never_leak_and_never_exceed_their_limit(operations: list[tuple[bool, int, str]], limit: int) -> None:
    slots, held = SlotTable(limit), set[str]()
    for is_take, number, model in operations:
        name = f"a{number}"
        if is_take:
            if slots.take(name, model, model_limit=2):
                held.add(name)
        elif slots.release(name):
            held.remove(name)
        assert set(slots.attempts) == held
        assert len(held) <= limit


def test_the_mean_of_co_runners_is_exact() -> None:
    concurrency = Concurrency(0.0)
    concurrency.set_running(1, 10.0)
    before = concurrency.area(10.0)
    concurrency.set_running(3, 12.0)
    concurrency.set_running(2, 16.0)
    after = concurrency.area(20.0)
    # 2 s alone, 4 s beside two, 4 s beside one
    assert mean_co_runners(before, after, 10.0) == pytest.approx((2 * 0 + 4 * 2 + 4 * 1) / 10)


def test_an_attempt_without_duration_had_no_company() -> None:
    assert mean_co_runners(5.0, 5.0, 0.0) == 0.0


def test_the_first_change_is_told_at_once_and_the_next_after_the_interval() -> None:
    interval = LoadInterval()
    assert interval.changed(1.0) == 0.0
    interval.sent(1.0)
    assert interval.changed(1.01) == pytest.approx(LEAST_INTERVAL_S - 0.01)
    assert interval.changed(1.02) is None
    interval.sent(1.05)
    assert interval.changed(2.0) == 0.0


def envelope(term: int = 5) -> Exec:
    decision = Decision(request_id="r", attempt_id="r-1", node_id="n", instance="i", model="m", term=term)
    return Exec(decision=decision)


@pytest.mark.parametrize(
    ("reply_to", "highest", "draining", "engine", "code"),
    [
        ("_INBOX.abc", 5, False, True, None),
        ("_INBOX_cli.abc", 0, False, True, None),
        ("_INBOX.abc", 6, False, True, ErrorCode.STALE_TERM),
        ("_INBOX_ctl.abc", 5, False, True, ErrorCode.FORBIDDEN),
        ("_INBOX_node.n.abc", 5, False, True, ErrorCode.FORBIDDEN),
        ("", 5, False, True, ErrorCode.FORBIDDEN),
        ("_INBOX.>", 5, False, True, ErrorCode.FORBIDDEN),
        ("_INBOX.abc", 5, True, True, ErrorCode.DRAINING),
        ("_INBOX.abc", 5, False, False, ErrorCode.ENGINE_UNAVAILABLE),
    ],
    ids=["ok", "client", "older-term", "control", "node", "none", "wildcard", "draining", "no-engine"],
)
def test_what_may_not_run_is_refused(
    reply_to: str, highest: int, draining: bool, engine: bool, code: ErrorCode | None
) -> None:
    refused = refusal_of(envelope(), reply_to, highest_term=highest, is_draining=draining, has_engine=engine)
    assert (refused.code if refused else None) is code


def test_busy_costs_no_attempt_and_names_the_limit() -> None:
    refusal = busy(4, 4, "m", 0)
    assert refusal.code in FREE_OF_CHARGE
    assert "4" in refusal.message


@pytest.mark.parametrize(
    ("path", "opened", "is_refused"),
    [
        ("/slots", (), True),
        ("/slots/0?action=erase", (), True),
        ("/sl%6Fts", (), True),
        ("/SLOTS/", (), True),
        ("/models/load", (), True),
        ("/api/delete", (), True),
        ("/slots", ("/slots",), False),
        ("/props", ("/slots",), True),
        ("/v1/chat/completions", (), False),
        ("/v1/models-of-mine", (), False),
        ("/modelsearch", (), False),
    ],
)
def test_paths_that_change_an_engine_are_closed_unless_opened(
    path: str, opened: tuple[str, ...], is_refused: bool
) -> None:
    asked = msgspec.structs.replace(envelope(), path=path)
    refused = refusal_of(asked, "_INBOX.a", highest_term=5, is_draining=False, has_engine=True, open_paths=opened)
    assert (refused is not None) == is_refused
    if refused is not None:
        assert refused.code is ErrorCode.FORBIDDEN


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 5)), min_size=1))
def test_a_term_is_known_until_it_was_not_heard_of_for_so_long(heard: list[tuple[float, int]]) -> None:
    terms, now, last = Terms(), 100.0, {0: 0.0}
    for after_s, term in heard:
        now += after_s
        expected = max(t for t, at in last.items() if t == 0 or now - at < TERM_KEPT_S)
        assert terms.highest(now) == expected
        terms.heard(term, now)
        if term >= expected:
            last = {0: 0.0, term: now}
    assert terms.highest(now + TERM_KEPT_S + 0.001) == 0
