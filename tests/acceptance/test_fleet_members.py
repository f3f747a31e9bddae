"""A fleet that knows its members, as people make it: three machines, each a folder of its own, and a command each."""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from sollol_agents.cli.commands.doctor_kept import UNSEEN
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.processes import Done, ProcessFleet, sollol
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig

MODEL = "llama3.2:3b"


class Machine:
    """A folder that stands for a machine: what its `sollol` finds there and nowhere else."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.environ = {"HOME": str(folder), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}
        self.settings = folder / ".config" / "sollol" / "sollol.toml"

    async def run(self, *argv: str, **environ: str) -> Done:
        return await sollol("", *argv, stdin=b"", **{**self.environ, **environ})

    async def told(self, *argv: str) -> str:
        """What a command printed that succeeded."""
        done = await self.run(*argv)
        assert done.code == 0, done.err
        return done.out


@asynccontextmanager
async def first_machine(fleet: ProcessFleet, tmp_path: Path) -> AsyncIterator[Machine]:
    first = Machine(tmp_path / "first")
    port = free_port()
    await first.told("fleet", "init", "--host", "127.0.0.1", "--port", str(port), "--no-start")
    ports = ("--http-port", "0", "--dashboard-port", "0", "--no-local-node")
    up = await fleet.sollol("up", *ports, **first.environ)
    assert up.served["nats"].endswith(f":{port}")
    yield first


async def token_of(first: Machine, *what: str) -> str:
    lines = (await first.told(*what)).split()
    return next(word for word in lines if word.startswith("sollol-"))


async def test_two_machines_join_with_a_line_each_and_what_is_revoked_is_out(
    fleet: ProcessFleet, tmp_path: Path
) -> None:
    async with first_machine(fleet, tmp_path) as first:
        desk, app = Machine(tmp_path / "desk"), Machine(tmp_path / "app")
        engine = await fleet.emulator("desk", "--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)
        token = await token_of(first, "invite", "node", "desk")
        node = await fleet.sollol("join", token, name="desk", **desk.environ, SOLLOL_NODE_URL=engine.url)
        for machine in (first, desk):
            kept = [path for path in machine.settings.parent.rglob("*") if path.is_file()]
            assert kept
            assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in kept), kept
        said = await app.told("join", await token_of(first, "invite", "client", "app"))
        assert "app is a member" in said

        async def is_answered() -> bool:
            return "2 1 0" in (await app.run("generate", MODEL, "count down from 3")).out

        await eventually(is_answered)
        assert "desk" in await app.told("nodes")
        refused = await app.run("drain", "desk")
        assert refused.code != 0
        assert "may not publish" in refused.err
        assert "`sollol invite operator NAME`" in refused.err
        assert len(refused.err.splitlines()) == 1
        unasked = await desk.run("nodes")
        assert "`sollol invite client NAME`" in unasked.err
        assert len(unasked.err.splitlines()) == 1
        looked = await desk.run("doctor", "--json")
        assert looked.code == 0, looked.out
        assert [found["found"] for found in looked.json if found["check"] == "fleet"] == [UNSEEN.found]
        assert [found for found in looked.json if found["level"] == "problem"] == []
        assert looked.err == ""
        members = await first.told("fleet", "list")
        assert [name in members for name in ("control", "desk", "app")] == [True] * 3

        assert "is revoked" in await first.told("fleet", "revoke", "desk")
        await asyncio.wait_for(node.wait(), 15)
        again = await desk.run("nodes")
        assert again.code != 0
        assert "desk" not in await first.told("fleet", "list")
        assert (await app.run("nodes")).code == 0


async def test_a_token_that_cannot_be_used_says_why(fleet: ProcessFleet, tmp_path: Path) -> None:
    async with first_machine(fleet, tmp_path) as first:
        app, other = Machine(tmp_path / "app"), Machine(tmp_path / "other")
        token = await token_of(first, "invite", "client", "app")
        cut = await app.run("join", token[:-12])
        assert "token" in cut.err
        await app.told("join", token)
        used = await other.run("join", token)
        assert (used.code != 0, "used already" in used.err) == (True, True)
        assert not other.settings.exists()
        member = await app.run("join", token)
        assert "belongs to a fleet" in member.err
        aside = {"XDG_CONFIG_HOME": str(tmp_path / "aside")}
        both = await app.run("join", await token_of(first, "invite", "client", "both"), **aside)
        assert "both is a member" in both.out
        assert (await app.run("nodes", **aside)).code == 0
        twice = await first.run("invite", "client", "app")
        assert "sollol fleet rotate app" in twice.err
        await app.told("join", "--force", await token_of(first, "fleet", "rotate", "app"))
        assert (await app.run("nodes")).code == 0
        attic = Machine(tmp_path / "attic")
        said = await attic.told("join", "--service", await token_of(first, "invite", "node", "attic"))
        units = [path for path in attic.settings.parents[1].rglob("*") if "sollol-node" in path.name]
        assert [str(path) in said for path in units] == [True]


async def test_another_fleet_in_between_gets_no_secret(fleet: ProcessFleet, tmp_path: Path) -> None:
    """Whoever answers at the address without the authority's key sees that somebody came, and no more."""
    async with first_machine(fleet, tmp_path) as first:
        app = Machine(tmp_path / "app")
        token = await token_of(first, "invite", "client", "app")
        await fleet.children[-1].close()
        port = token_port(token)
        stranger = Machine(tmp_path / "stranger")
        await stranger.told("fleet", "init", "--host", "127.0.0.1", "--port", str(port), "--no-start")
        ports = ("--http-port", "0", "--dashboard-port", "0", "--no-local-node")
        await fleet.sollol("up", *ports, name="stranger", **stranger.environ)
        refused = await app.run("join", token)
        assert refused.code != 0
        assert "is not the one of the fleet that invited you" in refused.err
        assert not app.settings.exists()


