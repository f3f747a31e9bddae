"""Alarms that stand in lines."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from sollol_bus.alarms import Alarms, Stoppable


class PlayedLoop:
    """A loop whose clock the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[..., object], tuple[Any, ...]]] = []
        self.errors: list[BaseException] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, act: Callable[..., object], *args: object) -> None:
        self.timers.append((when, act, args))

    def call_later(self, delay_s: float, act: Callable[..., object], *args: object) -> Stoppable:
        timer = self.now + delay_s, act, args
        self.timers.append(timer)
        return cast("Stoppable", SimpleNamespace(cancel=lambda: self.forget(timer)))

    def forget(self, timer: tuple[float, Callable[..., object], tuple[Any, ...]]) -> None:
        if timer in self.timers:
            self.timers.remove(timer)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context["exception"])

    def run_until(self, now: float) -> None:
        while self.timers and (first := min(self.timers, key=lambda timer: timer[0]))[0] <= now:
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1](*first[2])
        self.now = now

    @property
    def alarms(self) -> Alarms:
        return Alarms(cast("Any", self))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from([0.0, 0.05, 2.0, 10.0, 600.0])),
        st.tuples(st.just("stop"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.sampled_from([0.01, 0.05, 1.0, 2.5, 9.0])),
    ),
    max_size=30,
)


@given(steps=steps)
def test_each_rings_once_when_it_is_due_and_none_that_was_stopped(steps: list[tuple[str, float]]) -> None:
    loop = PlayedLoop()
    alarms, due = loop.alarms, {}
    rung: list[tuple[int, float]] = []
    stoppable: list[Stoppable | None] = []
    for what, value in steps:
        if what == "set":
            number = len(stoppable)
            due[number] = loop.now + value
            stoppable.append(alarms.after(value, lambda number=number: rung.append((number, loop.now))))
        elif what == "stop" and value < len(stoppable) and (one := stoppable[int(value)]) is not None:
            one.cancel()
            if int(value) not in dict(rung):
                due.pop(int(value), None)
        elif what == "wait":
            loop.run_until(loop.now + value)
    loop.run_until(loop.now + 1000.0)
    assert len(rung) == len(dict(rung))
    assert dict(rung) == due
    assert len(alarms) == 0


def test_there_is_one_timer_of_the_loop_for_many_alarms_and_stopped_ones_do_not_gather() -> None:
    loop = PlayedLoop()
    alarms = loop.alarms
    for _ in range(100):
        alarms.after(2.0, lambda: None).cancel()
    assert len(loop.timers) == 1
    assert len(alarms) == 1


def test_one_that_fails_keeps_none_behind_it_from_ringing() -> None:
    loop = PlayedLoop()
    rung: list[str] = []
    alarms = loop.alarms
    alarms.after(1.0, lambda: 1 // 0)
    alarms.after(1.0, rung.append, "second")
    loop.run_until(1.0)
    assert rung == ["second"]
    assert [type(error) for error in loop.errors] == [ZeroDivisionError]


def test_one_that_is_set_while_the_line_rings_rings_later() -> None:
    loop = PlayedLoop()
    rung: list[str] = []
    alarms = loop.alarms
    alarms.after(1.0, lambda: alarms.after(1.0, rung.append, "again"))
    loop.run_until(1.0)
    assert rung == []
    loop.run_until(2.0)
    assert rung == ["again"]


def test_one_that_another_stops_at_the_same_instant_does_not_ring() -> None:
    loop = PlayedLoop()
    rung: list[str] = []
    alarms = loop.alarms
    later: list[Stoppable] = []
    alarms.after(1.0, lambda: later.pop().cancel())
    later.append(alarms.after(1.0, rung.append, "stopped"))
    loop.run_until(1.0)
    assert rung == []
