"""Which nodes may sleep, which are woken, and what requests do meanwhile."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL, gpu
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued, reasons, refused
from sollol_agents.scorer.core import Effect
from sollol_agents.scorer.knowledge.sleeper import WAKE_PRIOR_S, Phase, Sleeper
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import RejectionReason
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.grant import Granted, GrantRefused
from sollol_schemas.routing import Routing, RoutingMode
from sollol_schemas.scaling import SleepEvent, SleepNews
from sollol_schemas.telemetry import Sleeper as Told

SLOW = {"gpus": (), "cpu_count": 4, "loaded": ()}
ASLEEP = Told(min_awake_s=600.0)


def fleet_with_sleeper(**first: Any) -> Fleet:
    """One node that stays awake, and `desk`, which has gone to sleep."""
    fleet = Fleet()
    fleet.node("hub", **first)
    fleet.node("desk", sleeper=ASLEEP)
    put_to_sleep(fleet, "desk", is_wanted=True)
    return fleet


def of(output: int, prompt: int = 100) -> TaskContext:
    """What a request brings, that is to be answered in so many tokens."""
    return TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=prompt, max_output_tokens=output)


def put_to_sleep(fleet: Fleet, node_id: str, *, is_wanted: bool = False) -> str:
    """A node asks, and goes when it may; why it may not."""
    answer = fleet.core.sleepers.asked_to_sleep(node_id, f"{node_id}-a", fleet.now, is_wanted=is_wanted)
    if answer.may_sleep:
        fleet.load(node_id, is_asleep=True)
        del fleet.told[node_id]
    return answer.reason


def news(effects: list[Effect]) -> list[SleepNews]:
    return [e.news for e in effects if isinstance(e, SleepEvent)]


def look(fleet: Fleet) -> list[Effect]:
    return fleet.note(list(fleet.core.sleepers.look(fleet.now)))


def wake_up(fleet: Fleet, node_id: str) -> list[Effect]:
    return fleet.node(node_id, sleeper=ASLEEP, loaded=())


def test_a_node_that_sleeps_is_remembered_and_gets_no_work_while_another_will_do() -> None:
    fleet = fleet_with_sleeper()
    assert fleet.place("r1") == "hub"
    fleet.tick(3600.0)
    assert fleet.core.fleet.nodes["desk"].is_asleep
    assert news(look(fleet)) == []


def test_a_request_that_only_a_sleeping_node_can_serve_wakes_it_and_waits() -> None:
    fleet = fleet_with_sleeper(installed=(), loaded=())
    assert queued(fleet.ask("r1")) == ["r1"]
    assert news(look(fleet)) == [SleepNews.WAKING]
    fleet.beat_all(40.0)
    assert "r1" in granted(wake_up(fleet, "desk"))
    assert fleet.core.fleet.nodes["desk"].sleeper.wake_s < WAKE_PRIOR_S  # type: ignore[union-attr]


def test_a_request_is_not_worth_a_wake_where_a_slow_node_does_it_sooner_but_a_long_one_is() -> None:
    fleet = fleet_with_sleeper(**SLOW)
    assert fleet.place("short", context=of(20)) == "hub"
    fleet.end("short-1", "hub", OutcomeStatus.SUCCESS)
    assert news(look(fleet)) == []
    assert queued(fleet.ask("long", context=of(2000, 20_000))) == ["long"]
    assert news(look(fleet)) == [SleepNews.WAKING]


@pytest.mark.parametrize(("waiting", "woken"), [(1, False), (80, True)])
def test_a_line_wakes_a_node_when_that_spares_it_more_than_the_wake(waiting: int, *, woken: bool) -> None:
    fleet = fleet_with_sleeper(slots=1)
    for number in range(1 + waiting):
        fleet.ask(f"r{number}", context=of(1500), deadline_s=86_400.0)
    assert (news(look(fleet)) == [SleepNews.WAKING]) is woken


def test_a_request_behind_a_long_one_on_a_slow_node_wakes_another() -> None:
    fleet = Fleet()
    fleet.node("hub", **SLOW, slots=1)
    assert fleet.place("long", context=of(2000, 40_000), deadline_s=86_400.0) == "hub"
    fleet.node("desk", sleeper=ASLEEP)
    put_to_sleep(fleet, "desk", is_wanted=True)
    fleet.ask("short", context=of(20), deadline_s=86_400.0)
    (event,) = [e for e in look(fleet) if isinstance(e, SleepEvent)]
    assert event.news is SleepNews.WAKING
    assert "sooner there" in event.reason


def test_the_cost_of_a_sleeping_candidate_says_what_waking_takes() -> None:
    fleet = fleet_with_sleeper(**SLOW)
    fleet.place("r1", context=of(20))
    costs = {c.node_id: c for c in fleet.effects[-1].candidates}  # type: ignore[union-attr]
    assert costs["desk"].wake_s == pytest.approx(1.5 * WAKE_PRIOR_S)
    assert costs["hub"].wake_s == 0.0


def test_requests_go_elsewhere_when_a_node_does_not_come_and_it_is_left_alone() -> None:
    fleet = fleet_with_sleeper(**SLOW)
    fleet.ask("long", context=of(2000, 20_000), deadline_s=3600.0)
    look(fleet)
    fleet.beat_all(1.25 * WAKE_PRIOR_S + 6.0)
    assert fleet.where("long") == "hub"
    failed: list[Effect] = []
    for _ in range(200):
        fleet.node("hub", **SLOW)
        failed += fleet.tick(1.0)
    assert news(failed) == [SleepNews.FAILED]
    assert look(fleet) == []
    fleet.place("next", context=of(20))
    assert reasons(fleet.effects)["desk"] is RejectionReason.ASLEEP


def test_a_node_that_never_comes_costs_its_only_request_its_patience_and_is_told() -> None:
    fleet = fleet_with_sleeper(installed=(), loaded=())
    fleet.ask("r1", deadline_s=3600.0)
    look(fleet)
    fleet.beat_all(3 * WAKE_PRIOR_S + 2.0)
    (error,) = refused(fleet.effects).values()
    assert "asleep" in str(error.details["nodes"]["desk"])


def test_a_node_does_not_sleep_with_work_promised_or_wanted() -> None:
    fleet = Fleet()
    fleet.node("hub", slots=1)
    fleet.node("desk", sleeper=ASLEEP, slots=1)
    first, second = fleet.place("r1"), fleet.place("r2")
    assert {first, second} == {"hub", "desk"}
    assert "attempts run" in put_to_sleep(fleet, "desk", is_wanted=True)


def test_between_leave_and_sleep_nothing_is_granted_and_a_node_that_stays_is_back() -> None:
    fleet = Fleet()
    fleet.node("desk", sleeper=ASLEEP)
    assert fleet.core.sleepers.asked_to_sleep("desk", "desk-a", fleet.now, is_wanted=True).may_sleep
    fleet.beat_all(2.0)  # what it says before it has gone
    fleet.ask("r1", routing=Routing(routing_mode=RoutingMode.ASYNC))
    assert "r1" not in granted(fleet.effects)
    fleet.beat_all(12.0)
    assert fleet.where("r1") == "desk"


@pytest.mark.parametrize(
    ("others", "awake_s", "why"),
    [
        pytest.param(0, 700.0, "nodes stay awake", id="the last one"),
        pytest.param(1, 100.0, "awake since less than 600", id="just awake"),
    ],
)
def test_what_keeps_an_idle_node_awake(others: int, awake_s: float, why: str) -> None:
    fleet = Fleet()
    for number in range(others):
        fleet.node(f"hub{number}")
    fleet.node("desk", sleeper=ASLEEP)
    fleet.beat_all(awake_s)
    assert why in put_to_sleep(fleet, "desk")


def test_a_model_in_steady_demand_keeps_its_only_holder_awake() -> None:
    fleet = Fleet()
    fleet.node("hub", installed=(), loaded=())
    fleet.node("desk", sleeper=ASLEEP)
    fleet.beat_all(700.0)
    for number in range(4):
        fleet.place(f"r{number}")
        fleet.end(f"r{number}-1", "desk", OutcomeStatus.SUCCESS)
    assert f"no other node that is awake has {MODEL}" in put_to_sleep(fleet, "desk")


def test_a_node_that_looked_asleep_to_a_former_scorer_is_known_to_the_next() -> None:
    before = fleet_with_sleeper()
    told = before.core.fleet.nodes["desk"].telemetry
    fleet = Fleet()
    fleet.node("hub", installed=(), loaded=())
    fleet.core.fleet.know_sleeper(told, 40.0, fleet.now, 7200.0)
    fleet.tick(1.0)
    assert queued(fleet.ask("r1")) == ["r1"]
    assert news(look(fleet)) == [SleepNews.WAKING]
    assert "r1" in granted(wake_up(fleet, "desk"))


class Night:
    """Nodes that sleep and come back, or do not, beside one that stays; requests of random length."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.fleet = Fleet()
        self.sleepy = ("b", "c", "d")
        self.due: dict[str, float] = {}
        self.running: dict[str, tuple[str, float]] = {}
        self.woken: list[tuple[str, float]] = []
        self.slept = 0
        self.number = 0
        self.fleet.node("a", slots=2)
        for node_id in self.sleepy:
            self.fleet.node(node_id, slots=2, sleeper=ASLEEP)

    def step(self, rate: float) -> None:
        fleet = self.fleet
        fleet.now += 5.0
        for attempt_id, (node_id, until) in list(self.running.items()):
            if until <= fleet.now:
                del self.running[attempt_id]
                self.take(fleet.end(attempt_id, node_id, OutcomeStatus.SUCCESS))
        if self.rng.random() < rate:
            for _ in range(self.rng.randint(1, 4)):
                self.number += 1
                self.take(fleet.ask(f"r{self.number}", context=of(self.rng.choice((20, 400, 4000)))))
        for node_id, at in list(self.due.items()):
            if at <= fleet.now:
                del self.due[node_id]
                fleet.told[node_id] = {"slots": 2, "sleeper": ASLEEP, "gpus": (gpu(),)}
        for node_id in list(fleet.told):
            mine = tuple(a for a, (where, _) in self.running.items() if where == node_id)
            self.take(fleet.node(node_id))
            self.take(fleet.load(node_id, *mine))
        self.take(fleet.tick())
        self.take(look(fleet))
        for node_id in self.sleepy:
            if node_id in fleet.told and self.rng.random() < 0.2:
                before = dict(self.running)
                if not put_to_sleep(fleet, node_id):
                    self.slept += 1
                    assert node_id not in {where for where, _ in before.values()}, "asleep with work"

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Granted):
                node_id = effect.decision.node_id
                assert node_id in self.fleet.told, "a grant to a node that sleeps"
                seconds = self.rng.expovariate(1 / 20.0)
                self.running[effect.decision.attempt_id] = (node_id, self.fleet.now + seconds)
            elif isinstance(effect, SleepEvent) and effect.news is SleepNews.WAKING:
                self.woken.append((effect.node_id, self.fleet.now))
                if self.rng.random() < 0.8:
                    self.due[effect.node_id] = self.fleet.now + self.rng.uniform(20.0, 150.0)
            assert not isinstance(effect, GrantRefused), "a request failed"


