"""What one attempt costs: its share of the node's busy seconds and of the energy that it drew meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import telemetry
from sollol_agents.node.attempts.shares import PowerMeter, Shares
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.control.telemetry import Standing, drawn_w
from sollol_schemas.prices import NodePrice, Power, significant, told
from sollol_schemas.slim import slim
from sollol_schemas.telemetry import Gpu

SPANS = st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 50)), min_size=1, max_size=8)
EUR = NodePrice(per_hour=3.6, per_kwh=0.36, currency="EUR")


@given(SPANS, st.floats(0, 1000))
def test_the_shares_of_all_attempts_are_the_busy_time_and_what_was_drawn_in_it(
    spans: list[tuple[float, float]], watts: float
) -> None:
    shares = Shares(0.0)
    shares.set_power(watts, 0.0)
    changes = sorted(
        [(at, 1, n) for n, (at, _) in enumerate(spans)] + [(at + s, 0, n) for n, (at, s) in enumerate(spans)]
    )
    marks, got, busy_s, last = {}, [], 0.0, 0.0
    running: set[int] = set()
    for at, begins, n in changes:
        busy_s += (at - last) * bool(running)
        last = at
        if begins:
            marks[n] = shares.mark(at)
            running.add(n)
        else:
            got.append(shares.since(marks[n], at))
            running.discard(n)
        shares.set_running(len(running), at)
    assert sum(s.busy_s for s in got) == pytest.approx(busy_s, rel=1e-6, abs=1e-6)
    assert sum(s.energy_j or 0.0 for s in got) == pytest.approx(busy_s * watts, rel=1e-6, abs=1e-6)
    paid = sum(EUR.of(s.busy_s, s.energy_j) or 0.0 for s in got)
    assert paid == pytest.approx(busy_s * 0.001 + busy_s * watts * 1e-7, rel=1e-6, abs=1e-9)


def test_energy_is_not_known_where_the_power_was_not_all_the_time() -> None:
    shares = Shares(0.0)
    shares.set_running(1, 0.0)
    mark = shares.mark(0.0)
    shares.set_power(100.0, 5.0)
    assert shares.since(mark, 10.0) == (10.0, None)
    assert shares.since(shares.mark(10.0), 12.0) == (2.0, 200.0)


@pytest.mark.parametrize(
    ("price", "energy_j", "expense"),
    [
        (NodePrice(), 10.0, None),
        (NodePrice(per_hour=0.0), None, 0.0),
        (NodePrice(per_hour=3.6), None, 0.002),
        (NodePrice(per_kwh=0.36), 1000.0, 0.0001),
        (NodePrice(per_hour=3.6, per_kwh=0.36), None, None),
        (NodePrice(per_hour=3.6, per_kwh=0.36), 1000.0, 0.0021),
    ],
)
def test_a_price_whose_energy_is_not_known_is_no_price(
    price: NodePrice, energy_j: float | None, expense: float | None
) -> None:
    assert price.of(2.0, energy_j) == (None if expense is None else pytest.approx(expense))


def test_what_is_stated_wins_over_what_drivers_tell() -> None:
    meter = PowerMeter(80.0, 350.0)
    assert meter.observe(120.0, is_busy=True) == 350.0
    assert meter.told == Power(idle_w=80.0, busy_w=350.0, is_stated=True)


def test_what_drivers_tell_is_averaged_idle_and_busy_apart() -> None:
    meter = PowerMeter(0.0, 0.0)
    assert meter.observe(None, is_busy=False) is None
    assert meter.told == Power()
    for watts, is_busy in ((30.0, False), (300.0, True), (200.0, True)):
        assert meter.observe(watts, is_busy=is_busy) == watts
    assert meter.told == Power(idle_w=30.0, busy_w=290.0)


def test_power_is_known_only_where_every_gpu_tells_it() -> None:
    told_w = [Gpu(index=0, name="RTX 3090", memory_total_mib=1.0, power_w=w) for w in (100.0, 50.0, None)]
    assert [drawn_w(()), drawn_w(tuple(told_w[:2])), drawn_w(tuple(told_w))] == [None, 150.0, None]


def test_an_operator_replaces_the_configured_price_and_may_take_it_away() -> None:
    standing = Standing.of(NodeConfig(price_per_hour=0.5, currency="EUR"))
    assert standing.price == NodePrice(per_hour=0.5, currency="EUR")
    standing.change(2.0, {})
    assert standing.price.per_hour == 0.5
    standing.change(None, {}, EUR)
    assert standing.price == EUR
    standing.change(None, {}, NodePrice())
    assert not standing.price.is_known


def test_money_keeps_its_digits_and_reads_like_money() -> None:
    assert slim(NodePrice(per_hour=0.000001234), 4).per_hour == 0.000001234
    assert significant(0.000012345678) == 0.0000123457
    words = [told(amount, "EUR") for amount in (None, 0.0, 12.5, 0.3, 0.00042199, 0.0000031)]
    assert words == ["-", "0.00 EUR", "12.50 EUR", "0.30 EUR", "0.00042 EUR", "0.0000031 EUR"]
    assert str(EUR) == "3.60 EUR an hour, 0.36 EUR a kWh"


def test_a_price_for_energy_says_what_is_missing_where_the_power_is_not_known() -> None:
    at_home = NodePrice(per_kwh=0.31, currency="EUR")
    assert telemetry("n1", price=at_home).price_in_words == "0.31 EUR a kWh (its power is not known)"
    assert telemetry("n1", price=at_home, power=Power(busy_w=300.0)).price_in_words == "0.31 EUR a kWh"
    assert telemetry("n1").price_in_words == ""
