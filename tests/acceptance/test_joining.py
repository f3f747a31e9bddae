"""Starting and joining: addresses that are wrong, what is used when several are given, and secrets in them."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from sollol_agents.lab.testing import processes
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig

SECRET = "geheim"


COMMANDS = (("nodes",), ("generate", "m", "hi"), ("doctor",), ("node",), ("gateway",), ("up",))


@pytest.mark.parametrize(
    ("address", "commands"),
    [("", COMMANDS), (" ", COMMANDS[-1:]), (f"nats://me:{SECRET}@host:port", COMMANDS[-2:])],
    ids=["empty", "blank", "malformed"],
)
async def test_an_address_that_is_none_is_one_line_and_an_exit_code_for_every_command(
    address: str, commands: tuple[tuple[str, ...], ...], tmp_path: Path
) -> None:
    for argv in commands:
        done = await processes.sollol("", *argv, SOLLOL_NATS=address, XDG_STATE_HOME=str(tmp_path))
        assert (done.code, len(done.err.splitlines())) == (2, 1), (argv, done.err)
        assert "SOLLOL_NATS is empty" in done.err or "address of a NATS server" in done.err
        assert SECRET not in done.err + done.out


async def test_a_port_for_a_server_of_its_own_wins_over_a_server_that_the_environment_names(
    fleet: ProcessFleet,
) -> None:
    up = await fleet.up(SOLLOL_NATS="nats://127.0.0.1:1")
    assert fleet.nats_url != "nats://127.0.0.1:1"
    assert "the one in SOLLOL_NATS is not used" in await up.log_text()
    done = await processes.sollol("", "up", "--nats", fleet.nats_url, "--nats-port", "0")
    assert (done.code, done.err) == (2, "sollol: --nats and --nats-port exclude each other; give one of them\n")


async def test_a_user_in_an_address_is_used_and_shown_nowhere(fleet: ProcessFleet, tmp_path: Path) -> None:
    users = f'authorization {{ user: "me", password: "{SECRET}" }}'
    async with EmbeddedServer(
        EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=users)
    ) as server:
        address = server.url.replace("nats://", f"nats://me:{SECRET}@")
        flags = ("--http-port", "0", "--no-dashboard", "--no-local-node", "--store-dir", str(tmp_path / "up"))
        up = await fleet.sollol("up", *flags, SOLLOL_NATS=address)
        assert up.served["nats"] == server.url
        engine = await fleet.emulator("attic")
        url = engine.url.replace("http://", f"http://me:{SECRET}@")
        node = await fleet.sollol("node", "--id", "attic", SOLLOL_NATS=address, SOLLOL_NODE_URL=url)
        shown = [str(up.served), str(node.served), await up.log_text(), await node.log_text()]
        for argv in (("nodes", "--json"), ("doctor",), ("models",), ("discover", url)):
            done = await processes.sollol("", *argv, SOLLOL_NATS=address)
            assert done.code == 0, done
            shown += [done.out, done.err]
        assert engine.url in shown[4]
        assert not [text for text in shown if SECRET in text]


async def test_a_gateway_on_ollamas_own_port_is_no_node_of_its_fleet(fleet: ProcessFleet, tmp_path: Path) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 11434)) == 0:
            pytest.skip("something listens on port 11434 of this machine")
    ports = ("--nats-port", "0", "--http-port", "11434", "--no-dashboard", "--store-dir", str(tmp_path / "up"))
    up = await fleet.sollol("up", *ports)
    assert "node" not in up.served
    done = await processes.sollol(up.served["nats"], "node", "--id", "loop", "--url", up.served["http"])
    assert done.code == 2
    assert "gateway of this node's own fleet is no engine" in done.err.splitlines()[-1]
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        assert (await http.get(f"{up.served['http']}/api/tags")).json() == {"models": []}


async def test_a_node_that_starts_before_its_server_says_so_and_joins_when_there_is_one(
    fleet: ProcessFleet, tmp_path: Path
) -> None:
    port = free_port()
    flags = ("--nats", f"nats://127.0.0.1:{port}", "--id", "early", "--url", "http://127.0.0.1:9")
    starting = asyncio.create_task(fleet.sollol("node", *flags))  # noqa: TID251 a test's own task
    await eventually(lambda: says(tmp_path / "node.log", "Tried again until there is one"))
    async with EmbeddedServer(EmbeddedServerConfig(port=port, store_dir=str(tmp_path / "nats"))):
        node = await starting
        assert node.exit_code is None
        await node.close()


async def test_an_actor_that_waits_for_its_server_ends_at_once_when_it_is_told_to(tmp_path: Path) -> None:
    log_file = tmp_path / "gateway.log"
    argv = (sys.executable, "-m", "sollol_agents.cli", "gateway", "--port", "0", "--nats", "nats://127.0.0.1:9")
    with log_file.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(*argv, stderr=errors, env=processes.clean_environ())
    await eventually(lambda: says(log_file, "does `sollol up` run there"))
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 5) == 0


def says(log_file: Path, words: str) -> bool:
    return log_file.exists() and words.lower() in log_file.read_text().lower()


async def test_an_address_without_a_server_is_told_without_its_password() -> None:
    done = await processes.sollol("", "nodes", SOLLOL_NATS=f"nats://me:{SECRET}@127.0.0.1:1")
    assert (done.code, SECRET in done.err) == (3, False)
    assert "127.0.0.1:1" in done.err
