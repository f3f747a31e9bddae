"""Jobs with credentials: each role can do with them what it should, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import Cancelled, NotPermitted, SollolError
from sollol_bus.jetstream.api import api, publish_acked
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import make_job
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import stores, subjects
from sollol_schemas.jobs import JobRef, JobResult, JobState
from sollol_schemas.routing import Routing
from sollol_schemas.subjects import Role

ROLES = {
    "alice": Role.CLIENT,
    "bob": Role.CLIENT,
    "n1": Role.NODE,
    "control": Role.CONTROL,
    "observer": Role.OBSERVER,
}
MODEL = "m:latest"
NOWHERE = Routing(node_id="absent", strict=True)


class Guarded:
    """A fleet whose every part has the rights of its role and no more."""

    def __init__(self, floor: AsyncExitStack, url: str, members: Members) -> None:
        self._floor = floor
        self._members = members
        self._url = url

    async def client(self, user: str) -> Client:
        return await self._floor.enter_async_context(Client(self._members.bus_config(user, self._url)))


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    members = Members(tmp_path, ROLES)
    server = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    engine_config = EmulatorConfig(model=("m=1",), preload=("m",), parallel=4, decode_tps=2000)
    async with AsyncExitStack() as floor:
        url = (await floor.enter_async_context(EmbeddedServer(server))).url
        engine = await floor.enter_async_context(EmulatedNode(engine_config))
        control = members.bus_config("control", url)
        await floor.enter_async_context(Scorer(ScorerConfig(), control))
        await floor.enter_async_context(Dispatcher(DispatcherConfig(job_inline_bytes=1024), control))
        node = NodeConfig(node_id="n1", url=engine.url, engine="ollama", slots=4)
        await floor.enter_async_context(NodeMonitor(node, members.bus_config("n1", url)))
        yield Guarded(floor, url, members)


async def test_a_client_submits_follows_fetches_cancels_and_is_called_back(guarded: Guarded) -> None:
    alice = await guarded.client("alice")
    by_request = await alice.generate_async(MODEL, "count down from 3")
    assert (await alice.wait_for_task(by_request, timeout_s=30)).text.split() == ["2", "1", "0"]
    job = make_job({"model": MODEL, "prompt": "count down from 500"})
    (by_publish,) = await alice.jobs.submit_many([job])
    large = await alice.wait_for_task(by_publish, timeout_s=30)
    assert large.result is not None
    assert large.result.object_name, "the dispatcher fetched it from the object store"
    assert len(large.text.split()) == 500
    heard: list[JobResult] = []
    alice.bus.subscribe("callbacks.alice", lambda m: heard.append(decode(m.data, JobResult)))
    await alice.jobs.submit(
        make_job({"model": MODEL, "prompt": "count down from 1"}, callback_subject="callbacks.alice")
    )
    await eventually(lambda: bool(heard))
    stuck = await alice.jobs.submit(make_job({"model": MODEL, "prompt": "x"}, routing=NOWHERE))
    assert stuck in [one.job_id for one in (await alice.jobs.latest("queued")).jobs]
    await alice.jobs.cancel(stuck)
    with pytest.raises(Cancelled):
        await alice.wait_for_task(stuck, timeout_s=10)


async def test_an_observer_looks_on_and_neither_submits_nor_steers(guarded: Guarded) -> None:
    alice, observer = await guarded.client("alice"), await guarded.client("observer")
    done = await alice.generate_async(MODEL, "count down from 2")
    assert (await alice.wait_for_task(done, timeout_s=30)).text.split() == ["1", "0"]
    assert (await observer.jobs.latest()).jobs == (), "an observer sees how many wait"
    assert (await observer.jobs.dead()).jobs == ()
    for steering in (
        observer.jobs.get(done),
        observer.generate_async(MODEL, "x"),
        observer.jobs.submit_many([make_job({"model": MODEL, "prompt": "x"})]),
        observer.jobs.cancel(done),
        observer.jobs.retry(done),
        observer.jobs.purge(),
    ):
        with pytest.raises(NotPermitted):
            await steering


async def test_only_the_control_role_forgets_jobs(guarded: Guarded) -> None:
    alice, control = await guarded.client("alice"), await guarded.client("control")
    done = await alice.generate_async(MODEL, "count down from 1")
    await alice.wait_for_task(done, timeout_s=30)
    with pytest.raises(NotPermitted):
        await alice.jobs.purge(job_id=done)
    assert await control.jobs.purge(job_id=f"alice={done}") == 1


@pytest.mark.parametrize("user", ["alice", "n1", "observer"])
async def test_nobody_but_the_control_role_writes_what_stands_for_the_end_of_a_job(guarded: Guarded, user: str) -> None:
    control, forger = await guarded.client("control"), await guarded.client(user)
    stuck = await control.jobs.submit(make_job({"model": MODEL, "prompt": "x"}, routing=NOWHERE))
    forged = encode(JobResult(job_id=stuck, state=JobState.DONE, body=msgspec.Raw(b'{"response":"forged"}')))
    for subject in (
        subjects.JOB_RESULT.of(stuck),
        subjects.JOB_LETTER.of(stuck),
        subjects.JOB_CALLBACK.of(stuck),
        subjects.JOB_DUE.of(5, stuck),
        subjects.JOB_DELAYED.of(5, stuck),
        f"$KV.{stores.JOBS_BUCKET}.job.{stuck}",
        f"$JS.API.STREAM.MSG.DELETE.{stores.JOBS_STREAM}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stores.JOBS_STREAM}.p5",
    ):
        with pytest.raises(NotPermitted):
            await publish_acked(forger.bus, subject, forged)
    forger.bus.publish(subjects.JOB_EVENT.of(stuck, "done"), forged)
    assert (await control.jobs.get(stuck)).state is JobState.QUEUED
    info = msgspec.json.decode(await api(control.bus, f"STREAM.INFO.{stores.RESULTS_STREAM}"))
    assert info["state"]["messages"] == 0
    await control.jobs.cancel(stuck)


async def test_a_node_neither_submits_nor_asks_about_jobs(guarded: Guarded) -> None:
    node = await guarded.client("n1")
    payload = encode(make_job({"model": MODEL, "prompt": "x"}))
    with pytest.raises(NotPermitted):
        await publish_acked(node.bus, subjects.JOB_SUBMIT.of(10, "mine"), payload)
    for subject in (subjects.JOB_ENQUEUE, subjects.JOB_GET, subjects.JOB_LIST, subjects.JOB_CANCEL, subjects.JOB_RETRY):
        with pytest.raises(NotPermitted):
            await node.bus.request(subject, encode(JobRef(job_id="mine")))


async def test_a_client_does_not_read_the_queue_itself(guarded: Guarded) -> None:
    """Prompts of others lie in it: states and results are open to every caller, the bodies are not."""
    alice = await guarded.client("alice")
    stuck = await alice.jobs.submit(make_job({"model": MODEL, "prompt": "secret"}, routing=NOWHERE))
    for what in (f"STREAM.MSG.GET.{stores.JOBS_STREAM}", f"DIRECT.GET.{stores.JOBS_STREAM}"):
        with pytest.raises(SollolError):
            await api(alice.bus, what, {"last_by_subj": subjects.JOB_SUBMIT.of(5, stuck)})
    heard: list[bytes] = []
    alice.bus.subscribe(subjects.JOB_SUBMIT.all, lambda m: heard.append(m.data))
    await alice.jobs.submit_many([make_job({"model": MODEL, "prompt": "secret"}, routing=NOWHERE)])
    await alice.bus.flush()
    assert heard == []
