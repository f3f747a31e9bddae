"""What the jobs make of a server that answers halfway or strangely: an error, never a wrong answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.dispatcher.jobs.listing import Listing
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BusError, NotConnected
from sollol_bus.jetstream.server_time import ServerTime
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg
from sollol_schemas import stores

_WITHOUT_JETSTREAM = "jetstream: disabled"


def no_task(coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
    raise AssertionError(f"{name} is not wanted here")


@pytest.fixture
async def plain_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server whose JetStream is a double of the test."""
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=_WITHOUT_JETSTREAM)
    async with EmbeddedServer(config) as server:
        yield server


@pytest.fixture
async def jetstream(plain_server: EmbeddedServer) -> AsyncIterator[Bus]:
    """The connection of the double."""
    connected = await Bus.connect(BusConfig(url=plain_server.url, name="jetstream"))
    yield connected
    await connected.close()


@pytest.fixture
async def bus(plain_server: EmbeddedServer) -> AsyncIterator[Bus]:
    connected = await Bus.connect(BusConfig(url=plain_server.url, name="jobs"))
    yield connected
    await connected.close()


@pytest.mark.parametrize("told", ["", "soon", "2026-01-31T18:00:00"])
async def test_a_server_that_does_not_tell_its_time_is_an_error_that_is_waited_out(
    bus: Bus, jetstream: Bus, told: str
) -> None:
    info = {"state": {}, "ts": told}
    jetstream.subscribe(f"$JS.API.STREAM.INFO.{stores.JOBS_STREAM}", lambda m: jetstream.respond(m, info))
    await jetstream.flush()
    with pytest.raises(BusError, match="time"):
        await ServerTime(bus, no_task, stores.JOBS_STREAM).compare()


async def test_a_list_that_the_connection_cuts_off_is_an_error_and_no_shorter_list(
    plain_server: EmbeddedServer, bus: Bus, jetstream: Bus
) -> None:
    states = f"KV_{stores.JOBS_BUCKET}"
    info = {"state": {"messages": 2, "first_seq": 1, "last_seq": 2}}
    begun: list[Msg] = []
    jetstream.subscribe(f"$JS.API.STREAM.INFO.{states}", lambda m: jetstream.respond(m, info))
    jetstream.subscribe(f"$JS.API.DIRECT.GET.{states}", begun.append)
    await jetstream.flush()

    async def listed() -> list[str]:
        return [status.job_id async for status in Listing(bus).every()]

    listing = asyncio.create_task(listed())  # noqa: TID251 the test ends it
    await eventually(lambda: len(begun) == 1)
    await plain_server.kill()
    with pytest.raises(NotConnected):
        await listing
