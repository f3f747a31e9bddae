"""A scorer looks often at what time may change, seldom where it changes nothing, and misses nothing by that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sollol_agents.lab.testing.messages import MODEL
from sollol_agents.lab.testing.scorer_stage import Fleet
from sollol_agents.scorer.knowledge.sleeper import Sleeper
from sollol_agents.scorer.office.ticking import REST_S, Ticking
from sollol_schemas.events import NodeEvent
from sollol_schemas.telemetry import NodeState

TICK_S = 0.25


def ticking_of(fleet: Fleet) -> Ticking:
    return Ticking(fleet.core, TICK_S, lambda: fleet.now)


def idle() -> Fleet:
    fleet = Fleet()
    for node_id in ("a", "b"):
        fleet.node(node_id, slots=1)
    return fleet


def runs(fleet: Fleet) -> None:
    assert fleet.place("r1")


def waits(fleet: Fleet) -> None:
    for number in range(3):
        fleet.ask(f"r{number}")
    assert len(fleet.core.waiting) == 1


def is_open(fleet: Fleet) -> None:
    fleet.core.fleet.nodes["a"].breakers.of(MODEL).reopen(fleet.now)


def wakes(fleet: Fleet) -> None:
    node = fleet.core.fleet.nodes["a"]
    node.sleeper = Sleeper(fleet.now)
    node.sleeper.wake(fleet.now, "it is needed")


def is_suspect(fleet: Fleet) -> None:
    fleet.now += 3.5
    fleet.tick()
    assert {node.state for node in fleet.core.fleet.nodes.values()} == {NodeState.SUSPECT}


@pytest.mark.parametrize("change", [runs, waits, is_open, wakes, is_suspect])
def test_time_may_change_what_waits_what_runs_and_what_is_in_doubt(change: Callable[[Fleet], None]) -> None:
    fleet = idle()
    assert ticking_of(fleet).rest_s(fleet.now) == REST_S
    change(fleet)
    assert ticking_of(fleet).rest_s(fleet.now) == TICK_S


def test_an_idle_fleet_is_looked_at_when_the_first_of_its_nodes_may_become_suspect() -> None:
    fleet = idle()
    fleet.now += 2.4
    fleet.node("b")
    assert ticking_of(fleet).rest_s(fleet.now) == pytest.approx(0.6)


def test_a_node_that_falls_silent_is_suspect_and_down_as_soon_as_with_a_look_four_times_a_second() -> None:
    for phase in range(10):
        fleet = idle()
        ticking, began, seen = ticking_of(fleet), fleet.now, dict[NodeState, float]()
        fleet.now += phase / 10
        while fleet.now < began + 7:
            fleet.now += ticking.rest_s(fleet.now)
            for effect in fleet.core.tick(fleet.now):
                if isinstance(effect, NodeEvent):
                    seen.setdefault(effect.state, fleet.now - began)
        assert 3.0 < seen[NodeState.SUSPECT] <= 3.0 + TICK_S
        assert 5.0 < seen[NodeState.DOWN] <= 5.0 + TICK_S


async def test_a_request_that_comes_ends_a_long_pause_and_a_heartbeat_does_not() -> None:
    fleet = idle()
    ticking = ticking_of(fleet)
    pausing = asyncio.get_running_loop().create_task(ticking.pause())
    await asyncio.sleep(0)
    ticking.stir()
    await asyncio.sleep(0.02)
    assert not pausing.done()
    runs(fleet)
    ticking.stir()
    assert await pausing == REST_S
    assert await ticking.pause() == TICK_S
