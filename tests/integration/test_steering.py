"""Operators steer scorers on a real bus: strategy, settings, circuit breakers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sollol_agents.lab.testing.messages import model, outcome, telemetry
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import BadRequest, SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import BreakerEvent, BreakerState
from sollol_schemas.steering import StrategyEvent

Start = Callable[..., Awaitable[Scorer]]


@pytest.fixture
async def start(nats_server: EmbeddedServer) -> AsyncIterator[Start]:
    running: list[Scorer] = []

    async def make(**settings: object) -> Scorer:
        config = ScorerConfig(**({"warm_up_s": 0.0, "seed": 1} | settings))  # type: ignore[arg-type]
        scorer = Scorer(config, BusConfig(url=nats_server.url, name="scorer"), tick_s=0.02)
        await scorer.start()
        running.append(scorer)
        return scorer

    yield make
    for scorer in running:
        await scorer.close()


@pytest.fixture
async def leader(start: Start) -> Scorer:
    scorer = await start()
    await eventually(lambda: scorer.is_leader)
    return scorer


@pytest.fixture
async def client(nats_server: EmbeddedServer) -> AsyncIterator[Client]:
    async with Client(BusConfig(url=nats_server.url, name="operator")) as connected:
        yield connected


async def test_the_strategies_and_the_settings_that_may_change_are_listed(leader: Scorer, client: Client) -> None:
    reply = await client.strategy()
    assert reply.strategy == "plan"
    assert {"plan", "seven_factor", "round_robin"} <= set(reply.available)
    assert reply.settings["hold"] == leader.core.config.hold


async def test_a_strategy_chosen_at_run_time_decides_at_once_and_is_announced(
    leader: Scorer, client: Client, bus: Bus
) -> None:
    events: list[StrategyEvent] = []
    bus.subscribe(subjects.STRATEGY_EVENT, lambda m: events.append(decode(m.data, StrategyEvent)))
    await bus.flush()
    reply = await client.set_strategy("round_robin", hold=0.5)
    assert (reply.strategy, reply.settings["hold"]) == ("round_robin", 0.5)
    assert (leader.core.strategy, leader.core.config.hold) == ("round_robin", 0.5)
    await eventually(lambda: bool(events))
    assert (events[0].strategy, events[0].previous, events[0].settings["hold"]) == ("round_robin", "plan", 0.5)


async def test_standbys_and_successors_decide_as_was_chosen(leader: Scorer, client: Client, start: Start) -> None:
    standby = await start()
    await client.set_strategy("least_loaded", theta=0.0)
    await eventually(lambda: standby.core.strategy == "least_loaded")
    assert standby.core.config.theta == 0.0
    newcomer = await start()
    assert newcomer.core.strategy == "least_loaded"
    assert newcomer.core.config.theta == 0.0


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("fastest", {}, "known are plan"),
        (None, {"hold": 1.5}, "hold"),
        (None, {"queue_limit": 5.0}, "these can: hold"),
    ],
    ids=["unknown strategy", "out of range", "fixed setting"],
)
async def test_a_choice_that_cannot_be_followed_is_refused_and_changes_nothing(
    leader: Scorer, client: Client, name: str | None, settings: dict[str, float], said: str
) -> None:
    with pytest.raises(BadRequest, match=said):
        await client.set_strategy(name, **settings)
    assert (leader.core.strategy, leader.core.config) == ("plan", ScorerConfig(warm_up_s=0.0, seed=1))


async def fail_until_open(bus: Bus, leader: Scorer) -> None:
    bus.publish(subjects.TELEMETRY.of("attic"), encode(telemetry("attic", installed=(model(),))))
    await eventually(lambda: "attic" in leader.core.fleet.nodes)
    for number in range(5):
        failed = outcome(f"r{number}-1", "attic", code=ErrorCode.ENGINE_FAILED, model="llama3:8b")
        bus.publish(subjects.OUTCOME_EVENT.of("attic"), encode(failed))
    breakers = leader.core.fleet.nodes["attic"].breakers
    await eventually(lambda: breakers.of("llama3:8b").state is BreakerState.OPEN)


async def test_open_breakers_are_listed_and_closed_by_force(leader: Scorer, client: Client, bus: Bus) -> None:
    assert (await client.breakers()).breakers == ()
    await fail_until_open(bus, leader)
    events: list[BreakerEvent] = []
    bus.subscribe(
        subjects.BREAKER_EVENT.of("attic", BreakerState.CLOSED), lambda m: events.append(decode(m.data, BreakerEvent))
    )
    await bus.flush()
    listed = {b.model: b for b in (await client.breakers()).breakers}
    assert set(listed) == {"", "llama3:8b"}
    assert listed["llama3:8b"].state is BreakerState.OPEN
    assert listed["llama3:8b"].failures == 5
    assert 0 < listed["llama3:8b"].opens_for_s <= 30
    assert (await client.reset_breakers("attic", "Llama3:8B")).breakers == ()
    await eventually(lambda: {e.model for e in events} == {"", "llama3:8b"})


async def test_closing_the_breakers_of_an_unknown_node_names_the_known_ones(
    leader: Scorer, client: Client, bus: Bus
) -> None:
    await fail_until_open(bus, leader)
    with pytest.raises(SollolError, match="attic") as caught:
        await client.reset_breakers("cellar")
    assert caught.value.body.code is ErrorCode.UNKNOWN_NODE
