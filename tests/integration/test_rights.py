"""Permissions of each role, exercised on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import zip_longest
from pathlib import Path

import msgspec
import pytest

from sollol_agents.lab.testing.keeping import kept_by
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.messages import outcome
from sollol_agents.lab.testing.raw import Raw
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.control.claim import Claim
from sollol_agents.recorder.actor import Recorder
from sollol_agents.recorder.config import RecorderConfig
from sollol_bus.errors import ConfigError
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.office import Candidate
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.rights import permissions
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.leave import give
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import inboxes, stores, subjects
from sollol_schemas.inboxes import client_inbox_prefix
from sollol_schemas.queries import StatsReply
from sollol_schemas.stores import NodeClaim
from sollol_schemas.subjects import SUBJECTS, Role, Subject

Connect = Callable[[str], Awaitable[Bus]]
Opened = Callable[[str], Awaitable[Raw]]

ROLES = {
    "alice": Role.CLIENT,
    "bob": Role.CLIENT,
    "n1": Role.NODE,
    "n2": Role.NODE,
    "control": Role.CONTROL,
    "observer": Role.OBSERVER,
}


@pytest.fixture
def members(tmp_path: Path) -> Members:
    return Members(tmp_path, ROLES)


@pytest.fixture
async def guarded(members: Members, tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    async with EmbeddedServer(config) as server:
        yield server


@pytest.fixture
async def connect(guarded: EmbeddedServer, members: Members) -> AsyncIterator[Connect]:
    opened: list[Bus] = []

    async def make(user: str) -> Bus:
        opened.append(await Bus.connect(members.bus_config(user, guarded.url)))
        return opened[-1]

    yield make
    for bus in opened:
        await bus.close()


@pytest.fixture
async def opened(guarded: EmbeddedServer, members: Members) -> Opened:
    def make(user: str) -> Awaitable[Raw]:
        return Raw.open(guarded, lambda info: members.options(user, info))

    return make


def concrete(row: Subject, node_id: str) -> str:
    filled = [
        node_id if part == "{node_id}" else "x" if part.startswith("{") else part for part in row.address.split(".")
    ]
    return ".".join(filled)


async def test_a_node_speaks_and_listens_under_its_own_id_alone(opened: Opened) -> None:
    raw = await opened("n1")
    for row in SUBJECTS:
        if "{node_id}" in row.address:
            assert not await raw.may_publish(concrete(row, "n2")), row.address
            assert not await raw.may_subscribe(concrete(row, "n2")), row.address
            assert not await raw.may_subscribe(row.all), row.address
    await raw.close()


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("n1", "sollol.v1.telemetry.n2"),
        ("n1", "sollol.v1.attempt.n2.r-1"),
        ("n1", "sollol.v1.node.n2.exec"),
        ("n1", "sollol.v1.scorer.grant"),
        ("n1", "sollol.v1.events.outcome.n1"),
        ("n1", "sollol.v1.outcome.n2"),
        ("n1", "sollol.v1.claim.n2"),
        ("n1", "sollol.v1.node.n1.control"),
        ("n1", "_INBOX_node.n1.x"),
        ("n1", "_INBOX.x"),
        ("n1", "_INBOX_cli.x"),
        ("n1", "_INBOX_cli.alice.x"),
        ("n1", "_INBOX_ctl.x"),
        ("n1", "$KV.SOLLOL_NODES.node.n1"),
        ("n1", "$JS.hub.API.$KV.SOLLOL_NODES.node.n1"),
        ("n1", "$JS.API.STREAM.MSG.GET.KV_SOLLOL_NODES"),
        ("n1", "$JS.hub.API.STREAM.MSG.GET.KV_SOLLOL_NODES"),
        ("n1", "sollol.v1.events.routing.fast"),
        ("n1", "sollol.v1.jobs.result.j"),
        ("n1", "$KV.SOLLOL_NODES.node.n2"),
        ("n1", "$KV.SOLLOL_OFFICES.scorer"),
        ("n1", "$JS.API.STREAM.CREATE.X"),
        ("n1", "$JS.API.STREAM.DELETE.SOLLOL_EVENTS"),
        ("n1", "$JS.API.DIRECT.GET.KV_SOLLOL_NODES.$KV.SOLLOL_NODES.node.n1"),
        ("n1", "$JS.API.CONSUMER.CREATE.SOLLOL_EVENTS"),
        ("alice", "sollol.v1.node.n1.exec"),
        ("alice", "sollol.v1.node.n1.control"),
        ("alice", "sollol.v1.scorer.grant"),
        ("alice", "sollol.v1.events.outcome.n1"),
        ("alice", "sollol.v1.telemetry.n1"),
        ("alice", "sollol.v1.admin.node.drain"),
        ("alice", "sollol.v1.admin.metrics.reset"),
        ("alice", "_INBOX_ctl.x"),
        ("alice", "_INBOX_cli.bob.x"),
        ("alice", "$JS.API.STREAM.INFO.SOLLOL_EVENTS"),
        ("alice", "$KV.SOLLOL_SETTINGS.x"),
        ("observer", "sollol.v1.generate"),
        ("observer", "sollol.v1.admin.node.drain"),
        ("observer", "$JS.API.CONSUMER.CREATE.SOLLOL_EVENTS"),
        ("observer", "$KV.SOLLOL_SETTINGS.x"),
        ("control", "sollol.v1.telemetry.n1"),
        ("control", "sollol.v1.attempt.n1.r-1"),
    ],
)
async def test_what_would_break_trust_is_refused(opened: Opened, user: str, subject: str) -> None:
    raw = await opened(user)
    assert not await raw.may_publish(subject)
    await raw.close()


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("alice", "_INBOX_cli.bob.>"),
        ("alice", "_INBOX_cli.>"),
        ("alice", "_INBOX_ctl.>"),
        ("alice", "sollol.v1.node.n1.exec"),
        ("alice", "sollol.v1.generate"),
        ("alice", "sollol.>"),
        ("alice", ">"),
        ("n1", "_INBOX_cli.>"),
        ("n1", "_INBOX_node.n2.>"),
        ("n1", "sollol.v1.chat"),
        ("n1", "sollol.v1.events.>"),
        ("n1", "$SRV.PING"),
        ("observer", "_INBOX_cli.>"),
        ("observer", "sollol.v1.chat"),
        ("observer", "sollol.v1.node.n1.exec"),
    ],
)
async def test_what_is_not_meant_for_a_role_is_not_heard(opened: Opened, user: str, subject: str) -> None:
    raw = await opened(user)
    assert not await raw.may_subscribe(subject)
    await raw.close()


async def test_a_stranger_is_not_let_in(guarded: EmbeddedServer, tmp_path: Path) -> None:
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    config = Members(strangers, {"mallory": Role.CLIENT}).bus_config("mallory", guarded.url)
    async with asyncio.timeout(30):  # at its first word, not when all the patience is used up
        with pytest.raises(ConfigError, match="cannot connect"):
            await Bus.connect(msgspec.structs.replace(config, connect_timeout_s=300.0))


async def test_a_node_claims_its_id_and_has_its_outcomes_stored(connect: Connect) -> None:
    control, node = await connect("control"), await connect("n1")
    await provision(control)
    async with kept_by(control):
        await control.flush()
        claim = Claim(node, NodeClaim(node_id="n1", instance="i1"))
        assert await claim.make(is_starting=True)
        publisher = OutcomePublisher(node, to=subjects.NODE_OUTCOME)
        publisher.publish(outcome())
        assert await publisher.flush() == 0
    assert (await Bucket(control, stores.NODES_BUCKET).get("node.n1")).revision == claim.revision


def test_a_node_speaks_nowhere_where_it_listens() -> None:
    """Else it could give itself leave to speak everywhere: by a message to itself with that reply subject."""
    node = permissions(Role.NODE, "n1")
    assert node.answers_s > 0
    both = [(said, heard) for said in node.publish for heard in node.subscribe if _meet(said, heard)]
    assert both == []


def _meet(one: str, other: str) -> bool:
    """Whether a subject may match both patterns."""
    for a, b in zip_longest(one.split("."), other.split("."), fillvalue=""):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return True


async def let_speak(control: Bus, node: Bus, inbox: str, node_id: str = "n1") -> None:
    """Returns when the node was asked from that inbox."""
    asked = asyncio.Event()
    subscription = node.subscribe(subjects.NODE_LEAVE.of(node_id), lambda _: asked.set())
    await node.flush()
    give(control, node_id, inbox)
    await asked.wait()
    subscription.unsubscribe()


async def test_a_node_answers_whom_it_was_asked_from_and_nobody_else(connect: Connect) -> None:
    control, node, alice = await connect("control"), await connect("n1"), await connect("alice")
    refused: list[str] = []
    node.on_refused(refused.append)
    heard: list[bytes] = []
    asked, other = alice.new_inbox(), alice.new_inbox()
    for inbox in (asked, other):
        alice.subscribe(inbox, lambda msg: heard.append(msg.data))
    await alice.flush()
    await let_speak(control, node, asked)
    for number in range(3000):
        node.publish(asked, b"%d" % number)
        await node.make_room()
    node.publish(other, b"forged")
    node.publish(asked, b"end")
    await eventually(lambda: heard[-1:] == [b"end"])
    assert heard == [*(b"%d" % number for number in range(3000)), b"end"]
    assert refused == [other.lower()]


async def test_tokens_reach_their_client_and_nobody_else(connect: Connect) -> None:
    control, node = await connect("control"), await connect("n1")
    alice, bob = await connect("alice"), await connect("bob")
    heard: list[bytes] = []
    inbox = alice.new_inbox()
    assert inboxes.is_client_inbox(inbox)
    alice.subscribe(inbox, lambda m: heard.append(m.data))
    await alice.flush()
    overheard: list[bytes] = []
    bob.subscribe(inbox, lambda m: overheard.append(m.data))
    await bob.flush()
    await let_speak(control, node, inbox)
    node.publish(inbox, b"token")
    await eventually(lambda: heard == [b"token"])
    await bob.flush()
    assert overheard == []


async def test_the_control_role_holds_offices_and_answers_nodes_clients_and_observers(
    connect: Connect, tmp_path: Path, guarded: EmbeddedServer, members: Members
) -> None:
    control = await connect("control")
    await provision(control)
    lease = Candidate(control, "scorer", "i1", probe=subjects.SCORER_PROBE.of)
    task = asyncio.get_running_loop().create_task(lease.run())
    await eventually(lambda: lease.is_held)
    await lease.close()
    await task
    config = RecorderConfig(database=str(tmp_path / "r.sqlite3"))
    async with Recorder(config, members.bus_config("control", guarded.url)) as recorder:
        assert recorder.is_in_office
        for user in ("alice", "observer"):
            asker = await connect(user)
            assert decode((await asker.request(subjects.STATS)).data, StatsReply).total.requests == 0
            pong = await asker.request(f"$SRV.PING.sollol-recorder.{recorder.instance}")
            assert recorder.instance.encode() in pong.data
    node = await connect("n1")
    control.subscribe("sollol.v1.attempt.n1.*", lambda m: control.respond(m, {"go": True}))
    await control.flush()
    assert (await node.request("sollol.v1.attempt.n1.r-1", encode({}))).data == b'{"go":true}'


def test_a_client_without_a_user_uses_the_common_inboxes() -> None:
    assert client_inbox_prefix(None) == "_INBOX_cli"
    assert client_inbox_prefix("alice") == "_INBOX_cli.alice"