def token_port(token: str) -> int:
    from sollol_bus.trust.tokens import read

    return int(read(token).addresses[0].rpartition(":")[2])


async def test_a_gateway_that_others_reach_speaks_https_with_the_fleets_certificate(
    fleet: ProcessFleet, tmp_path: Path
) -> None:
    first, port = Machine(tmp_path / "first"), free_port()
    await first.told("fleet", "init", "--host", "127.0.0.1", "--port", str(port), "--no-start")
    reached = {"SOLLOL_GATEWAY_HOST": "0.0.0.0", "SOLLOL_GATEWAY_REQUIRE_KEY": "true"}
    up = await fleet.sollol("up", "--http-port", "0", "--no-dashboard", "--no-local-node", **first.environ, **reached)
    scheme, _, address = up.served["http"].partition("://")
    assert scheme == "https"
    url = f"https://localhost:{address.rpartition(':')[2]}"
    ca = ssl.create_default_context(cafile=str(first.settings.parent / "fleet" / "ca.pem"))
    key = (await first.told("keys", "create", "laptop")).split()
    secret = next(word for word in key if word.startswith("sk-sollol-"))
    async with httpx.AsyncClient(base_url=url, verify=ca) as http:
        assert (await http.get("/api/tags")).status_code == 401
        told = await http.get("/api/tags", headers={"authorization": f"Bearer {secret}"})
        assert told.json() == {"models": []}
    async with httpx.AsyncClient() as stranger:
        with pytest.raises(httpx.ConnectError):
            await stranger.get(f"{url}/api/tags")
        with pytest.raises(httpx.RemoteProtocolError):
            await stranger.get(f"{url.replace('https', 'http')}/api/tags")


async def test_a_server_of_ones_own_knows_the_fleet_too(fleet: ProcessFleet, tmp_path: Path) -> None:
    """It includes a file; the actors and the registrar are processes of their own on the same machine."""
    first, app = Machine(tmp_path / "first"), Machine(tmp_path / "app")
    port, included = free_port(), tmp_path / "fleet.conf"
    told = await first.told(
        "fleet", "init", "--host", "127.0.0.1", "--port", str(port), "--server-config", str(included)
    )
    assert str(included) in told
    assert stat.S_IMODE(included.stat().st_mode) == 0o600
    config = EmbeddedServerConfig(port=port, store_dir=str(tmp_path / "nats"), extra_config="include ../fleet.conf")
    async with EmbeddedServer(config):
        for actor in ("registrar", "scorer", "dispatcher"):
            await fleet.sollol(actor, **first.environ)
        await app.told("join", await token_of(first, "invite", "client", "app"))
        assert (await app.run("nodes")).code == 0
        assert (await app.run("drain", "x")).code != 0
    elsewhere = Machine(tmp_path / "elsewhere")
    refused = await elsewhere.run("registrar")
    assert "sollol fleet init" in refused.err
