"""Two sites: a hub that keeps everything, and a leaf that is joined to it by a link that may be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.cli.commands.doctor import check_offices
from sollol_agents.cli.commands.findings import Level
from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.keeping import kept_by
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.servers import NatsServer, deployed
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.control.claim import Claim
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import BusError, ConfigError
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.jetstream.streams import provision
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import make_job
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.discovery import find_services
from sollol_bus.transport.messages import encode
from sollol_schemas import stores, subjects
from sollol_schemas.control import ControlReply
from sollol_schemas.inboxes import node_inbox_prefix
from sollol_schemas.stores import NodeClaim
from sollol_schemas.telemetry import NodeState

DEPLOY = Path(__file__).parents[2] / "deploy"
MODEL = "m:latest"
OWN_JETSTREAM = "jetstream { store_dir: $NATS_STORE_DIR, domain: leaf }"

pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="the configurations are in the checkout only")


class Sites:
    """Servers of two sites, the link between them, and what runs there."""

    def __init__(self, folder: Path, floor: AsyncExitStack) -> None:
        self.urls: dict[str, str] = {}
        """The server of each site."""
        self._folder = folder
        self._floor = floor

    async def start(self, *, leaf_keeps: bool = False) -> None:
        """Starts both servers; `leaf_keeps`: the leaf's has a JetStream of its own."""
        hub, leaf, door = free_port(), free_port(), free_port()
        self.link = await self._floor.enter_async_context(Link(f"nats://127.0.0.1:{door}"))
        at_hub = await deployed(DEPLOY, "hub.conf", {"port: 4222": hub, "port: 7422": door})
        at_leaf = await deployed(DEPLOY, "leaf.conf", {"port: 4222": leaf})
        at_leaf = at_leaf.replace("nats-leaf://hub:7422", self.link.url.replace("nats:", "nats-leaf:"))
        if leaf_keeps:
            at_leaf = at_leaf.replace('default_js_domain: { "$G": hub }', OWN_JETSTREAM)
        for name, port, text in (("hub", hub, at_hub), ("leaf", leaf, at_leaf)):
            await self._floor.enter_async_context(NatsServer(self._folder, name, text))
            self.urls[name] = f"nats://127.0.0.1:{port}"
        near, far = await self.bus("leaf"), await self.bus("hub")
        near.subscribe("is.linked", lambda msg: near.publish(msg.reply))

        async def is_linked() -> bool:
            return await answers(far, "is.linked")

        await eventually(is_linked, complaint="the sites are linked")

    async def bus(self, site: str, **settings: Any) -> Bus:
        """A connection at a site."""
        bus = await Bus.connect(BusConfig(url=self.urls[site], connect_timeout_s=20, **settings))
        self._floor.push_async_callback(bus.close)
        return bus

    async def scorer(self, site: str, **settings: Any) -> Scorer:
        """A scorer at a site."""
        config = BusConfig(url=self.urls[site], **settings)
        return await self._floor.enter_async_context(Scorer(ScorerConfig(warm_up_s=0.1), config))

    async def worker(self, site: str) -> NodeMonitor:
        """A dispatcher and a node at a site."""
        config = BusConfig(url=self.urls[site])
        await self._floor.enter_async_context(Dispatcher(DispatcherConfig(drain_timeout_s=1.0), config))
        emulated = EmulatorConfig(preset="instant", model=("m=1",), preload=("m",))
        engine = await self._floor.enter_async_context(EmulatedNode(emulated))
        labels = {"site": site}
        node = NodeConfig(node_id=site, engine="ollama", url=engine.url, labels=labels, drain_timeout_s=1.0)
        return await self._floor.enter_async_context(NodeMonitor(node, config))

    async def client(self, site: str) -> Client:
        """A client at a site."""
        return await self._floor.enter_async_context(Client(BusConfig(url=self.urls[site])))


async def answers(bus: Bus, subject: str) -> bool:
    """Whether anybody answers there now."""
    try:
        await bus.request(subject, timeout_s=0.5)
    except BusError:
        return False
    return True


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[Sites]:
    async with AsyncExitStack() as floor:
        yield Sites(tmp_path, floor)


