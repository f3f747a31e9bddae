"""A node that ends in order says goodbye: it counts no more at once."""

from __future__ import annotations

import random
from typing import Any

from sollol_agents.lab.testing.messages import load_update, telemetry
from sollol_agents.recorder.statistics import fleet_stats
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.office.views import nodes_reply
from sollol_schemas.events import NodeEvent
from sollol_schemas.telemetry import InFlight, LoadUpdate, NodeState, Telemetry


def heartbeat(seq: int, **changes: Any) -> Telemetry:
    return telemetry("desk", seq=seq, **changes)


def goodbye(seq: int, **changes: Any) -> LoadUpdate:
    return load_update("desk", seq=seq, **({"is_draining": True, "has_left": True} | changes))


def state_of(core: SchedulerCore) -> NodeState:
    return core.fleet.nodes["desk"].state


def fleet() -> SchedulerCore:
    core = SchedulerCore(ScorerConfig(warm_up_s=0.0), random.Random(7), 100.0)
    core.on_telemetry(heartbeat(1), 100.0)
    assert state_of(core) is NodeState.UP
    return core


def test_a_node_that_said_goodbye_is_down_at_once_and_counts_no_more() -> None:
    core = fleet()
    effects = core.on_load(goodbye(2), 101.0)
    told = [(e.state, e.reason) for e in effects if isinstance(e, NodeEvent)]
    assert (NodeState.DOWN, "left") in told
    assert [v.has_left for v in nodes_reply(core, 101.0, "s").nodes] == [True]
    assert fleet_stats(nodes_reply(core, 101.0, "s")).nodes_total == 0


def test_a_heartbeat_that_comes_after_the_goodbye_brings_nobody_back() -> None:
    core = fleet()
    core.on_load(goodbye(3), 101.0)
    core.on_telemetry(heartbeat(2), 101.0)
    assert state_of(core) is NodeState.DOWN
    core.on_telemetry(heartbeat(1, instance="desk-b"), 102.0)
    assert state_of(core) is NodeState.UP
    assert not nodes_reply(core, 102.0, "s").nodes[0].has_left


def test_a_node_is_down_only_when_none_of_its_attempts_is_counted() -> None:
    core = fleet()
    core.on_load(goodbye(2, in_flight=(InFlight(attempt_id="r-1", model="m"),)), 101.0)
    assert state_of(core) is NodeState.DRAINING
    core.fleet.release("r-1", 101.5, is_final=True)
    core.tick(102.0)
    assert state_of(core) is NodeState.DOWN


def test_draining_alone_is_no_goodbye() -> None:
    core = fleet()
    core.on_load(goodbye(2, has_left=False), 101.0)
    assert state_of(core) is NodeState.DRAINING
