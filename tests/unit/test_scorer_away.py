"""Requests between two dispatchers: whoever will be asked for again keeps its place, for a moment."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, refused
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.grant import JOBS_CLOCK, Birth
from sollol_schemas.routing import Routing, RoutingMode


def fleet_of(slots: int = 1) -> Fleet:
    """One node, whose only slot is taken if it has no more."""
    fleet = Fleet()
    fleet.node(slots=slots)
    if slots == 1:
        fleet.ask("first")
        fleet.load("gpu1", "first-1")
    return fleet


def ask_job(fleet: Fleet, number: int, take: str = "a") -> list[str]:
    """A dispatcher asks for a job, under an id of its own; returns what starts."""
    effects = fleet.ask(
        f"j{number}{take}",
        context=TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=100, job_id=f"j{number}"),
        routing=Routing(routing_mode=RoutingMode.ASYNC),
        birth=Birth(at_s=1.7e9 + number, clock=JOBS_CLOCK, number=number),
        waited_s=50.0 - number,
        deadline_s=1e6,
    )
    return list(granted(effects))


def end_first(fleet: Fleet) -> list[str]:
    """The slot is free; returns what starts."""
    return list(granted(fleet.end("first-1", "gpu1")))


def test_a_job_that_is_given_back_keeps_its_place_until_another_dispatcher_asks_for_it() -> None:
    fleet = fleet_of()
    for number in (1, 2, 3):
        ask_job(fleet, number)
    fleet.core.release("j1a", fleet.now, number=1, comes_again=True)
    fleet.core.forget_dispatcher("d1", fleet.now)
    assert end_first(fleet) == [], "the slot stays free for it"
    assert ask_job(fleet, 3, "b") == []
    assert ask_job(fleet, 1, "b") == ["j1b"]
    assert "j1a" not in fleet.core.waiting


def test_a_request_that_is_handed_on_keeps_its_place_under_its_id() -> None:
    fleet = fleet_of()
    fleet.ask("a")
    fleet.now += 1.0
    fleet.ask("b")
    fleet.core.release("a", fleet.now, number=1, comes_again=True)
    assert end_first(fleet) == []
    assert list(granted(fleet.ask("a", number=2))) == ["a"]


def test_what_is_wanted_no_more_keeps_no_place() -> None:
    fleet = fleet_of()
    for number in (1, 2):
        ask_job(fleet, number)
    fleet.core.release("j1a", fleet.now, number=1)
    assert end_first(fleet) == ["j2a"]


def test_a_grant_of_which_the_dispatcher_did_not_hear_in_time_is_a_place_again() -> None:
    fleet = fleet_of(slots=2)
    assert [ask_job(fleet, number) for number in (1, 2, 3)] == [["j1a"], ["j2a"], []]
    fleet.load("gpu1", "j2a-1")
    assert granted(fleet.core.release("j1a", fleet.now, number=1, comes_again=True)) == {}
    assert ask_job(fleet, 1, "b") == ["j1b"]


def test_a_place_costs_a_slot_two_seconds_at_most_while_others_wait() -> None:
    fleet = fleet_of()
    for number in (1, 2):
        ask_job(fleet, number)
    fleet.core.release("j1a", fleet.now, number=1, comes_again=True)
    assert end_first(fleet) == []
    assert granted(fleet.tick(1.9)) == {}
    assert list(granted(fleet.tick(0.2))) == ["j2a"]


def test_a_slot_that_nobody_else_wants_costs_nothing_so_a_place_is_kept_for_whoever_restarts() -> None:
    fleet = fleet_of()
    ask_job(fleet, 1)
    fleet.core.release("j1a", fleet.now, number=1, comes_again=True)
    end_first(fleet)
    for _ in range(20):
        fleet.tick(1.0)
        fleet.node()
    assert ask_job(fleet, 2) == []
    assert ask_job(fleet, 1, "b") == ["j1b"]


def test_nobody_waits_for_ever_for_a_dispatcher_that_does_not_come_back() -> None:
    fleet = fleet_of()
    ask_job(fleet, 1)
    fleet.core.release("j1a", fleet.now, number=1, comes_again=True)
    end_first(fleet)
    effects = [effect for _ in range(31) for effect in (*fleet.tick(1.0), *fleet.node())]
    assert not refused(effects)
    assert len(fleet.core.waiting) == 0


class Comings:
    """Twelve jobs for one slot, and dispatchers that come and go: each takes a job under another id."""

    def __init__(self) -> None:
        self.fleet = fleet_of()
        self.begun: list[int] = []
        self.running = "first-1"
        self.away: set[int] = set()
        self._takes = dict.fromkeys(range(1, 13), 0)
        for number in self._takes:
            ask_job(self.fleet, number, "t0")

    def leave(self, number: int) -> None:
        """Who asked for it is gone."""
        if number not in self.away and number not in self.begun:
            self.away.add(number)
            request_id = f"j{number}t{self._takes[number]}"
            self._note(list(granted(self.fleet.core.release(request_id, self.fleet.now, comes_again=True))))

    def ask(self, number: int) -> None:
        """Another one asks for it."""
        if number in self.away:
            self.away.remove(number)
            self._takes[number] += 1
            self._note(ask_job(self.fleet, number, f"t{self._takes[number]}"))

    def end(self) -> None:
        """What runs has ended."""
        ended, self.running = self.running, ""
        if ended:
            self._note(list(granted(self.fleet.end(ended, "gpu1"))))

    def _note(self, started: list[str]) -> None:
        for request_id in started:
            self.running = f"{request_id}-1"
            self.fleet.load("gpu1", self.running)
            self.begun.append(int(request_id[1:].partition("t")[0]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from([Comings.leave, Comings.ask, None])), max_size=60))
def test_jobs_start_in_order_however_dispatchers_come_and_go(
    steps: list[tuple[int, Callable[[Comings, int], None] | None]],
) -> None:
    jobs = Comings()
    for number, step in steps:
        jobs.fleet.now += 0.01
        if step is None:
            jobs.end()
        else:
            step(jobs, number)
    for number in sorted(jobs.away, reverse=True):
        jobs.ask(number)
    while jobs.running:
        jobs.end()
    assert jobs.begun == list(range(1, 13))
