"""Who asks, on a server that knows its members: the name is the server's word, and answers reach that user alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import NotPermitted
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.subjects import Role


class Fleet:
    """A server, and somebody of the control role who writes down what is asked."""

    def __init__(self, url: str, members: Members, floor: AsyncExitStack) -> None:
        self.url = url
        self.members = members
        self._floor = floor
        self.heard: list[Msg] = []

    async def connect(self, name: str) -> Bus:
        """As a stranger's program would: an address and a file."""
        bus = await Bus.connect(BusConfig(url=self.url, creds_file=self.members.creds_file(name)))
        self._floor.push_async_callback(bus.close)
        return bus

    async def serve(self) -> None:
        bus = await Bus.connect(self.members.bus_config("control", self.url))
        self._floor.push_async_callback(bus.close)

        def answer(msg: Msg) -> None:
            self.heard.append(msg)
            bus.answer(msg, b"heard")

        bus.serve(subjects.CHAT, answer, queue=subjects.DISPATCHERS)
        bus.serve(subjects.WHY.all, answer)
        await bus.flush()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    roles = {"alice": Role.CLIENT, "eve": Role.CLIENT, "eye": Role.OBSERVER, "control": Role.CONTROL}
    members = Members(tmp_path, roles)
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    async with AsyncExitStack() as floor:
        server = await floor.enter_async_context(EmbeddedServer(config))
        made = Fleet(server.url, members, floor)
        await made.serve()
        yield made


async def test_who_asks_is_who_the_server_says(fleet: Fleet) -> None:
    alice, eye = await fleet.connect("alice"), await fleet.connect("eye")
    lies = {h.CALLER: "bob", h.JOB: "j1", h.JOB_PLACE: "1 1 0", h.NUMBER: "9", h.REQUEST_ID: "r1"}
    assert (await alice.request(subjects.CHAT, b"hello", headers=lies)).data == b"heard"
    assert (await eye.request(subjects.WHY.of("r1"))).data == b"heard"
    chat, why = fleet.heard
    assert (chat.subject, chat.data) == (subjects.CHAT, b"hello")
    assert chat.headers == {h.CALLER: "alice", h.REQUEST_ID: "r1"}
    assert (why.subject, why.headers) == (subjects.WHY.of("r1"), {h.CALLER: "eye"})


async def test_nobody_passes_its_ceiling_by_saying_that_it_waited_for_days(fleet: Fleet) -> None:
    alice = await fleet.connect("alice")
    for told in ("2592000", "7.5", "inf", "nan", "soon"):
        await alice.request(subjects.CHAT, headers={h.WAITED: told})
    assert [(msg.headers or {})[h.WAITED] for msg in fleet.heard] == ["60", "7.5", "60", "60", "0"]


async def test_nobody_asks_in_anothers_name_or_in_none(fleet: Fleet) -> None:
    eve = await fleet.connect("eve")
    refused: list[str] = []
    eve.on_refused(refused.append)
    for subject in (f"{subjects.AS}alice.chat", subjects.CHAT, f"{subjects.AS}*.chat"):
        await eve.nats.publish(subject)  # past our own naming
    await eventually(lambda: len(refused) == 3)
    assert fleet.heard == []


async def test_an_answer_reaches_none_but_who_asked(fleet: Fleet) -> None:
    """Whoever names another's inbox, a stored subject or a foreign prefix as reply is not heard at all."""
    alice, eve = await fleet.connect("alice"), await fleet.connect("eve")
    forged: list[Msg] = []
    inbox = alice.new_inbox()
    alice.subscribe(inbox, forged.append)
    for reply in (inbox, "_INBOX.x", "_INBOX_cli.evening.x", "$KV.SOLLOL_SETTINGS.api_keys", "_INBOX_ctl.x"):
        eve.publish(subjects.CHAT, reply=reply)
    eve.publish(subjects.CHAT, reply=eve.new_inbox(), headers={h.CONTROL_INBOX: inbox})
    assert (await eve.request(subjects.CHAT, b"last")).data == b"heard"
    assert [msg.data for msg in fleet.heard] == [b"last"]
    await alice.flush()
    assert forged == []


async def test_who_may_not_ask_is_told_so_at_once(fleet: Fleet) -> None:
    eye = await fleet.connect("eye")
    with pytest.raises(NotPermitted):
        await eye.request(subjects.CHAT, timeout_s=30)
