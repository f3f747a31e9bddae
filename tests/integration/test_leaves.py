"""Nodes of a fleet that knows its members: what they may say to whom, and for how long."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.leaves import Leaves
from sollol_agents.gateway.management.blobs import PIECE_BYTES, Sender
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.attempts.leave import Leave
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.control.asker import Asker
from sollol_agents.node.control.blob_source import BlobSource
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.leave import LeaveOnSilence, give
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import LeaveReply, LeaveRequest
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import CancelReply, CancelRequest
from sollol_schemas.inboxes import CLIENT_INBOX_PREFIX, node_inbox_prefix
from sollol_schemas.subjects import Role

MODEL = "m:latest"
NAMES = {"control": Role.CONTROL, "alice": Role.CLIENT, "eve": Role.CLIENT, "n1": Role.NODE, "n2": Role.NODE}


class Fleet:
    """A scorer, a dispatcher and a node, each with the rights of its role and no more."""

    def __init__(self, floor: AsyncExitStack, members: Members, server: EmbeddedServer) -> None:
        self._floor = floor
        self.members = members
        self.server = server

    async def start(self, *, has_line: bool = True) -> None:
        """Starts it; with a line, the test holds the one of the node to the server in its hand."""
        engine = await self._floor.enter_async_context(
            EmulatedNode(EmulatorConfig(model=("m=1", "nomic-embed-text"), preload=("m",), parallel=4, decode_tps=60.0))
        )
        control = self.members.bus_config("control", self.server.url)
        await self._floor.enter_async_context(Scorer(ScorerConfig(warm_up_s=0.3), control))
        self.dispatcher = Dispatcher(DispatcherConfig(drain_timeout_s=1.0), control)
        await self._floor.enter_async_context(self.dispatcher)
        url = self.server.url
        if has_line:
            self.link = await self._floor.enter_async_context(Link(url))
            url = self.link.url
        config = NodeConfig(node_id="n1", url=engine.url, engine="ollama", slots=4, drain_timeout_s=2.0)
        self.node = NodeMonitor(config, self.members.bus_config("n1", url))
        await self._floor.enter_async_context(self.node)
        self.bus = await self.connect("alice")

    async def connect(self, name: str) -> Bus:
        bus = await Bus.connect(self.members.bus_config(name, self.server.url))
        self._floor.push_async_callback(bus.close)
        return bus

    async def client(self) -> Client:
        return await self._floor.enter_async_context(Client(self.members.bus_config("alice", self.server.url)))

    async def another_dispatcher(self) -> None:
        control = self.members.bus_config("control", self.server.url)
        await self._floor.enter_async_context(Dispatcher(DispatcherConfig(drain_timeout_s=1.0), control))

    async def plain_stream(self, numbers: int, headers: dict[str, str] | None = None) -> list[Msg]:
        """What comes to a caller that asks nothing after its request, once it has begun."""
        heard: list[Msg] = []
        inbox = self.bus.new_inbox()
        self.bus.subscribe(inbox, heard.append)
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"count down from {numbers}"}], "stream": True}
        self.bus.publish(subjects.CHAT, json.dumps(body).encode(), reply=inbox, headers=headers)
        await eventually(lambda: len(heard) > 2, complaint="it streams")
        return heard


@pytest.fixture
async def floor() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def idle_fleet(tmp_path: Path, floor: AsyncExitStack) -> Fleet:
    members = Members(tmp_path, NAMES)
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    return Fleet(floor, members, await floor.enter_async_context(EmbeddedServer(config)))


@pytest.fixture
async def fleet(idle_fleet: Fleet) -> Fleet:
    await idle_fleet.start()
    return idle_fleet


def code_of(heard: list[Msg]) -> ErrorCode | None:
    error = error_of(heard[-2])
    return None if error is None else error.code


async def test_every_way_to_ask_is_answered(fleet: Fleet) -> None:
    client = await fleet.client()
    assert (await client.generate(MODEL, "count down from 3")).text.split() == ["2", "1", "0"]
    assert (await client.embed("nomic-embed-text", "x")).embeddings
    job = await client.generate_async(MODEL, "count down from 2")
    assert (await client.wait_for_task(job, timeout_s=20)).text.split() == ["1", "0"]
    heard: list[Msg] = []
    inbox = fleet.bus.new_inbox()
    fleet.bus.subscribe(inbox, heard.append)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "count down from 2"}], "stream": True}
    fleet.bus.publish(
        subjects.PASSTHROUGH,
        json.dumps(body).encode(),
        reply=inbox,
        headers={h.PATH: "/v1/chat/completions", h.STREAM: "1"},
    )
    await eventually(lambda: bool(heard) and not heard[-1].data)
    assert code_of(heard) is None


async def test_nobody_ends_anothers_request_by_sending_it_again(fleet: Fleet) -> None:
    eve = await fleet.connect("eve")
    heard = await fleet.plain_stream(60, {h.REQUEST_ID: "story"})
    body = json.dumps({"model": MODEL, "messages": []}).encode()
    refused = error_of(await eve.request(subjects.CHAT, body, headers={h.REQUEST_ID: "story", h.RESEND: "1"}))
    assert refused is not None
    assert refused.code is ErrorCode.CONFLICT
    await eventually(lambda: not heard[-1].data)
    assert code_of(heard) is None
    assert b"0" in heard[-2].data + heard[-3].data


async def test_nobody_cancels_anothers_request_though_it_knows_the_secret(fleet: Fleet) -> None:
    eve = await fleet.connect("eve")
    await fleet.plain_stream(900, {h.REQUEST_ID: "story", h.CANCEL_SECRET: "s"})
    asked = encode(CancelRequest(request_id="story", secret="s"))
    for bus, is_cancelled in ((eve, False), (fleet.bus, True)):
        told = decode((await bus.request(subjects.CANCEL, asked)).data, CancelReply)
        assert told.is_cancelled is is_cancelled


async def test_no_answer_to_a_cancel_goes_to_anothers_inbox(fleet: Fleet) -> None:
    eve = await fleet.connect("eve")
    heard: list[Msg] = []
    inbox = fleet.bus.new_inbox()
    fleet.bus.subscribe(inbox, heard.append)
    await fleet.bus.flush()
    for asked in (b"", encode(CancelRequest(request_id="nobody-s", secret="s"))):
        eve.publish(subjects.CANCEL, asked, reply=inbox)
        await eve.request(subjects.CANCEL, encode(CancelRequest(request_id="behind", secret="s")))
    assert heard == []


async def test_no_client_keeps_a_slot_free_for_what_it_cancels(fleet: Fleet) -> None:
    await fleet.plain_stream(900, {h.REQUEST_ID: "story", h.CANCEL_SECRET: "s"})
    asked = CancelRequest(request_id="story", secret="s", comes_again=True)
    told = decode((await fleet.bus.request(subjects.CANCEL, encode(asked))).data, CancelReply)
    assert told.is_cancelled


async def test_a_stream_that_the_nodes_new_connection_strikes_ends_with_an_error(fleet: Fleet) -> None:
    heard = await fleet.plain_stream(900)
    fleet.link.cut()
    await eventually(lambda: not heard[-1].data)
    assert code_of(heard) is ErrorCode.CONNECTION_LOST
    assert fleet.node.bus.is_connected


async def test_a_stream_that_the_servers_restart_strikes_ends_with_an_error(idle_fleet: Fleet) -> None:
    await idle_fleet.start(has_line=False)
    heard = await idle_fleet.plain_stream(900)
    await idle_fleet.server.kill()
    await idle_fleet.server.start()
    await eventually(lambda: not heard[-1].data)
    assert code_of(heard) is ErrorCode.CONNECTION_LOST


async def test_an_end_is_said_again_although_its_dispatcher_is_gone(fleet: Fleet) -> None:
    heard = await fleet.plain_stream(30)
    fleet.link.freeze()
    await eventually(lambda: not fleet.node.in_flight())
    await fleet.another_dispatcher()
    await fleet.dispatcher.close()
    fleet.link.cut()
    await eventually(lambda: not heard[-1].data)
    assert int((heard[-1].headers or {})[h.CHUNKS]) > len(heard) - 1


async def test_a_draining_node_says_its_last_words(fleet: Fleet) -> None:
    heard = await fleet.plain_stream(30)
    await fleet.node.close()
    await eventually(lambda: not heard[-1].data)
    assert code_of(heard) is None


@pytest.fixture
async def leaves(fleet: Fleet) -> Leaves:
    """Of a further dispatcher, as far as its tickets go."""
    bus = await fleet.connect("control")

    def spawn(coroutine: Any, *, name: str) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(coroutine, name=name)

    made = await fleet._floor.enter_async_context(Leaves(bus, spawn))
    await eventually(lambda: len(made._secrets) > 1, complaint="they share a secret")
    return made


async def test_a_ticket_is_good_for_its_node_and_its_inbox_at_every_dispatcher(fleet: Fleet, leaves: Leaves) -> None:
    thief = await fleet.connect("n2")
    inbox, other = fleet.bus.new_inbox(), fleet.bus.new_inbox()
    ticket = leaves.ticket("n2", inbox, 10.0)
    cases = {
        (inbox, ticket): True,
        (other, ticket): False,
        (inbox, leaves.ticket("n1", inbox, 10.0)): False,
        (inbox, leaves.ticket("n2", inbox, -1300.0)): False,
        (inbox, "f" + ticket): False,
        (inbox, ""): False,
        (inbox, "ffffffffff."): False,
        (inbox, "no number.é"): False,
        ("$KV.SOLLOL_SETTINGS.api_keys", leaves.ticket("n2", "$KV.SOLLOL_SETTINGS.api_keys", 10.0)): False,
        ("_INBOX_ctl.x", leaves.ticket("n2", "_INBOX_ctl.x", 10.0)): False,
    }
    for (where, shown), is_given in cases.items():
        question = encode(LeaveRequest(inbox=where, ticket=shown))
        for _ in range(2):  # each dispatcher answers some
            reply = await thief.request(subjects.LEAVE_WANTED.of("n2"), question)
            assert decode(reply.data, LeaveReply).is_given is is_given, (where, shown)


async def test_what_a_thief_of_a_nodes_credentials_has_dispatchers_say_stays_with_the_node(
    fleet: Fleet, leaves: Leaves
) -> None:
    thief, control = await fleet.connect("n2"), await fleet.connect("control")
    heard: list[Msg] = []
    control.subscribe("_INBOX_ctl.mine", heard.append)
    await control.flush()
    inbox = fleet.bus.new_inbox()
    bodies = {
        subjects.LEAVE_WANTED.of("n2"): encode(LeaveRequest(inbox=inbox, ticket=leaves.ticket("n2", inbox, 10.0))),
        subjects.NODE_CLAIM.of("n2"): b'{"claim":{"node_id":"n2","instance":"a"}}',
        subjects.ATTEMPT.of("n2", "r-1"): b'{"type":"attempt.start.v1","attempt_id":"r-1"}',
    }
    for subject, body in bodies.items():
        thief.publish(subject, body, reply="_INBOX_ctl.mine")
    await thief.request(subjects.LEAVE_WANTED.of("n2"), bodies[subjects.LEAVE_WANTED.of("n2")])
    await control.flush()
    assert heard == []


BRIEFLY = """
accounts { A { users: [
  { user: control, password: c }
  { user: n1, password: n, permissions: {
    publish: { allow: ["sollol.v1.leave.n1"] }
    subscribe: { allow: ["sollol.v1.node.n1.leave", "_INBOX_node.n1.>"] }
    allow_responses: { max: -1, expires: "1s" } } }
] } }
"""
"""A server on which leave ends after a second."""


class Brief:
    """A server on which leave ends after a second, a node, and whoever it speaks to."""

    def __init__(self, server: EmbeddedServer, control: Bus, node: Bus) -> None:
        self.server = server
        self.control = control
        self.node = node

    async def asked(self, inbox: str) -> None:
        """Returns when the node may speak there."""
        came = asyncio.Event()
        subscription = self.node.subscribe(subjects.NODE_LEAVE.of("n1"), lambda _: came.set())
        await self.node.flush()
        give(self.control, "n1", inbox)
        await came.wait()
        subscription.unsubscribe()


@pytest.fixture
async def brief(tmp_path: Path, floor: AsyncExitStack) -> Brief:
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=BRIEFLY)
    server = await floor.enter_async_context(EmbeddedServer(config))
    buses = []
    for user, password, prefix in (("control", "c", CLIENT_INBOX_PREFIX), ("n1", "n", node_inbox_prefix("n1"))):
        how = BusConfig(url=server.url, user=user, password=password, inbox_prefix=prefix)
        buses.append(await Bus.connect(how))
        floor.push_async_callback(buses[-1].close)
    return Brief(server, *buses)


async def test_leave_that_ends_is_given_anew_to_whoever_shows_the_ticket(brief: Brief, floor: AsyncExitStack) -> None:
    def spawn(coroutine: Any, *, name: str) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(coroutine, name=name)

    refused: list[str] = []
    brief.node.on_refused(refused.append)
    leaves = await floor.enter_async_context(Leaves(brief.control, spawn))
    heard: list[bytes] = []
    inbox = "_INBOX_cli.alice.x"
    brief.control.subscribe(inbox, lambda msg: heard.append(msg.data))
    brief.node.subscribe(subjects.NODE_LEAVE.of("n1"), lambda _: None)
    await brief.node.flush()
    give(brief.control, "n1", inbox)
    leave = Leave(brief.node, "n1", inbox, leaves.ticket("n1", inbox, 10.0), lasts_s=1.0)
    await brief.control.flush()
    brief.node.publish(inbox, b"first")
    await leave.renew()
    brief.node.publish(inbox, b"end")
    await eventually(lambda: heard[-1:] == [b"end"])
    assert heard == [b"first", b"end"]
    assert refused == []


async def test_the_end_of_a_long_operation_is_told_when_leave_was_given_anew(brief: Brief) -> None:
    heard: list[bytes] = []
    inbox = brief.control.new_inbox()
    brief.control.subscribe(inbox, lambda msg: heard.append(msg.data))
    asker = Asker(brief.node, inbox, is_stream=True)  # was never asked: as if it were on a new connection
    brief.node.subscribe(subjects.NODE_LEAVE.of("n1"), lambda _: None)
    await brief.control.flush()
    keeper = LeaveOnSilence(brief.control, "n1", inbox, silence_s=0.2)
    await asker.tell_end(b"done", b"")
    await eventually(lambda: heard[-1:] == [b""])
    assert heard == [b"done", b""]
    asker.close()
    keeper.close()


async def test_a_file_is_fetched_on_when_leave_to_ask_for_it_was_given_anew(brief: Brief) -> None:
    data = b"x" * (PIECE_BYTES + 1)

    async def arriving() -> AsyncIterator[bytes]:
        yield data

    refused: list[str] = []
    brief.node.on_refused(refused.append)
    sender = Sender(brief.control, "n1", arriving(), 1 << 20)  # type: ignore[arg-type]
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    source = BlobSource(brief.node, sender.source, digest)
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(fetched(source))
        await eventually(lambda: bool(refused), complaint="nobody has let the node ask: it listens for no leave yet")
        await brief.asked(sender.source)
        group.create_task(sender.run())
    assert fetching.result() == data
    sender.close()


async def fetched(source: BlobSource) -> bytes:
    return b"".join([piece async for piece in source.pieces()])


async def test_a_reload_that_takes_leave_away_breaks_a_stream_and_lets_its_end_be_heard(fleet: Fleet) -> None:
    heard = await fleet.plain_stream(900)
    await fleet.server.reload(fleet.members.server_config + "\nmax_control_line: 8192\n")
    await eventually(lambda: not heard[-1].data)
    assert code_of(heard) is ErrorCode.CONNECTION_LOST
    assert fleet.node.bus.reconnects == 0
    again = await fleet.plain_stream(5)
    await eventually(lambda: not again[-1].data)
    assert code_of(again) is None
