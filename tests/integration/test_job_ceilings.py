"""How many jobs of a caller may wait or run, on a real bus: by publish, by request and through a gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.js.errors import APIError

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import QueueFull
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.jetstream.job_streams import job_streams
from sollol_bus.jetstream.streams import provision
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import make_job
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.trust.callers import Roster, named
from sollol_bus.trust.job_room import JobRoom, stored_subjects
from sollol_bus.trust.standings import StandingStore
from sollol_schemas import stores, subjects
from sollol_schemas.callers import Standing, Standings
from sollol_schemas.jobs import Job
from sollol_schemas.subjects import Role

ROLES = {"alice": Role.CLIENT, "bob": Role.CLIENT, "control": Role.CONTROL}


class Desk:
    """A fleet of no nodes, so that all jobs wait; alice may have three."""

    def __init__(self, floor: AsyncExitStack, members: Members, url: str) -> None:
        self.url = url
        self._floor = floor
        self._members = members

    async def begin(self) -> None:
        control = await self.client("control")
        await StandingStore(control.bus).change(named("alice", max_jobs=3))
        config = self._members.bus_config("control", self.url)
        await self._floor.enter_async_context(Scorer(ScorerConfig(), config))
        dispatcher = await self._floor.enter_async_context(Dispatcher(DispatcherConfig(drain_timeout_s=0.1), config))
        room = dispatcher._jobs._room
        room._look_again_s = 0.2
        await eventually(lambda: room.most("alice") == 3)

    async def client(self, user: str) -> Client:
        return await self._floor.enter_async_context(Client(self._members.bus_config(user, self.url)))

    async def foreign(self, user: str) -> NatsClient:
        nc = await nats.connect(
            self.url, user_credentials=self._members.creds_file(user), inbox_prefix=f"_INBOX_cli.{user}".encode()
        )
        self._floor.push_async_callback(nc.close)
        return nc


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    members = Members(tmp_path, ROLES)
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    async with AsyncExitStack() as floor:
        url = (await floor.enter_async_context(EmbeddedServer(config))).url
        desk = Desk(floor, members, url)
        await desk.begin()
        yield desk


def job() -> Job:
    return make_job({"model": "m", "prompt": "x"})


async def test_a_fourth_job_that_a_member_publishes_is_refused(desk: Desk) -> None:
    alice, bob = await desk.foreign("alice"), await desk.foreign("bob")
    body = json.dumps({"model": "m", "prompt": "x"}).encode()
    for number in range(3):
        await alice.jetstream(timeout=10).publish(f"sollol.v1.as.alice.jobs.submit.5.j{number}", body)
    with pytest.raises(APIError, match="sollol fleet limit alice --jobs NUMBER") as caught:
        await alice.jetstream(timeout=10).publish("sollol.v1.as.alice.jobs.submit.5.j3", body)
    assert caught.value.err_code == 10077
    for number in range(4):
        await bob.jetstream(timeout=10).publish(f"sollol.v1.as.bob.jobs.submit.5.j{number}", body)


async def test_a_fourth_job_that_a_member_asks_for_is_refused_until_one_has_ended(desk: Desk) -> None:
    alice, control = await desk.client("alice"), await desk.client("control")
    first = await alice.jobs.submit(job())
    await alice.jobs.submit(job(), delay_s=600)
    await alice.jobs.submit(job(), job_id="mine")
    with pytest.raises(QueueFull, match="alice may have 3 jobs") as caught:
        await alice.jobs.submit(job())
    assert caught.value.retry_after_s == 2.0
    assert await alice.jobs.submit(job(), job_id="mine") == "mine"
    with pytest.raises(QueueFull, match="alice may have 3 jobs"):
        await alice.jobs.submit_many([job()])
    for _ in range(4):
        await control.jobs.submit(job())
    await alice.jobs.cancel(first)

    async def is_let_in() -> bool:
        try:
            await alice.jobs.submit(job(), job_id="next")
        except QueueFull:
            return False
        return True

    await eventually(is_let_in)


@asynccontextmanager
async def queue(tmp_path: Path) -> AsyncIterator[Bus]:
    async with EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(tmp_path))) as server:
        bus = await Bus.connect(BusConfig(url=server.url))
        try:
            await provision(bus, streams=job_streams())
            yield bus
        finally:
            await bus.close()


async def test_a_gateway_holds_a_key_to_its_ceiling_while_no_dispatcher_is_there(tmp_path: Path) -> None:
    roster = Roster(Standings(callers={"key-a": Standing(max_jobs=2)}))
    async with queue(tmp_path) as bus, Client(bus) as client:
        room = JobRoom(bus, lambda: roster)
        jobs = client.jobs.of("key-a", lambda: room.enter("key-a"))
        for _ in range(2):
            await jobs.submit(job())
        with pytest.raises(QueueFull, match="key-a may have 2 jobs"):
            await jobs.submit(job())
        assert len(await stored_subjects(bus, stores.JOBS_STREAM)) == 2


async def test_subjects_are_told_however_large_their_list_is(tmp_path: Path) -> None:
    async with queue(tmp_path) as bus:
        for number in range(2000):
            bus.publish(subjects.JOB_SUBMIT.of(5, f"{'alice' * 12}={number:056}"), b"{}")
        await publish_acked(bus, subjects.JOB_SUBMIT.of(5, "last"), b"{}")
        assert len(await stored_subjects(bus, stores.JOBS_STREAM)) == 2001
