"""What dispatchers store for nodes: the node's own outcomes, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from sollol_agents.lab.testing.keeping import Owner, kept_by
from sollol_agents.lab.testing.messages import outcome
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.control.claim import Claim
from sollol_bus.jetstream.api import api
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import stores, subjects
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.headers import MSG_ID
from sollol_schemas.inboxes import node_inbox_prefix
from sollol_schemas.stores import NodeClaim

MINE = outcome("r1-1")  # of n1


@pytest.fixture
async def node(nats_server: EmbeddedServer) -> AsyncIterator[Bus]:
    connected = await Bus.connect(BusConfig(url=nats_server.url, inbox_prefix=node_inbox_prefix("n1")))
    yield connected
    await connected.close()


async def stored(bus: Bus) -> int:
    info = msgspec.json.decode(await api(bus, f"STREAM.INFO.{stores.EVENTS_STREAM}"))
    count: int = info["state"]["messages"]
    return count


async def test_an_outcome_is_stored_once_and_the_node_hears_that_from_the_server(bus: Bus, node: Bus) -> None:
    await provision(bus)
    told: list[Msg] = []
    bus.subscribe(subjects.OUTCOME_EVENT.all, told.append)
    publisher = OutcomePublisher(node, to=subjects.NODE_OUTCOME)
    async with kept_by(bus):
        for _ in range(2):
            publisher.publish(MINE)
        assert await publisher.flush() == 0
    assert await stored(bus) == 1
    assert decode(told[0].data, Outcome) == MINE.as_event()
    assert told[0].subject == subjects.OUTCOME_EVENT.of("n1")


async def test_without_dispatchers_or_without_a_stream_outcomes_wait(bus: Bus, node: Bus) -> None:
    publisher = OutcomePublisher(node, to=subjects.NODE_OUTCOME)
    publisher.publish(MINE)
    async with kept_by(bus):
        publisher.publish(outcome("r2-1"))
        await node.flush()
        assert publisher.stored == 0
        await provision(bus)
        await eventually(lambda: not publisher.pending)
    assert await stored(bus) == 2


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(msgspec.structs.replace(MINE, decision=outcome("r1-1", node_id="n2").decision), id="another node"),
        pytest.param(outcome(status=OutcomeStatus.PRESUMED_LOST, by=ReportedBy.DISPATCHER), id="as a dispatcher"),
        pytest.param(outcome("r1.1-1"), id="an id that is no token"),
        pytest.param(b"not an outcome", id="garbage"),
    ],
)
async def test_an_outcome_that_is_not_the_nodes_own_is_dropped(bus: Bus, node: Bus, forged: Outcome | bytes) -> None:
    await provision(bus)
    body = forged if isinstance(forged, bytes) else encode(forged)
    async with kept_by(bus):
        node.publish(subjects.NODE_OUTCOME.of("n1"), body, reply=node.new_inbox())
        await node.request(subjects.NODE_OUTCOME.of("n1"), encode(MINE))
    assert await stored(bus) == 1


@pytest.mark.parametrize(
    "reply",
    [
        "$KV.SOLLOL_SETTINGS.api_keys",
        "$KV.SOLLOL_OFFICES.scorer",
        "sollol.v1.events.outcome.n2",
        "_INBOX_ctl.x",
        "_INBOX_node.n2.x",
        "_INBOX_node.n1",
        "_INBOX_node.n1.*",
        "",
    ],
)
async def test_the_acknowledgement_goes_to_the_node_alone(bus: Bus, node: Bus, reply: str) -> None:
    await provision(bus)
    async with kept_by(bus):
        node.publish(subjects.NODE_OUTCOME.of("n1"), encode(MINE), reply=reply)
        await node.request(subjects.NODE_OUTCOME.of("n1"), encode(MINE))
    assert await stored(bus) == 1
    for bucket in (stores.SETTINGS_BUCKET, stores.OFFICES_BUCKET):
        info = msgspec.json.decode(await api(bus, f"STREAM.INFO.KV_{bucket}"))
        assert info["state"]["messages"] == 0


async def test_a_node_suppresses_nobody_elses_outcomes_and_says_nothing_to_jetstream(bus: Bus, node: Bus) -> None:
    await provision(bus)
    lost = outcome("r1-1", status=OutcomeStatus.PRESUMED_LOST, by=ReportedBy.DISPATCHER)
    async with kept_by(bus):
        for word in ("r1-1.presumed", "r1-1"):
            headers = {MSG_ID: word, "Nats-Rollup": "all", "Nats-Expected-Last-Sequence": "7"}
            await node.request(subjects.NODE_OUTCOME.of("n1"), encode(MINE), headers=headers)
        publisher = OutcomePublisher(bus)
        publisher.publish(lost)
        assert await publisher.flush() == 0
    assert await stored(bus) == 3


async def test_claims_are_tasks_of_the_dispatcher_so_that_one_that_breaks_stops_it(bus: Bus, node: Bus) -> None:
    await provision(bus)
    owner = Owner()
    async with kept_by(bus, owner):
        assert await Claim(node, NodeClaim(node_id="n1", instance="i1")).make(is_starting=True)
    assert owner.names == ["claim of n1"]
