"""compose.yaml is valid, and its commands work: here without containers, on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.servers import NatsServer, deployed, routes_of
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.jetstream.api import api
from sollol_bus.transport.connection import Bus, BusConfig

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose.yaml"
MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)

pytestmark = [
    pytest.mark.skipif(not COMPOSE.is_file(), reason="compose.yaml is in the checkout only"),
]


def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return loaded


def commands() -> list[list[str]]:
    """What the services without a profile run with the entry point `sollol`; ports are replaced by free ones."""
    return [
        ["127.0.0.1" if part == "0.0.0.0" else "0" if part in ("8000", "8080") else part for part in service["command"]]
        for service in services().values()
        if "profiles" not in service and "entrypoint" not in service and "command" in service
    ]


async def test_the_file_is_valid_in_every_profile() -> None:
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is not installed")
    process = await asyncio.create_subprocess_exec(
        tool,
        *("--profile", "gpu", "--profile", "cluster", "--profile", "observe", "config", "--quiet"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def test_every_service_is_complete_and_publishes_nothing_beyond_the_loopback() -> None:
    for name, service in services().items():
        assert "image" in service, name
        assert service["restart"] == "unless-stopped", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert all(volume.partition(":")[0] for volume in service.get("volumes", ())), name
    assert {"scorer", "dispatcher", "recorder", "gateway", "node"} <= {command[0] for command in commands()}


def test_the_image_holds_what_the_services_call() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for copied in ("sollol_bus", "agents", "schemas", "deploy", "README.md", "LICENSE", "CHANGELOG.md"):
        assert copied in text
        assert (ROOT / copied).exists(), copied
    assert 'ENTRYPOINT ["sollol"]' in text
    assert "USER sollol" in text


@pytest.mark.parametrize("name", ["nats.conf", "nats-cluster.conf", "hub.conf", "leaf.conf"])
def test_a_server_shows_nobody_who_uses_it(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith(("http", "monitor_port"))] == []


async def test_its_commands_make_a_working_system(fleet: ProcessFleet, tmp_path: Path) -> None:
    port = free_port()
    config = (ROOT / "deploy" / "nats.conf").read_text(encoding="utf-8")
    async with NatsServer(tmp_path, "nats", config.replace("4222", str(port))):
        fleet.nats_url = f"nats://127.0.0.1:{port}"
        engine = await fleet.emulator("ollama", *FLAGS)
        for number, command in enumerate(commands()):
            argv = [engine.url if part.startswith("http://ollama") else part for part in command]
            await start_patiently(fleet, argv, f"{argv[0]}-{number}", tmp_path)
        await fleet.joined("ollama")
        async with fleet.client() as client:
            assert (await client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]
        for child in reversed(fleet.children):
            await child.close()


async def test_three_servers_outlive_the_death_of_one(
    fleet: ProcessFleet, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    config = (ROOT / "deploy" / "nats-cluster.conf").read_text(encoding="utf-8")
    config = config.replace("include ./nats.conf", (ROOT / "deploy" / "nats.conf").read_text(encoding="utf-8"))
    ports = {name: (free_port(), free_port()) for name in ("nats-1", "nats-2", "nats-3")}
    routes = routes_of((f"nats://127.0.0.1:{route}" for _, route in ports.values()), "of-the-test")
    urls = ",".join(f"nats://127.0.0.1:{client}" for client, _ in ports.values())
    async with contextlib.AsyncExitStack() as floor:
        servers = []
        for name, (client_port, route) in ports.items():
            own = config.replace("port: 4222", f"port: {client_port}").replace("port: 6222", f"port: {route}")
            servers.append(await floor.enter_async_context(NatsServer(tmp_path, name, own, routes)))
        fleet.nats_url = urls
        engine = await fleet.emulator("ollama", *FLAGS)
        for number, command in enumerate(commands()):
            argv = [engine.url if part.startswith("http://ollama") else part for part in command]
            await start_patiently(fleet, argv, f"{argv[0]}-{number}", tmp_path, SOLLOL_NATS_STREAM_REPLICAS="3")
        await fleet.joined("ollama")
        assert await replicas(urls) == 3
        servers[0].kill()
        loop = asyncio.get_running_loop()
        killed_at = loop.time()
        async with fleet.client() as client:

            async def is_answered() -> bool:
                try:
                    return (await client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]
                except SollolError:
                    return False  # the cluster is choosing its leaders

            await eventually(is_answered, complaint="an answer from the rest of the cluster")
        figure(f"an answer {loop.time() - killed_at:.1f} s after kill -9 of one of three servers")
        for child in reversed(fleet.children):
            await child.close()


async def test_a_server_without_the_password_of_the_routes_hears_nothing(tmp_path: Path) -> None:
    async def started(name: str, ways: list[int], password: str) -> str:
        client, route = free_port(), free_port()
        listens = {"port: 4222": client, "port: 6222": route}
        own = await deployed(ROOT / "deploy", "nats-cluster.conf", listens)
        routes = routes_of([f"nats://127.0.0.1:{way}" for way in (route, *ways)], password)
        await floor.enter_async_context(NatsServer(tmp_path, name, own, routes))
        doors.append(route)
        return f"nats://127.0.0.1:{client}"

    async def connected(url: str) -> Bus:
        buses: list[Bus] = []

        async def is_there() -> bool:
            try:
                buses.append(await Bus.connect(BusConfig(url=url)))
            except ConfigError:
                return False
            return True

        await eventually(is_there)
        floor.push_async_callback(buses[0].close)
        return buses[0]

    doors: list[int] = []
    heard: dict[str, list[bytes]] = {"friend": [], "stranger": []}
    async with contextlib.AsyncExitStack() as floor:
        first = await connected(await started("first", [], "right"))
        for name, password in (("friend", "right"), ("stranger", "wrong")):
            bus = await connected(await started(name, doors[:1], password))
            bus.subscribe("sollol.v1.generate", lambda msg, name=name: heard[name].append(msg.data))  # type: ignore[misc]
            await bus.flush()

        def is_heard() -> bool:
            first.publish("sollol.v1.generate", b"a prompt")
            return heard["friend"] != []

        await eventually(is_heard)
    assert heard["stranger"] == []


async def start_patiently(fleet: ProcessFleet, argv: list[str], name: str, folder: Path, **environ: str) -> None:
    """Starts an actor again until it stays, as `restart: unless-stopped` does while the servers come up."""
    database = {"SOLLOL_RECORDER_DATABASE": str(folder / "recorder.sqlite3")}

    async def is_started() -> bool:
        try:
            await fleet.sollol(argv[0], *argv[1:], "--nats", fleet.nats_url, name=name, **database, **environ)
        except ConfigError:
            return False  # JetStream has no leader yet
        return True

    await eventually(is_started, complaint=name)


async def replicas(urls: str) -> int:
    bus = await Bus.connect(BusConfig(url=urls))
    try:
        info = yaml.safe_load(await api(bus, "STREAM.INFO.SOLLOL_EVENTS", {}))
        return int(info["config"]["num_replicas"])
    finally:
        await bus.close()