@pytest.mark.parametrize(("seed", "rate"), [(1, 0.02), (2, 0.1), (4, 0.4)])
def test_nobody_sleeps_with_work_nothing_fails_and_wakes_are_few(seed: int, rate: float) -> None:
    night = Night(seed)
    for turn in range(360):  # half an hour, in which demand comes and goes
        night.step(rate if turn // 90 % 2 else rate * 0.05)
    assert night.slept or rate > 0.2, "somebody sleeps where there is little to do"
    for node_id in night.sleepy:
        wakes = [at for node, at in night.woken if node == node_id]
        assert all(later - sooner >= 60.0 for sooner, later in pairwise(wakes))
        assert len(wakes) <= 1800.0 / 600.0 + 2, "so many wakes are an oscillation"


@given(st.lists(st.tuples(st.sampled_from(("leave", "sleep", "wake", "back", "look")), st.floats(0.0, 500.0))))
def test_a_sleeper_is_always_in_a_phase_that_ends(steps: list[tuple[str, float]]) -> None:
    sleeper, now = Sleeper(0.0), 0.0
    for what, passed_s in steps:
        now += passed_s
        match what:
            case "leave" if sleeper.phase is Phase.AWAKE:
                sleeper.leave(now)
            case "sleep" if sleeper.phase is Phase.LEAVING:
                sleeper.fall_asleep(now, "")
            case "wake" if sleeper.phase is Phase.ASLEEP and sleeper.is_candidate(now):
                sleeper.wake(now, "")
            case "back" if sleeper.has_stayed(now):
                sleeper.come_back(now)
            case "look":
                sleeper.has_failed(now)
                sleeper.look(now)
        assert 1.0 <= sleeper.wake_s <= 3600.0
        assert sleeper.ready_at(now) > now
        assert sleeper.retry_in_s(now) <= 3600.0
        assert sleeper.phase is not Phase.WAKING or now - sleeper.since >= 0.0
