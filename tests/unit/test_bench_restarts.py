"""Orders in which every actor is restarted, and callers who check what they are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("bench.restarts", reason="the benchmarks are not part of the wheel")

from bench import rolling
from bench.callers import WAYS, spread
from bench.restarts import ACTORS, NODES, as_text, order_of, percentile
from sollol_agents.cli.commands.upgrade_plan import ORDER


@given(st.integers(0, 10_000))
def test_an_order_restarts_every_actor_once_and_two_at_once_at_most(seed: int) -> None:
    steps = order_of(seed)
    assert sorted(one.actor for step in steps for one in step) == sorted(ACTORS)
    assert all(1 <= len(step) <= 2 for step in steps)
    assert steps == order_of(seed)


def test_ten_orders_have_pairs_and_second_signals_of_every_kind_of_actor() -> None:
    orders = [order_of(seed) for seed in range(1, 11)]
    hurried = {one.actor.partition("-")[0] for steps in orders for step in steps for one in step if one.is_hurried}
    assert hurried >= {"gateway", "dispatcher", "scorer", "recorder", "attic"}
    assert all(any(len(step) == 2 for step in steps) for steps in orders)


@pytest.mark.parametrize("count", [0, 1, 20, 120])
def test_callers_are_spread_evenly_over_the_ways(count: int) -> None:
    ways = spread(count)
    assert len(ways) == count
    assert max(map(ways.count, WAYS)) - min(map(ways.count, WAYS)) <= 1


def test_a_row_says_what_went_wrong_below_the_order() -> None:
    row = dict.fromkeys(("answered", "come_back", "cut", "errors", "hangs", "lost", "doubled", "gap_s", "wait_s"), 0)
    text = as_text({"orders": {"7": row | {"errors": 2, "order": "desk! attic", "what": {"sdk: why": 2}}}})
    assert text.splitlines()[-1].split() == ["2", "x", "sdk:", "why"]
    assert text.splitlines()[1].endswith("desk! attic")


def test_a_rolling_upgrade_takes_everybody_in_the_order_that_is_told() -> None:
    assert set(rolling.ORDER) == {*rolling.SERVERS, *NODES, *rolling.CONTROL}
    kinds = ["nats-server", "node", "scorer", "recorder", "dispatcher", "gateway"]
    assert [kind for kind in ORDER if kind in kinds] == kinds
    roles = [name.partition("-")[0] for name in rolling.ORDER]
    assert list(dict.fromkeys(roles)) == ["nats", *NODES, *kinds[2:]]


def test_a_round_says_what_went_wrong() -> None:
    row = dict.fromkeys(rolling._COLUMNS, 0)
    text = rolling.as_text({"rounds": {"2": row | {"errors": 1, "what": {"/api/tags: 503": 1}}}})
    assert text.splitlines()[-1].split() == ["1", "x", "/api/tags:", "503"]


@pytest.mark.parametrize(
    ("values", "found"), [([], 0.0), ([3.0], 3.0), ([1.0, 2.0, 9.0], 9.0), ([1.0] * 199 + [9.0], 1.0)]
)
def test_a_percentile_is_a_value_that_occurred(values: list[float], found: float) -> None:
    assert percentile(values, 0.99) == found
