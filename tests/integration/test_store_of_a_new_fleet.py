"""A machine that worked openly becomes the first of a fleet, or an older version did: what it has is still there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.testing.members import Members
from sollol_agents.registrar import config as files
from sollol_agents.registrar.config import RegistrarConfig
from sollol_agents.registrar.founding import found
from sollol_agents.stack import LocalStack
from sollol_bus.errors import ConfigError
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.jetstream.job_streams import job_streams
from sollol_bus.jetstream.stored import stored_message
from sollol_bus.jetstream.streams import STREAMS, provision
from sollol_bus.server.rights import Permissions, permissions
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.server.store import adopt_streams
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas import stores, subjects
from sollol_schemas.subjects import Role

SUBMIT = subjects.JOB_SUBMIT.of("5", "accepted")


def server_of(folder: Path, members: Members | None) -> EmbeddedServer:
    extra = members.server_config if members is not None else ""
    return EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "nats"), extra_config=extra))


def members_in(folder: Path) -> Members:
    folder.mkdir()
    return Members(folder, {"control": Role.CONTROL})


async def test_jobs_and_keys_of_an_open_store_are_the_fleets(tmp_path: Path) -> None:
    async with server_of(tmp_path, None) as server:
        bus = await Bus.connect(BusConfig(url=server.url))
        await provision(bus, streams=(*STREAMS, *job_streams()))
        key, _ = await KeyStore(bus).create("laptop")
        await publish_acked(bus, SUBMIT, b'{"body":{"model":"m"}}')
        await bus.close()
    members = members_in(tmp_path / "fleet")
    for _ in range(2):  # and once more: what was moved stays
        async with server_of(tmp_path, members) as server:
            bus = await Bus.connect(members.bus_config("control", server.url))
            await provision(bus, streams=(*STREAMS, *job_streams()))
            assert [one.key_id for one in (await KeyStore(bus).load()).keys] == [key.key_id]
            job = await stored_message(bus, stores.JOBS_STREAM, subject=SUBMIT)
            assert job is not None
            await publish_acked(bus, subjects.JOB_SUBMIT.of("5", "another"), b"{}")
            await bus.close()


async def test_where_several_accounts_have_stored_a_person_is_asked(tmp_path: Path) -> None:
    members = await asyncio.to_thread(members_in, tmp_path / "fleet")
    store = tmp_path / "nats"
    for account in ("$G", "AOTHER"):
        (store / "jetstream" / account / "streams" / "SOLLOL_JOBS").mkdir(parents=True)
    with pytest.raises(ConfigError, match="2 accounts"):
        await asyncio.to_thread(adopt_streams, store, members.server_config)
    assert await asyncio.to_thread(adopt_streams, store, "") == "", "an open server moves nothing"
    with pytest.raises(ConfigError, match="2 accounts"):
        async with server_of(tmp_path, members):
            pass


async def test_the_first_start_after_rights_changed_cuts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server cuts whoever is connected when it is told that the rights of their role are others now."""
    folder = tmp_path / "fleet"
    folder.mkdir()

    def earlier(role: Role, name: str) -> Permissions:
        now = permissions(role, name)
        return msgspec.structs.replace(now, publish=now.publish[:-1])

    with monkeypatch.context() as older:
        older.setattr("sollol_bus.trust.authority.permissions", earlier)
        text = await asyncio.to_thread(found, folder, ["127.0.0.1"], 4222, "n1", now=wall_s())
    creds, ca = str(folder / files.CONTROL_CREDENTIALS), str(folder / files.CA)
    stack = LocalStack(
        store_dir=tmp_path,
        bus=BusConfig(url="", creds_file=creds, tls_ca_file=ca),
        server=EmbeddedServerConfig(extra_config=text),
        registrar=RegistrarConfig(folder=str(folder)),
    )
    async with stack:
        cut = [actor.name for actor in stack.actors if actor.bus.reconnects]
    assert cut in ([], ["registrar"])
