"""A disk that is small, or full for a while: what is kept is cut to its size, and requests go on without the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.stack import LocalStack
from sollol_bus.errors import ActorStopped, BusError
from sollol_bus.jetstream.api import api
from sollol_bus.jetstream.job_streams import job_streams
from sollol_bus.jetstream.streams import STREAMS, provision
from sollol_bus.sdk.jobs import make_job
from sollol_bus.server.room import ON_ABOVE_BYTES, is_room
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import decode

MIB = 1 << 20
JOB = make_job({"model": MODEL, "prompt": "count down from 2"})


class Disk:
    """A disk whose free bytes a test sets."""

    def __init__(self, free: int) -> None:
        self.free = free

    def __call__(self, _folder: Path) -> int:
        return self.free


def server_on(disk: Disk, folder: Path) -> EmbeddedServer:
    return EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "nats")), free=disk)


async def bytes_of(bus: Bus, stream: str) -> int:
    info = decode(await api(bus, f"STREAM.INFO.{stream}"), dict)
    return int(info["config"]["max_bytes"])


async def test_a_small_disk_is_shared_out_and_started_on_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        async with server_on(Disk(400 * MIB), tmp_path) as server:
            bus = await Bus.connect(BusConfig(url=server.url))
            try:
                await provision(bus, streams=(*STREAMS, *job_streams()))
                kept = [await bytes_of(bus, stream) for stream in ("SOLLOL_EVENTS", "SOLLOL_RESULTS")]
            finally:
                await bus.close()
            assert all(8 * MIB <= size <= 300 * MIB for size in kept), kept
            assert sum(kept) <= server.store_bytes


async def test_each_bounded_stream_of_a_stack_gets_a_quarter_of_what_its_server_may_keep(tmp_path: Path) -> None:
    async with LocalStack(store_dir=tmp_path) as stack:
        assert stack.server is not None
        assert stack.bus_config.stream_bytes == stack.server.store_bytes // 4
        assert "max_file_store" in (stack.server.store_dir / "nats-server.conf").read_text()


def test_room_that_is_gone_is_back_only_with_something_to_spare() -> None:
    assert [is_room(free * MIB, was=was) for free, was in ((17, True), (15, True), (17, False), (33, False))] == [
        True,
        False,
        False,
        True,
    ]


async def test_requests_go_on_while_the_disk_is_full_and_jobs_are_taken_again_once_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(10_000 * MIB)
    async with (
        server_on(disk, tmp_path) as server,
        EmulatedSystem(tmp_path, gateway=GatewayConfig(port=0), stack={"bus": BusConfig(url=server.url)}) as s,
    ):
        kept = await s.client.jobs.submit(JOB)
        assert (await s.client.wait_for_task(kept, timeout_s=20)).text.split() == ["1", "0"]
        assert (await s.http.get("/readyz")).json() == {"status": "ready"}

        disk.free = 0
        await eventually(lambda: not server.room.is_on)
        served = 0
        for _ in range(12):  # longer than an office lasts that is not renewed
            answer = await s.http.post(
                "/api/generate", json={"model": MODEL, "prompt": "count down from 300", "stream": False}
            )
            assert answer.status_code == 200, answer.text
            served += 1
        refused = await s.http.post("/api/jobs", json={"body": {"model": MODEL, "prompt": "x"}})
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        with pytest.raises((ActorStopped, BusError)):
            await s.client.jobs.submit(JOB)
        ready = await s.http.get("/readyz")
        assert (ready.status_code, "disk is full" in ready.json()["store"]) == (200, True)
        assert "the disk is full: JetStream rests" in caplog.text

        disk.free = ON_ABOVE_BYTES

        async def takes_jobs() -> bool:
            try:
                await s.client.jobs.submit(JOB, job_id="after")
            except (ActorStopped, BusError):
                return False
            return True

        await eventually(takes_jobs)
        assert (await s.client.wait_for_task("after", timeout_s=20)).text.split() == ["1", "0"]
        assert (await s.client.wait_for_task(kept, timeout_s=20)).text.split() == ["1", "0"]
        assert (await s.http.get("/readyz")).json() == {"status": "ready"}
        assert served == 12
