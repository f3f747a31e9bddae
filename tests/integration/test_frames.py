"""Random broken messages on every subject: nobody goes deaf, nothing comes again for ever. `bench.frames` has more."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from bench.frames import Hearing, unsettled
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.frames import CANARY, Sender, frames
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import NoResponders
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.jetstream.streams import StreamSpec, provision
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.discovery import find_services
from sollol_bus.transport.messages import decode, encode, error_of
from sollol_schemas import subjects
from sollol_schemas.events import BreakerEvent, BreakerState
from sollol_schemas.jobs import JobListReply, JobListRequest
from sollol_schemas.queries import RecentReply, RecentRequest

COUNT = 400


def test_the_same_seed_makes_the_same_frames_on_every_subject() -> None:
    made = list(frames(7, COUNT))
    assert made == list(frames(7, COUNT))
    assert made != list(frames(8, COUNT))
    asked = {frame.subject.removeprefix(b"sollol.v1.").split(b".")[0] for frame in made}
    assert {row.address.split(".")[2].encode() for row in subjects.SUBJECTS} <= asked


async def test_no_actor_is_deaf_and_nothing_comes_again_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmulatedSystem(tmp_path, gateway=GatewayConfig(port=0)) as system:
        bus = system.client.bus
        hearing = Hearing(bus)
        pings = {s.name: f"$SRV.PING.{s.name}.{s.id}" for s in await find_services(bus)}
        sender = Sender(bus.config.url)
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(hearing.listen(pings))
            for frame in frames(11, COUNT):
                await sender.send(frame)
            listening.cancel()
        await sender.close()
        assert (await system.client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]
        job_id = await system.count(3)
        assert (await system.client.wait_for_task(job_id, timeout_s=20)).text.split() == ["2", "1", "0"]

        async def is_settled() -> bool:
            return not await unsettled(bus)

        await eventually(is_settled, complaint="nothing comes again")
        assert {"sollol-scorer", "sollol-dispatcher", "sollol-recorder", "sollol-gateway"} <= set(hearing.longest_s)
        assert bus.reconnects == 0
    assert not [r for r in caplog.records if r.exc_info], "nothing was an accident"
    assert not [r for r in caplog.records if CANARY in r.getMessage()]
    assert {r.levelno for r in caplog.records} <= {logging.DEBUG, logging.INFO, logging.WARNING}


async def test_what_is_no_job_is_not_stored_and_does_not_spoil_the_list(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as system:
        bus = system.client.bus
        for subject in ("sollol.v1.jobs.delayed.x.j1", "sollol.v1.jobs.due.x.j2", "sollol.v1.jobs.submit.11.j3"):
            with pytest.raises(NoResponders):
                await publish_acked(bus, subject, b"{}")
        await publish_acked(bus, subjects.JOB_DELAYED.of("5", "$no-id"), b"{}")
        reply = await bus.request(subjects.JOB_LIST, encode(JobListRequest()))
        assert decode(reply.data, JobListReply).jobs == ()


async def test_an_event_under_the_subject_of_another_kind_is_not_recorded(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as system:
        bus = system.client.bus
        event = BreakerEvent(node_id="n1", state=BreakerState.OPEN)
        await publish_acked(bus, subjects.NODE_EVENT.of("n1", "up"), encode(event))
        await publish_acked(bus, subjects.NODE_EVENT.of("n1", "up"), b'{"a":' * 20_000)
        assert (await system.client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]

        async def is_recorded() -> bool:
            reply = await bus.request(subjects.RECENT, encode(RecentRequest()))
            return error_of(reply) is None and bool(decode(reply.data, RecentReply).outcomes)

        await eventually(is_recorded, complaint="what was recorded can be read")
        assert not await unsettled(bus)


async def test_a_message_at_which_its_taker_always_fails_comes_a_few_times_and_no_more(bus: Bus) -> None:
    await provision(bus, streams=(StreamSpec(name="S", subjects=("s",)),))
    taken: list[int] = []

    def fail(delivery: Delivery) -> None:
        taken.append(delivery.deliveries)
        raise LookupError("a defect")

    consumer = PullConsumer(bus, ConsumerSpec(stream="S", durable="d", ack_wait_s=0.2), fail, window=4)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(consumer.run())
        await publish_acked(bus, "s", b"x")

        async def is_over() -> bool:
            return bool(taken) and not await unsettled(bus)

        await eventually(is_over, complaint="it comes no more")
        running.cancel()
    assert taken[:5] == [1, 2, 3, 4, 5]
    assert len(taken) < 10  # one more may be on its way when the server is told that it is over
