"""An answer of which not even the beginning came through begins anew."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sollol_agents.lab.testing.played_fleet import PlayedFleet, Reader
from sollol_bus.sdk.call import Call
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas import headers as h
from sollol_schemas import subjects


@pytest.fixture
async def other(nats_server: EmbeddedServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(BusConfig(url=nats_server.url, name="other"))
    yield bus
    await bus.close()


async def test_an_answer_whose_first_message_was_lost_begins_anew(bus: Bus, other: Bus) -> None:
    fleet = PlayedFleet(other)
    await other.flush()
    async with Call(bus, subjects.GENERATE, b'{"model":"m","prompt":"hi"}') as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say("two", skip=1)
        await fleet.request(2)
        assert h.CONTINUE not in fleet.headers()
        fleet.say("one ", "two", node="cellar")
        fleet.end(eval_count=2)
        await reader.task
        assert reader.text == "one two"
