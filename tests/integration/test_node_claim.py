"""One process per node id, on a real bus with its key-value store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sollol_agents.dispatcher.keeping import Keeping
from sollol_agents.lab.testing.keeping import kept_by
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.control.claim import Claim
from sollol_bus.errors import ConfigError
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import stores, subjects
from sollol_schemas.control import ClaimRequest, ControlReply
from sollol_schemas.inboxes import node_inbox_prefix
from sollol_schemas.stores import NodeClaim
from sollol_schemas.telemetry import Telemetry

NODE = "twin"
CONFIG = NodeConfig(node_id=NODE, engine="ollama", url="http://127.0.0.1:1", heartbeat_s=0.1)


@pytest.fixture
async def store(bus: Bus) -> Bucket:
    await provision(bus)
    return Bucket(bus, stores.NODES_BUCKET)


@pytest.fixture
async def keeping(bus: Bus) -> AsyncIterator[Keeping]:
    """What a dispatcher keeps for nodes."""
    async with kept_by(bus) as part:
        yield part


@pytest.fixture
async def node_bus(nats_server: EmbeddedServer, keeping: Keeping) -> AsyncIterator[Bus]:
    del keeping
    connected = await Bus.connect(BusConfig(url=nats_server.url, inbox_prefix=node_inbox_prefix(NODE)))
    yield connected
    await connected.close()


def owner(instance: str) -> NodeClaim:
    return NodeClaim(node_id=NODE, instance=instance)


def answering(bus: Bus, instance: str) -> None:
    """Another process under the same id."""
    pong = encode(ControlReply(node_id=NODE, instance=instance))
    bus.subscribe(subjects.NODE_CONTROL.of(NODE), lambda msg: bus.publish(msg.reply, pong))


async def test_an_id_is_free_until_somebody_answers_under_it(bus: Bus, node_bus: Bus) -> None:
    assert not await Claim(node_bus, owner("a")).make(is_starting=True), "nothing is kept without a store"
    answering(bus, "other")
    with pytest.raises(ConfigError, match="other"):
        await Claim(node_bus, owner("a")).make(is_starting=True)


async def test_a_claim_is_made_once_and_kept(node_bus: Bus, store: Bucket) -> None:
    claim = Claim(node_bus, owner("a"))
    assert await claim.make()
    revision = claim.revision
    assert revision > 0
    assert await claim.make()
    assert claim.revision == revision
    assert decode((await store.get(f"node.{NODE}")).value or b"", NodeClaim) == owner("a")


async def test_the_claim_of_a_dead_process_is_taken_over_with_a_higher_revision(node_bus: Bus, store: Bucket) -> None:
    del store
    dead, living = Claim(node_bus, owner("dead")), Claim(node_bus, owner("living"))
    assert await dead.make()
    assert await living.make()
    assert living.revision > dead.revision


async def test_the_claim_of_a_living_process_is_respected(bus: Bus, node_bus: Bus, store: Bucket) -> None:
    del store
    assert await Claim(node_bus, owner("first")).make()
    answering(bus, "first")
    with pytest.raises(ConfigError, match="taken"):
        await Claim(node_bus, owner("second")).make()


async def test_a_claim_that_the_store_forgot_is_made_again(node_bus: Bus, store: Bucket) -> None:
    claim = Claim(node_bus, owner("a"))
    assert await claim.make()
    entry = await store.get(f"node.{NODE}")
    assert await store.delete(f"node.{NODE}", entry.revision)
    assert await claim.make()
    assert claim.revision > entry.revision


async def test_without_a_store_the_node_starts_and_claims_later(
    nats_server: EmbeddedServer, bus: Bus, keeping: Keeping
) -> None:
    del keeping
    told: list[Telemetry] = []
    bus.subscribe(subjects.TELEMETRY.all, lambda msg: told.append(decode(msg.data, Telemetry)))
    async with NodeMonitor(CONFIG, BusConfig(url=nats_server.url)):
        await eventually(lambda: bool(told))
        assert told[0].revision == 0
        await provision(bus)
        await eventually(lambda: told[-1].revision > 0)


async def test_without_dispatchers_the_node_starts_and_claims_later(
    nats_server: EmbeddedServer, bus: Bus, store: Bucket
) -> None:
    async with NodeMonitor(CONFIG, BusConfig(url=nats_server.url)):
        assert (await store.get(f"node.{NODE}")).value is None
        async with kept_by(bus):

            async def is_claimed() -> bool:
                return (await store.get(f"node.{NODE}")).value is not None

            await eventually(is_claimed)


async def test_nobody_claims_the_id_of_another(bus: Bus, node_bus: Bus, store: Bucket) -> None:
    told: list[bytes] = []
    bus.subscribe("_INBOX_ctl.x", lambda msg: told.append(msg.data))
    others = encode(ClaimRequest(claim=NodeClaim(node_id="another", instance="a")))
    own = encode(ClaimRequest(claim=owner("a")))
    subject = subjects.NODE_CLAIM.of(NODE)
    node_bus.publish(subject, others, reply=node_bus.new_inbox())
    node_bus.publish(subject, own, reply="_INBOX_ctl.x")
    node_bus.publish(subject, own, reply="$KV.SOLLOL_NODES.node.another")
    assert await Claim(node_bus, owner("last")).make()  # behind them all on one connection
    assert decode((await store.get(f"node.{NODE}")).value or b"", NodeClaim) == owner("last")
    assert (await store.get("node.another")).value is None
    assert told == []


async def test_a_process_whose_id_was_taken_over_stops_with_a_clear_message(
    nats_server: EmbeddedServer, bus: Bus, store: Bucket, keeping: Keeping
) -> None:
    del keeping
    async with NodeMonitor(CONFIG, BusConfig(url=nats_server.url)) as node:
        answering(bus, "successor")
        await store.put(f"node.{NODE}", encode(owner("successor")))
        node._claim_now.set()  # it looks every few seconds by itself
        with pytest.raises(ConfigError, match="successor"):
            await node.run_until_stopped()
