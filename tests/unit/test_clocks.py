"""What time it is: no step of a machine's clock moves ages, due times or what is kept."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.recorder.retention import Line
from sollol_agents.scorer.fleet.node_clock import NodeClock
from sollol_bus.transport.clock import Clock

HOUR_S, DAY_S = 3600.0, 86_400.0
START = 1.8e9
STEPS = st.sampled_from([-31 * DAY_S, -HOUR_S, -3.0, 3.0, HOUR_S, 31 * DAY_S])


class Machine:
    """A steady clock that runs, and a wall clock that anybody sets."""

    def __init__(self) -> None:
        self.steady_s = 1000.0
        self.wall_off_s = 0.0
        self.clock = Clock(lambda: self.steady_s, lambda: self.true_s + self.wall_off_s)

    @property
    def true_s(self) -> float:
        return START + self.steady_s

    def ask_server(self, there_s: float = 0.01, back_s: float = 0.01, *, server_off_s: float = 0.0) -> float:
        asked_at = self.steady_s
        self.steady_s += there_s
        told = self.true_s + server_off_s
        self.steady_s += back_s
        return self.clock.heard(told, asked_at=asked_at, answered_at=self.steady_s)


@given(st.lists(STEPS, max_size=8))
def test_no_step_of_the_wall_clock_moves_a_clock_that_was_compared(steps: list[float]) -> None:
    machine = Machine()
    machine.ask_server()
    for step in steps:
        machine.wall_off_s += step
        machine.steady_s += 1.0
        assert machine.clock.now_unix() == pytest.approx(machine.true_s, abs=0.02)
        assert machine.clock.ahead_s == pytest.approx(machine.wall_off_s, abs=0.02)
        assert machine.clock.is_off == (abs(machine.clock.ahead_s) > 2.0)


def test_a_clock_that_nobody_compared_is_the_machines_own_and_knows_no_fault() -> None:
    machine = Machine()
    machine.wall_off_s = HOUR_S
    assert machine.clock.now_unix() == machine.true_s + HOUR_S
    assert (machine.clock.ahead_s, machine.clock.is_off, machine.clock.is_compared) == (0.0, False, False)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=20))
def test_slow_answers_make_a_clock_no_worse_than_the_best_of_them(trips: list[tuple[float, float]]) -> None:
    machine = Machine()
    for there_s, back_s in trips:
        machine.ask_server(there_s, back_s)
    best_s = min(there_s + back_s for there_s, back_s in trips)
    assert abs(machine.clock.now_unix() - machine.true_s) <= best_s + 1e-6


def test_a_server_whose_clock_is_set_is_followed_and_the_step_is_told() -> None:
    machine = Machine()
    assert machine.ask_server() == 0.0
    assert machine.ask_server() == pytest.approx(0.0, abs=1e-6)
    assert machine.ask_server(server_off_s=-HOUR_S) == pytest.approx(-HOUR_S, abs=0.1)
    assert machine.clock.now_unix() == pytest.approx(machine.true_s - HOUR_S, abs=0.1)


def told(clock: NodeClock, ahead_s: float, delays_s: Iterable[float]) -> list[bool]:
    return [clock.hear(START + n + ahead_s, START + n + late_s) for n, late_s in enumerate(delays_s)]


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S, 2.5])
def test_a_nodes_wrong_clock_is_news_once_and_once_when_it_is_right(ahead_s: float) -> None:
    clock = NodeClock()
    assert told(clock, ahead_s, [0.01] * 20).count(True) == 1
    assert clock.ahead_s == pytest.approx(ahead_s, abs=0.1)
    assert told(clock, 0.0, [0.01] * 20)[-10:] == [False] * 10
    assert clock.ahead_s == 0.0


def test_heartbeats_that_lay_in_a_queue_accuse_no_clock() -> None:
    clock = NodeClock()
    assert not any(told(clock, 0.0, [30.0, 29.0, 28.0, 0.5, 20.0, 19.0, 18.0, 1.5, 9.0]))
    assert clock.ahead_s == 0.0
    assert not any(clock.hear(0.0, START) for _ in range(9)), "a node that does not tell its clock is not judged"


KEEP_S = 30 * DAY_S


@given(st.lists(st.tuples(st.floats(1, DAY_S), STEPS), max_size=40))
def test_whatever_clocks_say_nothing_is_deleted_before_half_its_time_has_passed(
    looks: list[tuple[float, float]],
) -> None:
    line, passed_s, off_s = Line(START), 0.0, 0.0
    for pause_s, step in looks:
        passed_s, off_s = passed_s + pause_s, off_s + step
        now = START + passed_s + off_s
        line = line.moved(now, pause_s)
        assert line.oldest_kept(now, KEEP_S) <= START + 2 * passed_s - KEEP_S + 1e-3
        assert line.oldest_kept(START, KEEP_S) <= START - KEEP_S, "no newer record: time stands still"


def test_a_clock_that_is_right_again_deletes_again_what_is_due() -> None:
    line = Line(START).moved(START + 31 * DAY_S, 600)
    assert line.is_behind
    line = line.moved(START + 1200, 600)
    assert (line.at_unix_s, line.is_behind) == (START + 1200, False)


def test_a_recorder_that_stood_still_catches_up() -> None:
    line = Line(START)
    for n in range(1, 1 + int(2 * DAY_S / 600)):
        line = line.moved(START + 2 * DAY_S + 600 * n, 600)
    assert (line.lag_s, line.is_behind) == (0.0, False)


def test_a_clock_behind_deletes_less() -> None:
    assert Line(START).moved(START - DAY_S, 600).oldest_kept(START, KEEP_S) == START - DAY_S - KEEP_S
