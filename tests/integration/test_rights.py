"""Permissions of each role, exercised on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from sollol_agents.dispatcher.keeping import Keeping
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
from sollol_bus.server.rights import (
    Credential,
    make_credentials,
    server_config,
)
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import inboxes, stores, subjects
from sollol_schemas.inboxes import client_inbox_prefix
from sollol_schemas.queries import StatsReply
from sollol_schemas.stores import NodeClaim
from sollol_schemas.subjects import AS, MEMBERS, SUBJECTS, V1, Role, Subject

Connect = Callable[[str], Awaitable[Bus]]

CREDENTIALS = make_credentials(["n1", "n2"], clients=["alice", "bob"])
USERS = {c.user: c for c in CREDENTIALS}
USER_OF = {Role.CLIENT: "alice", Role.NODE: "node-n1", Role.CONTROL: "control", Role.OBSERVER: "observer"}


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=server_config(CREDENTIALS))
    async with EmbeddedServer(config) as server:
        yield server


@pytest.fixture
async def connect(guarded: EmbeddedServer) -> AsyncIterator[Connect]:
    opened: list[Bus] = []

    async def make(user: str) -> Bus:
        opened.append(await Bus.connect(USERS[user].bus_config(guarded.url)))
        return opened[-1]

    yield make
    for bus in opened:
        await bus.close()


async def opened(server: EmbeddedServer, user: str) -> Raw:
    return await Raw.open(server, lambda _: {"user": user, "pass": USERS[user].password})


def concrete(row: Subject, node_id: str) -> str:
    filled = [
        node_id if part == "{node_id}" else "x" if part.startswith("{") else part for part in row.address.split(".")
    ]
    return ".".join(filled)


@pytest.mark.parametrize("role", list(USER_OF))
async def test_a_role_says_and_hears_exactly_what_the_subject_table_gives_it(
    guarded: EmbeddedServer, role: Role
) -> None:
    raw = await opened(guarded, USER_OF[role])
    for row in SUBJECTS:
        subject = concrete(row, "n1")
        asks = subject.replace(V1, f"{AS}{USER_OF[role]}") if role in MEMBERS else subject
        assert await raw.may_publish(asks) == (role in row.by), f"publish {asks}"
        assert await raw.may_subscribe(subject) == (role in row.to), f"subscribe {subject}"
    await raw.close()


async def test_a_node_speaks_and_listens_under_its_own_id_alone(guarded: EmbeddedServer) -> None:
    raw = await opened(guarded, "node-n1")
    for row in SUBJECTS:
        if "{node_id}" in row.address:
            assert not await raw.may_publish(concrete(row, "n2")), row.address
            assert not await raw.may_subscribe(concrete(row, "n2")), row.address
            assert not await raw.may_subscribe(row.all), row.address
    await raw.close()


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("node-n1", "sollol.v1.telemetry.n2"),
        ("node-n1", "sollol.v1.attempt.n2.r-1"),
        ("node-n1", "sollol.v1.node.n2.exec"),
        ("node-n1", "sollol.v1.scorer.grant"),
        ("node-n1", "sollol.v1.events.outcome.n1"),
        ("node-n1", "sollol.v1.outcome.n2"),
        ("node-n1", "sollol.v1.claim.n2"),
        ("node-n1", "sollol.v1.node.n1.control"),
        ("node-n1", "_INBOX_node.n1.x"),
        ("node-n1", "$KV.SOLLOL_NODES.node.n1"),
        ("node-n1", "$JS.hub.API.$KV.SOLLOL_NODES.node.n1"),
        ("node-n1", "$JS.API.STREAM.MSG.GET.KV_SOLLOL_NODES"),
        ("node-n1", "$JS.hub.API.STREAM.MSG.GET.KV_SOLLOL_NODES"),
        ("node-n1", "sollol.v1.events.routing.fast"),
        ("node-n1", "sollol.v1.jobs.result.j"),
        ("node-n1", "$KV.SOLLOL_NODES.node.n2"),
        ("node-n1", "$KV.SOLLOL_OFFICES.scorer"),
        ("node-n1", "$JS.API.STREAM.CREATE.X"),
        ("node-n1", "$JS.API.STREAM.DELETE.SOLLOL_EVENTS"),
        ("node-n1", "$JS.API.DIRECT.GET.KV_SOLLOL_NODES.$KV.SOLLOL_NODES.node.n1"),
        ("node-n1", "$JS.API.CONSUMER.CREATE.SOLLOL_EVENTS"),
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
async def test_what_would_break_trust_is_refused(guarded: EmbeddedServer, user: str, subject: str) -> None:
    raw = await opened(guarded, user)
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
        ("node-n1", "_INBOX_cli.>"),
        ("node-n1", "_INBOX_node.n2.>"),
        ("node-n1", "sollol.v1.chat"),
        ("node-n1", "sollol.v1.events.>"),
        ("node-n1", "$SRV.PING"),
        ("observer", "_INBOX_cli.>"),
        ("observer", "sollol.v1.chat"),
        ("observer", "sollol.v1.node.n1.exec"),
    ],
)
async def test_what_is_not_meant_for_a_role_is_not_heard(guarded: EmbeddedServer, user: str, subject: str) -> None:
    raw = await opened(guarded, user)
    assert not await raw.may_subscribe(subject)
    await raw.close()


async def test_a_stranger_is_not_let_in(guarded: EmbeddedServer) -> None:
    config = Credential(user="mallory", password="x", role=Role.CLIENT).bus_config(guarded.url)
    async with asyncio.timeout(30):  # at its first word, not when all the patience is used up
        with pytest.raises(ConfigError, match="cannot connect"):
            await Bus.connect(msgspec.structs.replace(config, connect_timeout_s=300.0))


async def test_a_node_claims_its_id_and_has_its_outcomes_stored(connect: Connect) -> None:
    control, node = await connect("control"), await connect("node-n1")
    await provision(control)
    async with Keeping(control):
        await control.flush()
        claim = Claim(node, NodeClaim(node_id="n1", instance="i1"))
        assert await claim.make(is_starting=True)
        publisher = OutcomePublisher(node, to=subjects.NODE_OUTCOME)
        publisher.publish(outcome())
        assert await publisher.flush() == 0
    assert (await Bucket(control, stores.NODES_BUCKET).get("node.n1")).revision == claim.revision


async def test_tokens_reach_their_client_and_nobody_else(connect: Connect) -> None:
    node, alice, bob = await connect("node-n1"), await connect("alice"), await connect("bob")
    heard: list[bytes] = []
    inbox = alice.new_inbox()
    assert inboxes.is_client_inbox(inbox)
    alice.subscribe(inbox, lambda m: heard.append(m.data))
    await alice.flush()
    overheard: list[bytes] = []
    bob.subscribe(inbox, lambda m: overheard.append(m.data))
    await bob.flush()
    node.publish(inbox, b"token")
    await eventually(lambda: heard == [b"token"])
    await bob.flush()
    assert overheard == []


async def test_the_control_role_holds_offices_and_answers_nodes_clients_and_observers(
    connect: Connect, tmp_path: Path, guarded: EmbeddedServer
) -> None:
    control = await connect("control")
    await provision(control)
    lease = Candidate(control, "scorer", "i1", probe=subjects.SCORER_PROBE.of)
    task = asyncio.get_running_loop().create_task(lease.run())
    await eventually(lambda: lease.is_held)
    await lease.close()
    await task
    config = RecorderConfig(database=str(tmp_path / "r.sqlite3"))
    async with Recorder(config, USERS["control"].bus_config(guarded.url)) as recorder:
        assert recorder.is_in_office
        for user in ("alice", "observer"):
            asker = await connect(user)
            assert decode((await asker.request(subjects.STATS)).data, StatsReply).total.requests == 0
            pong = await asker.request(f"$SRV.PING.sollol-recorder.{recorder.instance}")
            assert recorder.instance.encode() in pong.data
    node = await connect("node-n1")
    control.subscribe("sollol.v1.attempt.n1.*", lambda m: control.respond(m, {"go": True}))
    await control.flush()
    assert (await node.request("sollol.v1.attempt.n1.r-1", encode({}))).data == b'{"go":true}'


async def test_a_node_is_added_while_others_stay_connected(guarded: EmbeddedServer, connect: Connect) -> None:
    control, alice = await connect("control"), await connect("alice")
    more = (*CREDENTIALS, *make_credentials(["n3"], clients=(), controls=(), observers=()))
    await guarded.reload(server_config(more))
    third = next(c for c in more if c.node_id == "n3")
    async with asyncio.timeout(10):
        while True:
            try:
                node = await Bus.connect(third.bus_config(guarded.url))
                break
            except ConfigError:
                await asyncio.sleep(0.05)  # the reload is asynchronous
    control.subscribe("sollol.v1.attempt.n3.*", lambda m: control.respond(m, {"go": True}))
    await control.flush()
    assert (await node.request("sollol.v1.attempt.n3.r-1")).data == b'{"go":true}'
    assert alice.reconnects == 0
    assert control.reconnects == 0
    await node.close()


def test_a_credential_keeps_its_password_out_of_its_text() -> None:
    assert all(c.password not in repr(c) for c in CREDENTIALS)


@pytest.mark.parametrize(
    ("node_ids", "clients", "reason"),
    [(["a.b"], ["c"], "allowed"), (["a"], ["c", "c"], "twice"), ([], ["a b"], "allowed")],
)
def test_names_that_would_widen_rights_are_refused(node_ids: list[str], clients: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_credentials(node_ids, clients=clients)


def test_a_client_without_a_user_uses_the_common_inboxes() -> None:
    assert client_inbox_prefix(None) == "_INBOX_cli"
    assert client_inbox_prefix("alice") == "_INBOX_cli.alice"
