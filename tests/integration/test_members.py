"""A fleet that knows its members, on a real server: who is admitted, with which rights, and how one is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.raw import Raw
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.registrar import config as files
from sollol_agents.registrar.actor import Registrar
from sollol_agents.registrar.config import RegistrarConfig
from sollol_agents.registrar.founding import found
from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.acting import ACTING, signed
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.leave import give
from sollol_bus.transport.messages import decode, encode, error_of
from sollol_bus.trust import tokens
from sollol_bus.trust.callers import Roster
from sollol_bus.trust.certificates import fingerprint
from sollol_bus.trust.claims import Kind, creds_text, new_seed, public_key
from sollol_bus.trust.standings import StandingStore
from sollol_schemas import subjects
from sollol_schemas.acts import Act, Operator
from sollol_schemas.inboxes import (
    CONTROL_INBOX_PREFIX,
    NEWCOMER_INBOX_PREFIX,
    client_inbox_prefix,
    node_inbox_prefix,
)
from sollol_schemas.members import FleetReply, Invite, JoinReply, JoinRequest, ListMembers, Revoke
from sollol_schemas.subjects import AS, MEMBERS, SUBJECTS, V1, Role, Subject

NAMES = {
    Role.CLIENT: "alice",
    Role.NODE: "n1",
    Role.CONTROL: "control",
    Role.OBSERVER: "eye",
    Role.NEWCOMER: "",
}
INBOXES = {
    "_INBOX_cli.alice.x": Role.CLIENT,
    "_INBOX_cli.eye.x": Role.OBSERVER,
    "_INBOX_node.n1.x": Role.NODE,
    **dict.fromkeys((">", "*", "_INBOX_cli.>", "_INBOX_cli.bob.x", "_INBOX_cli.*.x", "_INBOX_node.>", "$SYS.>")),
}
"""Who may listen there, beside the control role at callers' inboxes."""


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[tuple[EmbeddedServer, Members]]:
    members = Members(tmp_path, {name: role for role, name in NAMES.items() if name})
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    async with EmbeddedServer(config) as server:
        yield server, members


def of_n1(row: Subject, user: str = "x") -> str:
    own = {"{node_id}": "n1", "{user}": user}
    return ".".join(own.get(part, "x" if part.startswith("{") else part) for part in row.address.split("."))


@pytest.mark.parametrize("role", list(NAMES))
async def test_claims_give_a_role_exactly_what_the_subject_table_gives_it(
    guarded: tuple[EmbeddedServer, Members], role: Role
) -> None:
    server, members = guarded
    raw = await Raw.open(server, lambda info: members.options(NAMES[role], info))
    wrong = []
    for row in SUBJECTS:
        asks = of_n1(row).replace(V1, f"{AS}{NAMES[role]}") if role in MEMBERS else of_n1(row)
        if await raw.may_publish(asks) != (role in row.by):
            wrong.append(f"publish {asks}")
        foreign = {of_n1(row), of_n1(row).replace(V1, f"{AS}bob"), row.all.replace(V1, f"{AS}*")} - {asks}
        if role in MEMBERS and any([await raw.may_publish(one) for one in foreign]):
            wrong.append(f"publish {row.address} under no or another name")
        if await raw.may_subscribe(of_n1(row, NAMES[role])) != (role in row.to):
            wrong.append(f"subscribe {row.address}")
        if role in MEMBERS and "{user}" in row.address and await raw.may_subscribe(of_n1(row, "bob")):
            wrong.append(f"another user's {row.address}")
        if role is Role.NODE and "{node_id}" in row.address:
            others = of_n1(row).replace("n1", "n2")
            if await raw.may_publish(others) or await raw.may_subscribe(others) or await raw.may_subscribe(row.all):
                wrong.append(f"another node's {row.address}")
    for inbox, owner in INBOXES.items():
        may_hear = role is owner or (role is Role.CONTROL and inbox.startswith("_INBOX_cli"))
        if await raw.may_subscribe(inbox) != may_hear:
            wrong.append(f"subscribe {inbox}")
    if await raw.may_publish("$SYS.REQ.CLAIMS.UPDATE"):
        wrong.append("publish to the server itself")
    await raw.close()
    assert wrong == []


