"""A node gets leave to speak with its first `go`, where its server asks for that, and none elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.keeping import Keeping
from sollol_agents.dispatcher.leaves import Leaves
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.dispatcher import PlayedDispatcher
from sollol_agents.lab.testing.keeping import Owner
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.node_stage import MODEL, NODE
from sollol_agents.lab.testing.scripted import BODY, ScriptedNode, ScriptedScorer
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus.jetstream.streams import provision
from sollol_bus.sdk.call import Call
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, error_of
from sollol_schemas import subjects
from sollol_schemas.execution import AttemptAccepted, AttemptStart
from sollol_schemas.inboxes import CLIENT_INBOX_PREFIX, node_inbox_prefix
from sollol_schemas.subjects import Role

WORK = {"model": MODEL, "messages": [{"role": "user", "content": "count 3"}]}
CONFINED = """
no_auth_user: n1
authorization { users: [
  { user: control, password: c }
  { user: n1, password: n, permissions: {
    publish: { allow: ["sollol.>", "_INBOX_node.>"] }
    subscribe: { allow: [">"] }
    allow_responses: { max: -1, expires: "900s" } } }
] }
"""
"""A server that asks for no credentials, and yet lets nodes speak with leave alone."""


class Scene:
    """A node in front of an engine; the test is its dispatcher and its caller, a real one keeps claims and leaves."""

    def __init__(self, control: Bus, node: NodeMonitor, leaves: Leaves) -> None:
        self.control = control
        self.dispatcher = PlayedDispatcher(control, NODE)
        self.node = node
        self._leaves = leaves

    def chat(self) -> str:
        """Sends an exec, and returns the inbox of its caller."""
        heard = self.dispatcher.heard = []
        inbox = self.control.new_inbox()
        self.control.subscribe(inbox, heard.append)
        ticket = self._leaves.ticket(NODE, inbox, 60.0)
        self.dispatcher.send(self.node.instance, WORK, reply_to=inbox, ticket=ticket)
        return inbox

    async def is_answered(self) -> bool:
        """Whether the caller hears an answer that is whole; returns with its end."""
        heard = self.dispatcher.heard
        await eventually(lambda: bool(heard) and not heard[-1].data)
        return len(heard) > 1 and error_of(heard[-2]) is None


@asynccontextmanager
async def scene(tmp_path: Path, extra_config: str, as_control: BusConfig, as_node: BusConfig) -> AsyncIterator[Scene]:
    """A scene on a server of this configuration."""
    async with AsyncExitStack() as floor:
        config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=extra_config)
        server = await floor.enter_async_context(EmbeddedServer(config))
        control = await Bus.connect(msgspec.structs.replace(as_control, url=server.url))
        floor.push_async_callback(control.close)
        await provision(control)
        owner = Owner()
        await floor.enter_async_context(Keeping(control, owner.spawn))
        leaves = await floor.enter_async_context(Leaves(control, owner.spawn))
        engine = await floor.enter_async_context(EmulatedNode(EmulatorConfig(preset="instant", model=("countdown=1",))))
        config_of_node = NodeConfig(node_id=NODE, engine="ollama", url=engine.url)
        node = NodeMonitor(config_of_node, msgspec.structs.replace(as_node, url=server.url))
        await floor.enter_async_context(node)
        yield Scene(control, node, leaves)


@pytest.fixture
async def members_scene(tmp_path: Path) -> AsyncIterator[Scene]:
    members = Members(tmp_path, {"control": Role.CONTROL, NODE: Role.NODE})
    control, node = (members.bus_config(name, "") for name in ("control", NODE))
    control = msgspec.structs.replace(control, inbox_prefix=CLIENT_INBOX_PREFIX)  # it is the caller, too
    async with scene(tmp_path, members.server_config, control, node) as made:
        yield made


async def test_nobody_gets_leave_where_the_server_lets_everybody_speak(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=1, decode_tps=2000.0) as here:
        given: list[Msg] = []
        here.client.bus.subscribe(subjects.NODE_LEAVE.all, given.append)
        await here.client.bus.flush()
        assert (await here.client.generate("m:latest", "count down from 3")).text.split() == ["2", "1", "0"]
        await here.client.bus.flush()
        assert given == []


async def test_among_members_leave_comes_with_the_first_go(members_scene: Scene) -> None:
    inbox = members_scene.chat()
    assert await members_scene.is_answered()
    assert members_scene.dispatcher.given == [inbox]


async def test_a_node_whose_dispatcher_is_gone_gets_leave_from_another_before_it_speaks(members_scene: Scene) -> None:
    refused: list[str] = []
    members_scene.node.bus.on_refused(refused.append)
    members_scene.dispatcher.reporting.unsubscribe()
    await members_scene.control.flush()
    members_scene.chat()
    assert await members_scene.is_answered()
    assert members_scene.dispatcher.given == refused == []


async def test_a_server_that_asks_for_nothing_and_yet_refuses_is_found_out(tmp_path: Path) -> None:
    as_control = BusConfig(user="control", password="c", inbox_prefix=CLIENT_INBOX_PREFIX)
    async with scene(tmp_path, CONFINED, as_control, BusConfig(inbox_prefix=node_inbox_prefix(NODE))) as here:
        here.chat()
        assert not await here.is_answered()
        inbox = here.chat()
        assert await here.is_answered()
        assert here.dispatcher.given == [inbox]


@pytest.mark.parametrize(("is_open", "times"), [(False, 2), (True, 0)])
async def test_leave_comes_with_each_go_as_the_one_before_may_be_lost_with_its_go(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus, is_open: bool, times: int
) -> None:
    ScriptedScorer(actors_bus, ["n2"])
    node = ScriptedNode(actors_bus, "n2")
    given: list[str] = []
    actors_bus.subscribe(subjects.NODE_LEAVE.of("n2"), lambda msg: given.append(msg.reply))
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: bool(node.execs))
        attempt = node.execs[0].attempt_id
        node.report(attempt, AttemptAccepted(attempt_id=attempt, instance="i1", is_open=is_open))
        node.report(attempt, AttemptStart(attempt_id=attempt))
        await eventually(lambda: node.answers == [True, True])
        assert given == [node.reply_to[attempt]] * times
        node.first(attempt)
        node.finish(attempt)
        assert [msg.data async for msg in call] == [b'{"response":"a"}']
