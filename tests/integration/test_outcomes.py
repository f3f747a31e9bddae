"""Publishing outcomes while JetStream comes and goes."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from sollol_agents.lab.testing.messages import outcome
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.jetstream.api import api
from sollol_bus.jetstream.outcomes import OutcomePublisher, message_id
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_schemas import stores
from sollol_schemas.events import OutcomeStatus, ReportedBy


async def stored(bus: Bus) -> int:
    info = msgspec.json.decode(await api(bus, f"STREAM.INFO.{stores.EVENTS_STREAM}"))
    count: int = info["state"]["messages"]
    return count


async def test_every_outcome_is_stored_once_although_it_is_published_twice(bus: Bus) -> None:
    await provision(bus)
    publisher = OutcomePublisher(bus, window=16)
    for _ in range(2):
        for n in range(100):
            publisher.publish(outcome(f"r{n}-1"))
    assert await publisher.flush() == 0
    assert await stored(bus) == 100
    assert publisher.stored == 200


async def test_the_nodes_report_is_stored_beside_the_loss_that_was_presumed(bus: Bus) -> None:
    await provision(bus)
    publisher = OutcomePublisher(bus)
    publisher.publish(outcome("r-1", status=OutcomeStatus.PRESUMED_LOST, by=ReportedBy.DISPATCHER))
    publisher.publish(outcome("r-1", status=OutcomeStatus.PRESUMED_LOST, by=ReportedBy.SCORER))
    publisher.publish(outcome("r-1"))
    await publisher.flush()
    assert await stored(bus) == 2


@pytest.mark.parametrize(
    ("status", "by", "expected"),
    [
        (OutcomeStatus.FAILED, ReportedBy.NODE, "r-1"),
        (OutcomeStatus.PRESUMED_LOST, ReportedBy.DISPATCHER, "r-1.presumed"),
        (OutcomeStatus.PRESUMED_LOST, ReportedBy.SCORER, "r-1.presumed"),
        (OutcomeStatus.CLIENT_ERROR, ReportedBy.DISPATCHER, "r-1.dispatcher"),
    ],
)
def test_message_ids_keep_reporters_apart(status: OutcomeStatus, by: ReportedBy, expected: str) -> None:
    assert message_id(outcome("r-1", status=status, by=by)) == expected


async def test_outcomes_of_an_outage_are_stored_when_the_server_is_back(nats_server: EmbeddedServer, bus: Bus) -> None:
    await provision(bus)
    publisher = OutcomePublisher(bus)
    publisher.publish(outcome("before-1"))
    await publisher.flush()
    await nats_server.kill()
    await eventually(lambda: not bus.is_connected)
    for n in range(50):
        publisher.publish(outcome(f"r{n}-1"))
    assert publisher.pending == 50
    await nats_server.start()
    await eventually(lambda: publisher.pending == 0)
    assert await stored(bus) == 51


async def test_outcomes_wait_for_a_stream_that_is_not_there_yet(bus: Bus) -> None:
    publisher = OutcomePublisher(bus)
    publisher.publish(outcome("r-1"))
    await asyncio.wait_for(bus.flush(), 5)
    assert publisher.pending == 1
    await provision(bus)
    await eventually(lambda: publisher.pending == 0)
    assert await stored(bus) == 1


async def test_the_oldest_are_dropped_and_counted_when_the_buffer_is_full(
    nats_server: EmbeddedServer, bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    await provision(bus)
    publisher = OutcomePublisher(bus, capacity=10)
    await nats_server.kill()
    await eventually(lambda: not bus.is_connected)
    with caplog.at_level(logging.WARNING):
        for n in range(25):
            publisher.publish(outcome(f"r{n}-1"))
    assert publisher.dropped == 15
    assert sum("were dropped" in r.message for r in caplog.records) == 4  # at 1, 2, 4 and 8
    await nats_server.start()
    await eventually(lambda: publisher.pending == 0)
    first = msgspec.json.decode(await api(bus, f"STREAM.INFO.{stores.EVENTS_STREAM}"))["state"]
    assert first["messages"] == 10


async def test_what_is_handed_over_last_is_stored_before_the_publisher_closes(bus: Bus) -> None:
    await provision(bus)
    publisher = OutcomePublisher(bus)
    publisher.publish(outcome("r-1"))
    await publisher.close()
    assert await stored(bus) == 1


async def test_nothing_is_tried_again_once_the_bus_is_closed(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    publisher = OutcomePublisher(bus)
    await publisher.start()
    await bus.close()
    await bus.closed.wait()
    publisher.publish(outcome("r-1"))
    assert (publisher.stored, publisher.dropped, publisher.pending) == (0, 1, 0)
    assert "1 outcomes are given up" in caplog.text
    async with asyncio.timeout(1):
        await publisher.close()


async def test_a_closed_publisher_tries_nothing_again(bus: Bus) -> None:
    publisher = OutcomePublisher(bus)  # no stream is there
    publisher.publish(outcome("r-1"))
    await publisher.flush(timeout_s=0.05)
    await publisher.close()
    await eventually(lambda: publisher.pending == 0)
    await provision(bus)
    assert await stored(bus) == 0


async def test_a_flush_ends_at_its_deadline_and_says_what_is_left(bus: Bus) -> None:
    publisher = OutcomePublisher(bus)
    publisher.publish(outcome("r-1"))
    assert await publisher.flush(timeout_s=0.05) == 1
    await publisher.close()