class Here:
    """A fleet of which this process is the first machine."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.folder = folder
        self.server = server

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.server.port}"

    def config(self, name: str, prefix: str, creds: str = "") -> BusConfig:
        ca = str(self.folder / files.CA)
        creds_file = str(self.folder / creds) if creds else None
        return BusConfig(url=self.url, name=name, creds_file=creds_file, tls_ca_file=ca, inbox_prefix=prefix)

    @property
    def control(self) -> BusConfig:
        return self.config("control", CONTROL_INBOX_PREFIX, files.CONTROL_CREDENTIALS)

    def registrar(self) -> Registrar:
        config = RegistrarConfig(folder=str(self.folder))
        return Registrar(config, self.control)

    async def ask(self, bus: Bus, request: Invite | Revoke | ListMembers) -> FleetReply:
        reply = await bus.request(subjects.ADMIN_FLEET, encode(request))
        body = error_of(reply)
        if body is not None:
            raise SollolError(body=body)
        return decode(reply.data, FleetReply)

    async def join(self, secret: str, seed: str) -> JoinReply:
        bus = await Bus.connect(self.config("newcomer", NEWCOMER_INBOX_PREFIX))
        try:
            reply = await bus.request(subjects.JOIN, encode(JoinRequest(secret=secret, key=public_key(seed))))
        finally:
            await bus.close()
        body = error_of(reply)
        if body is not None:
            raise SollolError(body=body)
        return decode(reply.data, JoinReply)

    async def member(self, control: Bus, name: str, *, again: bool = False, role: Role = Role.CLIENT) -> Bus:
        invited = await self.ask(control, Invite(name=name, role=role, is_again=again))
        seed = new_seed(Kind.USER)
        joined = await self.join(tokens.read(invited.token).secret, seed)
        file = f"{name}-{again}.creds"
        (self.folder / file).write_text(creds_text(joined.claims, seed))
        return await Bus.connect(self.config(name, client_inbox_prefix(name), file))


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    folder = tmp_path / "fleet"
    folder.mkdir()
    text = await asyncio.to_thread(found, folder, ["127.0.0.1"], 4222, "n1", now=wall_s())
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=text)
    async with EmbeddedServer(config) as server:
        yield Here(folder, server)


@pytest.fixture
async def control(here: Here) -> AsyncIterator[Bus]:
    async with here.registrar():
        bus = await Bus.connect(here.control)
        yield bus
        await bus.close()


async def test_an_invitation_admits_once_under_its_name_and_role(here: Here, control: Bus) -> None:
    invited = await here.ask(control, Invite(name="alice", role=Role.CLIENT))
    assert [one.name for one in invited.invited] == ["alice"]
    token = tokens.read(invited.token)
    assert token.addresses == ("127.0.0.1:4222",)
    assert token.fingerprint == fingerprint((here.folder / files.CA).read_text())
    seed = new_seed(Kind.USER)
    joined = await here.join(token.secret, seed)
    assert joined.member is not None
    assert (joined.member.name, joined.member.role) == ("alice", Role.CLIENT)
    with pytest.raises(SollolError, match="used already"):
        await here.join(token.secret, new_seed(Kind.USER))
    with pytest.raises(SollolError, match="none of this fleet's"):
        await here.join("guessed", new_seed(Kind.USER))
    kept = (here.folder / files.AUTHORITY).read_text()
    assert token.secret not in kept
    assert "alice" in kept


async def test_a_newcomer_is_told_the_certificate_and_may_do_nothing_else(here: Here, control: Bus) -> None:
    newcomer = await Bus.connect(here.config("newcomer", NEWCOMER_INBOX_PREFIX))
    told = decode((await newcomer.request(subjects.JOIN, encode(JoinRequest()))).data, JoinReply)
    assert told == JoinReply(ca=(here.folder / files.CA).read_text())
    with pytest.raises(SollolError, match="may not publish"):
        await newcomer.request(subjects.ADMIN_FLEET, encode(ListMembers()))
    await newcomer.close()


async def test_who_is_revoked_is_cut_at_once_and_nobody_else_is(here: Here, control: Bus) -> None:
    alice, bob = await here.member(control, "alice"), await here.member(control, "bob")
    reply = await here.ask(control, Revoke(name="alice"))
    assert "alice" not in [one.name for one in reply.members]
    async with asyncio.timeout(60):
        await alice.closed.wait()
    assert "revoked" in alice.close_reason
    assert (bob.is_connected, bob.reconnects, control.reconnects) == (True, 0, 0)
    for _ in range(10):  # whatever comes first, the end of the connection or the reason for it
        with pytest.raises(ConfigError, match="Authorization Violation"):
            await Bus.connect(here.config("alice", client_inbox_prefix("alice"), "alice-False.creds"))
    await bob.close()


async def test_a_newcomer_cannot_have_the_registrar_speak_elsewhere(here: Here, control: Bus) -> None:
    heard: list[bytes] = []
    control.subscribe(subjects.ADMIN_STRATEGY, lambda msg: heard.append(msg.data))
    await control.flush()
    newcomer = await Bus.connect(here.config("newcomer", NEWCOMER_INBOX_PREFIX))
    for reply in (subjects.ADMIN_STRATEGY, "", "$KV.SOLLOL_SETTINGS.api_keys", "_INBOX_new.*", "_INBOX_cli.alice.x"):
        newcomer.publish(subjects.JOIN, encode(JoinRequest()), reply=reply)
        newcomer.publish(subjects.JOIN, b"garbage", reply=reply)
    told = await newcomer.request(subjects.JOIN, encode(JoinRequest()))  # behind them all on one connection
    assert decode(told.data, JoinReply).ca
    await control.flush()
    assert heard == []
    await newcomer.close()


async def test_fifty_streams_run_on_while_members_come_and_go(here: Here, control: Bus) -> None:
    bob = await here.member(control, "bob")
    node = await Bus.connect(here.config("n1", node_inbox_prefix("n1"), files.NODE_CREDENTIALS))
    heard: dict[str, list[int]] = {bob.new_inbox(): [] for _ in range(50)}
    for inbox, numbers in heard.items():
        bob.subscribe(inbox, lambda msg, numbers=numbers: numbers.append(int(msg.data)))  # type: ignore[misc]
    asked: list[str] = []
    node.subscribe(subjects.NODE_LEAVE.of("n1"), lambda msg: asked.append(msg.reply))
    await asyncio.gather(bob.flush(), node.flush())
    for inbox in heard:
        give(control, "n1", inbox)
    await eventually(lambda: asked == list(heard))
    is_over = asyncio.Event()

    async def stream() -> int:
        number = 0
        while not is_over.is_set():
            for inbox in heard:
                node.publish(inbox, str(number).encode())
            number += 1
            await asyncio.sleep(0.01)
        await node.flush()
        return number

    streaming = asyncio.get_running_loop().create_task(stream())
    for name in ("alice", "carol"):
        leaves = await here.member(control, name)
        fresh = await here.member(control, name, again=True)
        async with asyncio.timeout(60):
            await leaves.closed.wait()
        await here.ask(control, Revoke(name=name))
        async with asyncio.timeout(60):
            await fresh.closed.wait()
    is_over.set()
    told = await streaming
    await eventually(lambda: all(len(numbers) == told for numbers in heard.values()))
    assert all(numbers == list(range(told)) for numbers in heard.values())
    assert (bob.reconnects, node.reconnects, control.reconnects) == (0, 0, 0)
    await node.close()
    await bob.close()


async def test_invitations_and_revocations_are_told_for_the_trail_without_a_token(here: Here, control: Bus) -> None:
    heard: list[Act] = []
    control.subscribe(subjects.AUDIT_EVENT, lambda msg: heard.append(decode(msg.data, Act)))
    await (await here.member(control, "alice")).close()
    ACTING.set(Operator(who="olga", host="desk"))
    sign = signed(control, subjects.ADMIN_FLEET)
    await control.request(subjects.ADMIN_FLEET, encode(Revoke(name="alice")), headers=sign)
    await eventually(lambda: len(heard) == 2)
    assert [(one.act, one.target) for one in heard] == [("fleet.invite", "alice"), ("fleet.revoke", "alice")]
    assert heard[0].details == {"role": "client"}
    assert heard[1].by == Operator(who="olga", host="desk")


async def test_observers_are_told_of_everybodys_requests_without_being_asked(here: Here, control: Bus) -> None:
    await provision(control)
    await (await here.member(control, "eye", role=Role.OBSERVER)).close()

    async def sees_all() -> bool:
        return Roster(await StandingStore(control).load()).seen_by("eye") is None

    await eventually(sees_all)


async def test_who_is_revoked_stays_so_when_server_and_registrar_start_again(here: Here) -> None:
    async with here.registrar():
        control = await Bus.connect(here.control)
        alice = await here.member(control, "alice")
        await here.ask(control, Revoke(name="alice"))
        await alice.closed.wait()
        await control.close()
    await here.server.close()
    await here.server.start()
    with pytest.raises(ConfigError):
        await Bus.connect(here.config("alice", client_inbox_prefix("alice"), "alice-False.creds"))


async def test_new_credentials_end_the_old_ones_when_they_are_fetched(here: Here, control: Bus) -> None:
    old = await here.member(control, "alice")
    new = await here.member(control, "alice", again=True)
    async with asyncio.timeout(60):
        await old.closed.wait()
    assert new.is_connected
    await new.close()


async def test_newcomers_in_a_crowd_keep_no_operator_from_revoking(here: Here) -> None:
    async with here.registrar() as registrar:
        control = await Bus.connect(here.control)
        newcomer = await Bus.connect(here.config("newcomer", NEWCOMER_INBOX_PREFIX))
        refused: list[bool] = []
        newcomer.subscribe(inbox := newcomer.new_inbox(), lambda msg: refused.append(error_of(msg) is not None))
        async with registrar._changing:  # it is slow with what it has in hand
            for _ in range(40):
                newcomer.publish(subjects.JOIN, encode(JoinRequest()), reply=inbox)
            await newcomer.flush()
            await eventually(lambda: any(refused))
            asked = asyncio.get_running_loop().create_task(here.ask(control, ListMembers()))
            await control.flush()
        assert (await asked).members
        await newcomer.close()
        await control.close()


async def test_the_registrar_answers_whatever_strangers_send(here: Here, control: Bus) -> None:
    newcomer = await Bus.connect(here.config("newcomer", NEWCOMER_INBOX_PREFIX))
    for body in (b"", b"x", b'{"secret":1}', b'{"secret":"' + b"x" * 2000 + b'"}', msgspec.json.encode({"key": "U"})):
        reply = await newcomer.request(subjects.JOIN, body)
        assert error_of(reply) is not None or decode(reply.data, JoinReply).member is None
    for _ in range(100):
        newcomer.publish(subjects.JOIN, b"{}", reply=newcomer.new_inbox())
    await newcomer.flush()

    async def is_served() -> bool:
        return error_of(await newcomer.request(subjects.JOIN, encode(JoinRequest()))) is None

    await eventually(is_served)
    await newcomer.close()