async def test_a_site_without_jetstream_works_with_the_hubs_and_waits_for_it(sites: Sites) -> None:
    await sites.start()
    scorer = await sites.scorer("hub")
    standby = await sites.scorer("leaf")
    await sites.worker("leaf")
    client = await sites.client("leaf")

    async def is_up() -> bool:
        return [view.state for view in (await client.nodes()).nodes] == [NodeState.UP]

    await eventually(lambda: scorer.is_leader, complaint="the first is in office")
    await eventually(is_up, complaint="the leaf's node is up")
    assert (await client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]
    await client.jobs.submit(make_job({"model": MODEL, "prompt": "count down from 2"}), job_id="far")
    assert (await client.jobs.wait("far")).text.split() == ["1", "0"]
    assert not standby.is_leader, "there is one office for both sites"

    sites.link.bar()
    bus = await sites.bus("leaf")
    await eventually(lambda: not_answering(bus, subjects.NODES), complaint="nobody is in office at the leaf")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(client.generate(MODEL, "count down from 3"))
        sites.link.thaw()
    assert waiting.result().text.split() == ["2", "1", "0"], "what waited meanwhile is answered"


async def test_one_node_id_cannot_live_at_both_sites(sites: Sites) -> None:
    await sites.start()
    hub, leaf = await sites.bus("hub"), await sites.bus("leaf")
    await provision(hub)
    at_hub = await sites.bus("hub", inbox_prefix=node_inbox_prefix("twin"))
    at_leaf = await sites.bus("leaf", inbox_prefix=node_inbox_prefix("twin"))
    async with kept_by(hub), kept_by(leaf):
        await asyncio.gather(hub.flush(), leaf.flush())
        await one_id_at_one_site(sites, hub, leaf, at_hub, at_leaf)


async def one_id_at_one_site(sites: Sites, hub: Bus, leaf: Bus, at_hub: Bus, at_leaf: Bus) -> None:
    first = NodeClaim(node_id="twin", instance="first", host="hub-1")
    assert await Claim(at_hub, first).make()
    pong = encode(ControlReply(node_id="twin", instance="first", host="hub-1"))
    hub.subscribe(subjects.NODE_CONTROL.of("twin"), lambda msg: hub.publish(msg.reply, pong))
    await hub.flush()
    await eventually(lambda: answers(leaf, subjects.NODE_CONTROL.of("twin")))
    with pytest.raises(ConfigError, match="hub-1"):
        await Claim(at_leaf, NodeClaim(node_id="twin", instance="second")).make(is_starting=True)

    sites.link.bar()
    second = Claim(at_leaf, NodeClaim(node_id="twin", instance="second"))
    await eventually(lambda: not_answering(leaf, subjects.NODE_CONTROL.of("twin")))
    assert not await second.make(), "while the link is cut no id can be claimed"
    sites.link.thaw()
    await eventually(lambda: answers(leaf, subjects.NODE_CONTROL.of("twin")))
    with pytest.raises(ConfigError, match="hub-1"):
        await second.make()


async def test_a_second_holder_of_office_at_a_site_with_its_own_jetstream_is_noticed(sites: Sites) -> None:
    await sites.start(leaf_keeps=True)
    hub, leaf = await sites.scorer("hub"), await sites.scorer("leaf")
    await eventually(lambda: hub.is_leader and leaf.is_leader, complaint="each JetStream has its office")
    bus = await sites.bus("leaf")
    findings = list(check_offices(await find_services(bus)))
    assert [finding.level for finding in findings] == [Level.PROBLEM]
    assert hub.instance in findings[0].found
    assert leaf.instance in findings[0].found


async def test_a_site_with_its_own_jetstream_may_use_the_hubs(sites: Sites) -> None:
    await sites.start(leaf_keeps=True)
    hub = await sites.scorer("hub")
    far = await sites.scorer("leaf", jetstream_domain="hub")
    await eventually(lambda: hub.is_leader)
    bus = await sites.bus("leaf", jetstream_domain="hub")
    assert list(check_offices(await find_services(bus))) == []
    assert not far.is_leader
    bucket = Bucket(bus, stores.SETTINGS_BUCKET)
    revision = await bucket.create("near", b"1")
    assert revision is not None
    assert (await Bucket(await sites.bus("hub"), stores.SETTINGS_BUCKET).get("near")).value == b"1"
    assert [entry.key for entry in await bucket.every("near")] == ["near"]
    assert await bucket.delete("near", revision)

    heard: list[Delivery] = []
    consumer = PullConsumer(bus, ConsumerSpec(stream=stores.EVENTS_STREAM, durable="d"), heard.append, heartbeat_s=0.5)
    event = subjects.OFFICE_EVENT.of("x")
    async with asyncio.TaskGroup() as group:
        pulling = group.create_task(consumer.run())
        await publish_acked(bus, event, b"{}")
        await eventually(lambda: any(delivery.subject == event for delivery in heard), complaint="events are pulled")
        pulling.cancel()
    delivery = next(delivery for delivery in heard if delivery.subject == event)
    assert (delivery.deliveries, delivery.stream_seq > 0) == (1, True), "read from a reply subject with a domain"


async def not_answering(bus: Bus, subject: str) -> bool:
    """Whether nobody answers there now."""
    return not await answers(bus, subject)
