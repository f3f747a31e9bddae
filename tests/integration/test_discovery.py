"""Discovery after ADR-32 on a real bus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.discovery import Discovery, own_card
from sollol_bus.transport.messages import Msg, decode
from sollol_bus.version import VERSION
from sollol_schemas import contract, subjects


@pytest.fixture
async def services(bus: Bus) -> AsyncIterator[list[Discovery]]:
    bus.serve(subjects.JOB_GET, lambda msg: bus.respond(msg, {}), queue=subjects.DISPATCHERS)
    made = [
        Discovery(
            bus,
            "sollol-test",
            own_card(bus, "sollol-test", instance, "Tests.", {"role": "test"}),
            instance=instance,
        )
        for instance in ("one", "two")
    ]
    for service in made:
        await service.start()
    await bus.flush()
    yield made
    for service in made:
        await service.close()


async def asked(bus: Bus, subject: str) -> dict[str, Any]:
    return decode((await bus.request(subject)).data, dict[str, Any])


async def test_every_instance_answers_a_ping_to_all(bus: Bus, services: list[Discovery]) -> None:
    seen: set[str] = set()

    def on_pong(msg: object) -> None:
        assert isinstance(msg, Msg)
        pong = decode(msg.data, dict[str, Any])
        assert pong["type"] == "io.nats.micro.v1.ping_response"
        seen.add(pong["id"])

    inbox = bus.reply_inbox(on_pong)
    for subject in ("$SRV.PING", "$SRV.PING.sollol-test"):
        seen.clear()
        bus.publish(subject, reply=inbox.subject)
        await eventually(lambda: seen == {"one", "two"})
    inbox.close()


async def test_an_instance_tells_its_endpoints(bus: Bus, services: list[Discovery]) -> None:
    info = await asked(bus, "$SRV.INFO.sollol-test.two")
    assert info["type"] == "io.nats.micro.v1.info_response"
    assert (info["name"], info["id"], info["version"]) == ("sollol-test", "two", VERSION)
    assert info["endpoints"] == [
        {
            "name": "jobs-get",
            "subject": "sollol.v1.jobs.get",
            "queue_group": "dispatchers",
            "metadata": {
                "request_schema": "JobGet",
                "response_schema": "JobReply",
                "roles": "client control",
                "members_subject": "sollol.v1.as.*.jobs.get",
            },
        }
    ]
    told = info["metadata"]
    assert told.pop("process")
    assert told == {"role": "test", "contract": str(contract.CONTRACT), "contract_oldest": str(contract.OLDEST)}


async def test_statistics_count_requests_and_errors(bus: Bus, services: list[Discovery]) -> None:
    for _ in range(100):
        await bus.request(subjects.JOB_GET)
    stats = await asked(bus, "$SRV.STATS.sollol-test.one")
    endpoint = stats["endpoints"][0]
    assert stats["type"] == "io.nats.micro.v1.stats_response"
    assert (endpoint["num_requests"], endpoint["num_errors"], endpoint["last_error"]) == (100, 0, "")
    assert 0 < endpoint["average_processing_time"] == endpoint["processing_time"] // 100
    assert stats["started"].endswith("Z")


async def test_secrets_in_the_headers_of_a_ping_are_not_echoed(bus: Bus, services: list[Discovery]) -> None:
    pong = await bus.request("$SRV.PING.sollol-test.one", headers={"authorization": "secret"})
    assert not pong.headers


async def test_an_answer_goes_to_an_inbox_or_nowhere(bus: Bus, services: list[Discovery]) -> None:
    overheard: list[bytes] = []
    bus.subscribe("sollol.v1.scorer.grant", lambda m: overheard.append(m.data))
    bus.publish("$SRV.INFO", reply="sollol.v1.scorer.grant")
    await asked(bus, "$SRV.PING.sollol-test.one")
    await bus.flush()
    assert overheard == []


@pytest.mark.shutdown
async def test_a_stopped_service_is_gone(bus: Bus, services: list[Discovery]) -> None:
    await services[0].close()
    await services[0].close()
    seen: set[str] = set()

    def on_pong(msg: object) -> None:
        assert isinstance(msg, Msg)
        seen.add(decode(msg.data, dict[str, Any])["id"])

    inbox = bus.reply_inbox(on_pong)
    bus.publish("$SRV.PING.sollol-test", reply=inbox.subject)
    await eventually(lambda: bool(seen))
    await bus.flush()
    assert seen == {"two"}
    inbox.close()
