"""The fleet as NATS services: who takes what, and how much of it has come."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from nats.micro.service import ServiceInfo, ServiceStats

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import UnknownModel
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import subjects
from sollol_schemas.jobs import JobRef
from sollol_schemas.subjects import SUBJECTS, Role

ELSEWHERE = {subjects.JOIN, subjects.ADMIN_FLEET, subjects.ATTEMPT.all, subjects.JOB_SUBMIT.all}
"""Of the registrar, which only a fleet that knows its members has; of one attempt; and of JetStream."""


async def told_by_all(system: EmulatedSystem, verb: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    inbox = system.client.bus.reply_inbox(
        lambda msg: told.append(decode(msg.data, dict)) if isinstance(msg, Msg) else None
    )
    system.client.bus.publish(f"$SRV.{verb}", reply=inbox.subject)
    await eventually(lambda: {"sollol-dispatcher", "sollol-scorer", "sollol-recorder"} <= {one["name"] for one in told})
    await eventually(lambda: sum(one["name"] == "sollol-node" for one in told) == 2)
    inbox.close()
    return told


async def test_services_list_every_subject_with_its_messages_and_count_what_comes(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=2) as system:
        client = system.client
        infos = await told_by_all(system, "INFO")
        listed = {one["subject"]: one for info in infos for one in info["endpoints"]}
        for row in SUBJECTS:
            is_asked = row.reply and {Role.CONTROL, Role.NODE} & set(row.to) and row.all not in ELSEWHERE
            if is_asked:
                assert any(matches(row.all, subject) for subject in listed), row
        assert listed[subjects.JOB_GET]["queue_group"] == "dispatchers"
        assert listed[subjects.JOB_GET]["metadata"]["response_schema"] == "JobReply"
        assert listed[subjects.CHAT]["metadata"]["request_schema"] == "EngineRequest"
        for info in infos:
            assert ServiceInfo.from_dict(info).endpoints is not None
        for stats in await told_by_all(system, "STATS"):
            assert ServiceStats.from_dict(stats).started.year > 2000
        offices = {info["name"]: info["metadata"].get("office") for info in infos}
        assert (offices["sollol-scorer"], offices["sollol-recorder"]) == ("held", "held")
        assert {info["metadata"]["node_id"] for info in infos if info["name"] == "sollol-node"} == {"n1", "n2"}

        before = await counts(system)
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(client.generate(MODEL, "count down from 1"))
        for _ in range(10):
            await client.stats()
            await client.route(MODEL, "hello")
        await client.bus.request(subjects.JOB_CANCEL, encode(JobRef(job_id="unknown")))
        with pytest.raises(UnknownModel):
            await client.chat("unknown", [{"role": "user", "content": "hello"}])

        async def are_told() -> bool:  # a node's counts come with its next heartbeat
            return (await counts(system))["node-exec"][0] - before["node-exec"][0] >= 100

        await eventually(are_told)
        after = await counts(system)

    came = {name: after[name][0] - before[name][0] for name in after}
    assert (came["generate"], came["stats"], came["route"]) == (100, 10, 10)
    assert came["scorer-grant"] >= 100
    assert after["generate"][1] == 0
    assert after["generate"][2] > 0
    assert (came["jobs-cancel"], after["jobs-cancel"][1]) == (1, 1)
    assert (came["chat"], after["chat"][1]) == (1, 1)


async def counts(system: EmulatedSystem) -> dict[str, list[int]]:
    """Requests, errors and nanoseconds by the endpoint's name, of all instances."""
    summed: dict[str, Any] = {}
    for service in await told_by_all(system, "STATS"):
        for one in service["endpoints"]:
            told = (one["num_requests"], one["num_errors"], one["processing_time"])
            summed[one["name"]] = [a + b for a, b in zip(summed.get(one["name"], (0, 0, 0)), told, strict=True)]
    return summed


def matches(pattern: str, subject: str) -> bool:
    ours, theirs = pattern.split("."), subject.split(".")
    return len(ours) == len(theirs) and all(a in ("*", b) for a, b in zip(ours, theirs, strict=True))


async def test_streams_buckets_and_consumers_say_what_they_are_for(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, gateway=GatewayConfig(port=0)) as system:
        await system.client.jobs.end(await system.count(1), timeout_s=20)  # makes what jobs need
        js = system.client.bus.nats.jetstream()
        consumers = 0
        for stream in await js.streams_info():
            assert stream.config.description, stream.config.name
            for consumer in await js.consumers_info(str(stream.config.name)):
                assert consumer.config.description, consumer.name
                consumers += 1
        assert consumers >= len(subjects.JOB_PRIORITIES)
