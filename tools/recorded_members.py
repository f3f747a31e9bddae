"""What is said on a fleet that knows its members alone: who is invited, joins and is revoked, and leave to speak."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_agents.registrar import config as files
from sollol_agents.registrar.actor import Registrar
from sollol_agents.registrar.config import RegistrarConfig
from sollol_agents.registrar.founding import found
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.trust import tokens
from sollol_bus.trust.authority import Authority
from sollol_bus.trust.claims import Kind, creds_text, new_seed, public_key, user_claims
from sollol_schemas import subjects
from sollol_schemas.inboxes import (
    CONTROL_INBOX_PREFIX,
    NEWCOMER_INBOX_PREFIX,
    client_inbox_prefix,
    node_inbox_prefix,
)
from sollol_schemas.members import FleetReply, Invite, JoinReply, JoinRequest, ListMembers, Revoke
from sollol_schemas.subjects import Role

_NODE: Final = "n1"
_MODEL: Final = "m:latest"
_BODY: Final = encode({"model": _MODEL, "prompt": "count down from 200", "stream": True})


class MembersFleet:
    """A fleet that knows its members, encrypted from the first byte, with one node and everything else.

    Args:
        folder: Where it keeps its files.
        hear: Given a connection that may listen everywhere.
    """

    def __init__(self, folder: Path, hear: Callable[[Bus], object]) -> None:
        self._folder = folder
        self._hear = hear

    def _bus(self, name: str, prefix: str, creds: str = "", *, url: str = "") -> BusConfig:
        creds_file = str(self._folder / creds) if creds else None
        ca = str(self._folder / files.CA)
        return BusConfig(
            url=url or self._url, name=name, user=name, creds_file=creds_file, tls_ca_file=ca, inbox_prefix=prefix
        )

    async def run(self) -> None:
        """Everything that is said there once."""
        text = await asyncio.to_thread(found, self._folder, ["127.0.0.1"], 4222, _NODE, now=wall_s())
        config = EmbeddedServerConfig(port=0, store_dir=str(self._folder / "nats"), extra_config=text)
        async with AsyncExitStack() as floor:
            server = await floor.enter_async_context(EmbeddedServer(config))
            self._url = f"tls://127.0.0.1:{server.port}"
            ear = await self._everywhere()
            floor.push_async_callback(ear.close)
            self._hear(ear)
            await ear.flush()
            control = self._bus("control", CONTROL_INBOX_PREFIX, files.CONTROL_CREDENTIALS)
            for actor in (
                Registrar(RegistrarConfig(folder=str(self._folder)), control),
                Scorer(ScorerConfig(warm_up_s=0.3), control),
                Dispatcher(DispatcherConfig(drain_timeout_s=1.0), control),
            ):
                await floor.enter_async_context(actor)
            engine = EmulatorConfig(model=("m=1",), preload=("m",), decode_tps=200.0)
            link = await floor.enter_async_context(Link(f"nats://127.0.0.1:{server.port}"))
            node = NodeConfig(
                node_id=_NODE, engine="ollama", url=(await floor.enter_async_context(EmulatedNode(engine))).url
            )
            line = link.url.replace("nats:", "tls:")
            own = self._bus(_NODE, node_inbox_prefix(_NODE), files.NODE_CREDENTIALS, url=line)
            await floor.enter_async_context(NodeMonitor(node, own))
            await self._come_and_go(link)
            await ear.flush()

    async def _everywhere(self) -> Bus:
        """Somebody whom the account's own key lets do everything."""
        authority = decode((self._folder / files.AUTHORITY).read_bytes(), Authority)
        seed = new_seed(Kind.USER)
        claims = user_claims(authority.account_seed, public_key(seed), "ear", now=wall_s())
        (self._folder / "ear.creds").write_text(creds_text(claims, seed))
        return await Bus.connect(self._bus("ear", "_INBOX_ear", "ear.creds"))

    async def _come_and_go(self, link: Link) -> None:
        control = await Bus.connect(self._bus("control", CONTROL_INBOX_PREFIX, files.CONTROL_CREDENTIALS))
        reply = await control.request(subjects.ADMIN_FLEET, encode(Invite(name="alice", role=Role.CLIENT)))
        secret = tokens.read(decode(reply.data, FleetReply).token).secret
        newcomer = await Bus.connect(self._bus("", NEWCOMER_INBOX_PREFIX))
        seed = new_seed(Kind.USER)
        asked = JoinRequest(secret=secret, key=public_key(seed), machine="laptop")
        joined = decode((await newcomer.request(subjects.JOIN, encode(asked))).data, JoinReply)
        await newcomer.close()
        (self._folder / "alice.creds").write_text(creds_text(joined.claims, seed))
        alice = await Bus.connect(self._bus("alice", client_inbox_prefix("alice"), "alice.creds"))
        heard: list[Msg] = []
        alice.subscribe(inbox := alice.new_inbox(), heard.append)
        alice.publish(subjects.GENERATE, _BODY, reply=inbox)
        await eventually(lambda: len(heard) > 2, complaint="it streams")
        link.cut()  # on its next connection the node asks for leave to go on
        await eventually(lambda: not heard[-1].data, within_s=20, complaint="the stream ends")
        await alice.close()
        await control.request(subjects.ADMIN_FLEET, encode(ListMembers()))
        await control.request(subjects.ADMIN_FLEET, encode(Revoke(name="alice")))
        await control.close()
