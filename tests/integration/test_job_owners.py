"""Jobs belong to who submits them: on a fleet that knows its members nobody finds, forges, hides or ends another's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.js.errors import APIError

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import BadRequest, Cancelled, NoResponders, SollolError
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.job_streams import job_streams
from sollol_bus.jetstream.stored import stored_message
from sollol_bus.jetstream.streams import provision
from sollol_bus.sdk.batch import Batch
from sollol_bus.sdk.batches import Batches
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import make_job
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.messages import decode
from sollol_schemas import stores, subjects
from sollol_schemas.batch_progress import BatchStage, BatchTell
from sollol_schemas.jobs import JobEvent, JobResult, JobState, JobStatus
from sollol_schemas.routing import Routing
from sollol_schemas.subjects import Role

MODEL = "m:latest"
NOWHERE = Routing(node_id="absent", strict=True)
"""A job that waits for a node which never comes."""
ROLES = {"alice": Role.CLIENT, "bob": Role.CLIENT, "eye": Role.OBSERVER, "control": Role.CONTROL, "n1": Role.NODE}


class Fleet:
    """A fleet that knows its members, and has one dispatcher unless it is told otherwise."""

    def __init__(self, floor: AsyncExitStack, members: Members, url: str) -> None:
        self.url = url
        self._floor = floor
        self._members = members

    async def client(self, user: str) -> Client:
        return await self._floor.enter_async_context(Client(self._members.bus_config(user, self.url)))

    async def begin(self, engine_url: str) -> None:
        control = self._members.bus_config("control", self.url)
        await self._floor.enter_async_context(Scorer(ScorerConfig(), control))
        await self._floor.enter_async_context(Dispatcher(DispatcherConfig(), control))
        node = NodeConfig(node_id="n1", url=engine_url, engine="ollama", slots=4)
        await self._floor.enter_async_context(NodeMonitor(node, self._members.bus_config("n1", self.url)))

    async def foreign(self, user: str) -> NatsClient:
        """What a program in any language has: its credentials and a NATS library."""
        nc = await nats.connect(
            self.url, user_credentials=self._members.creds_file(user), inbox_prefix=f"_INBOX_cli.{user}".encode()
        )
        self._floor.push_async_callback(nc.close)
        return nc


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Fleet]:
    members = Members(tmp_path, ROLES)
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    async with AsyncExitStack() as floor:
        url = (await floor.enter_async_context(EmbeddedServer(config))).url
        yield Fleet(floor, members, url)


@pytest.fixture
async def fleet(empty: Fleet) -> AsyncIterator[Fleet]:
    engine_config = EmulatorConfig(model=("m=1",), preload=("m",), parallel=4, decode_tps=2000)
    async with EmulatedNode(engine_config) as engine:
        await empty.begin(engine.url)
        yield empty


def body(prompt: str) -> bytes:
    return json.dumps({"model": MODEL, "prompt": prompt}).encode()


def submit_of(user: str, job_id: str, priority: int | str = 5) -> str:
    return f"sollol.v1.as.{user}.jobs.submit.{priority}.{job_id}"


async def text_of(client: Client, job_id: str) -> list[str]:
    return (await client.wait_for_task(job_id, timeout_s=30)).text.split()


async def test_a_publish_of_any_client_library_gets_jetstreams_own_ack(fleet: Fleet) -> None:
    nc, control = await fleet.foreign("alice"), await fleet.client("control")
    js = nc.jetstream(timeout=10)
    headers = {"Nats-Msg-Id": "mine"}
    own: list[JobResult] = []

    async def hear(msg: Any) -> None:
        own.append(decode(msg.data, JobResult))

    await nc.subscribe("sollol.v1.jobs.result.alice.*", cb=hear)
    first = await js.publish(submit_of("alice", "mine"), body("count down from 3"), headers=headers)
    again = await js.publish(submit_of("alice", "mine"), body("count down from 3"), headers=headers)
    assert (first.stream, bool(first.duplicate), again.seq) == (stores.JOBS_STREAM, False, first.seq)
    assert again.duplicate
    expecting = await js.publish(submit_of("alice", "two"), body("count down from 1"), stream=stores.JOBS_STREAM)
    assert expecting.seq > first.seq
    with pytest.raises(APIError, match="expected stream"):
        await js.publish(submit_of("alice", "three"), body("count down from 1"), stream="OTHER")
    assert await text_of(control, "alice=mine") == ["2", "1", "0"]
    await eventually(lambda: {"mine", "two"} <= {result.job_id for result in own})
    assert {result.user for result in own} == {"alice"}


@pytest.mark.parametrize(
    "reply",
    ["$KV.SOLLOL_SETTINGS.api_keys", "$KV.SOLLOL_OFFICES.scorer", "_INBOX_ctl.x", "_INBOX_cli.bob.x", "_INBOX.x"],
)
@pytest.mark.parametrize("is_named", [True, False])
async def test_no_ack_of_jetstreams_goes_elsewhere_than_to_the_publishers_own_inboxes(
    fleet: Fleet, reply: str, is_named: bool
) -> None:
    nc, control = await fleet.foreign("alice"), await fleet.client("control")
    before = [await Bucket(control.bus, name).every(">") for name in (stores.SETTINGS_BUCKET, stores.OFFICES_BUCKET)]
    heard: list[str] = []
    control.bus.subscribe("_INBOX_ctl.x", lambda m: heard.append(m.subject))
    control.bus.subscribe("_INBOX_cli.bob.x", lambda m: heard.append(m.subject))
    control.bus.subscribe("_INBOX.x", lambda m: heard.append(m.subject))
    await control.bus.flush()
    subject = submit_of("alice", "attack") if is_named else subjects.JOB_SUBMIT.of(5, "attack")
    await nc.publish(subject, body("x"), reply=reply)
    await nc.publish(submit_of("alice", "later"), body("count down from 1"))  # has come once all before it was handled
    await eventually(lambda: _is_there(control, "alice=later"))
    for ref in ("alice=attack", "attack"):
        assert not await _is_there(control, ref)
    after = [await Bucket(control.bus, name).every(">") for name in (stores.SETTINGS_BUCKET, stores.OFFICES_BUCKET)]
    assert [[(e.key, e.value) for e in one] for one in after] == [[(e.key, e.value) for e in one] for one in before]
    assert heard == []


async def _is_there(client: Client, ref: str) -> bool:
    try:
        await client.jobs.get(ref)
    except BadRequest:
        return False
    return True


async def test_two_users_call_two_jobs_by_one_name_and_each_sees_its_own(fleet: Fleet) -> None:
    alice, bob = await fleet.client("alice"), await fleet.client("bob")
    control, eye = await fleet.client("control"), await fleet.client("eye")
    heard: dict[str, list[tuple[str, str]]] = {"alice": [], "bob": []}
    for name, client in (("alice", alice), ("bob", bob)):

        def note(msg: Any, name: str = name) -> None:
            heard[name].append((decode(msg.data, JobEvent).job_id, decode(msg.data, JobEvent).user))

        client.bus.subscribe(subjects.OWN_JOB_EVENT.of(name, "*", "*"), note)
        await client.bus.flush()
    await alice.jobs.submit(make_job({"model": MODEL, "prompt": "count down from 2"}), job_id="story")
    await bob.jobs.submit_many([("story", make_job({"model": MODEL, "prompt": "count down from 3"}))])
    assert (await text_of(alice, "story"), await text_of(bob, "story")) == (["1", "0"], ["2", "1", "0"])
    assert (await text_of(control, "alice=story"), await text_of(control, "bob=story")) == (["1", "0"], ["2", "1", "0"])
    assert [job.job_id for job in (await alice.jobs.latest()).jobs] == ["story"]
    assert {job.job_id for job in (await control.jobs.latest()).jobs} == {"alice=story", "bob=story"}
    assert (await eye.jobs.latest()).jobs == ()
    await eventually(lambda: all(heard.values()))
    assert {name: set(told) for name, told in heard.items()} == {name: {("story", name)} for name in heard}


async def test_nobody_finds_ends_or_runs_again_the_job_of_another(fleet: Fleet) -> None:
    alice, bob, control = await fleet.client("alice"), await fleet.client("bob"), await fleet.client("control")
    stuck = make_job({"model": MODEL, "prompt": "secret"}, routing=NOWHERE)
    await alice.jobs.submit(stuck, job_id="waits")
    failed = make_job({"model": MODEL, "prompt": "secret"}, path="/api/nothing")
    await alice.jobs.submit(failed, job_id="fails")
    await eventually(lambda: _has_letter(alice, "fails"))
    for name in ("waits", "fails", "alice=waits", "alice=fails"):
        for ask in (bob.jobs.get, bob.jobs.answer, bob.jobs.cancel, bob.jobs.retry):
            with pytest.raises(BadRequest, match="no job is known"):
                await ask(name)
    assert (await bob.jobs.latest()).jobs == ()
    assert (await bob.jobs.dead()).jobs == ()
    assert (await alice.jobs.get("waits")).state is JobState.QUEUED
    assert [job.job_id for job in (await alice.jobs.dead()).jobs] == ["fails"]
    assert (await control.jobs.cancel("alice=waits")).job_id == "alice=waits"
    with pytest.raises(Cancelled):
        await alice.wait_for_task("waits", timeout_s=10)
    assert await alice.jobs.retry("fails") == "fails"


async def _has_letter(client: Client, job_id: str) -> bool:
    return job_id in [job.job_id for job in (await client.jobs.dead()).jobs]


async def test_no_id_of_a_message_hides_the_job_of_another(fleet: Fleet) -> None:
    alice, bob = await fleet.client("alice"), await fleet.foreign("bob")
    js = bob.jetstream(timeout=10)
    for number, taken in enumerate(("next", "alice=next")):
        headers = {"Nats-Msg-Id": taken}
        await js.publish(submit_of("bob", f"other-{number}"), body("count down from 1"), headers=headers)
    (job_id,) = await alice.jobs.submit_many([("next", make_job({"model": MODEL, "prompt": "count down from 2"}))])
    assert await text_of(alice, job_id) == ["1", "0"]


@pytest.mark.parametrize(
    ("subject", "headers"),
    [
        (submit_of("bob", "x", 11), {}),
        (submit_of("bob", "alice=x"), {}),
        (submit_of("bob", "x" * 57), {}),
        (submit_of("bob", "x"), {"Nats-Rollup": "all"}),
        (submit_of("bob", "x"), {"Nats-Expected-Last-Msg-Id": "y"}),
        (submit_of("bob", "x"), {"Nats-Expected-Last-Subject-Sequence-Subject": "sollol.v1.jobs.submit.5.alice=y"}),
        (submit_of("bob", "x"), {"nats-schedule": "@at 2040-01-01T00:00:00Z"}),
    ],
)
async def test_what_is_not_for_jobs_is_refused_as_jetstream_refuses(
    fleet: Fleet, subject: str, headers: dict[str, str]
) -> None:
    nc, control = await fleet.foreign("bob"), await fleet.client("control")
    with pytest.raises(APIError) as refused:
        await nc.jetstream(timeout=10).publish(subject, body("x"), headers=headers)
    assert refused.value.err_code == 10003
    assert await stored_message(control.bus, stores.JOBS_STREAM, subject=subjects.JOB_SUBMIT.all) is None


async def test_who_forges_a_caller_a_run_or_a_place_submits_as_itself(fleet: Fleet) -> None:
    nc, control = await fleet.foreign("bob"), await fleet.client("control")
    forged = {"Sollol-Caller": "alice", "Sollol-Job-Run": "9", "Sollol-Job": "alice=x"}
    await nc.jetstream(timeout=10).publish(submit_of("bob", "x"), body("count down from 1"), headers=forged)
    await control.wait_for_task("bob=x", timeout_s=30)
    assert (await control.jobs.get("bob=x")).run == 1
    assert not await _is_there(control, "alice=x")


@pytest.mark.parametrize("subject", ["callbacks.bob", "callbacks.bob.x", "callbacks.x", "_INBOX_cli.bob.x", "_INBOX.x"])
async def test_a_result_is_called_back_to_its_owner_alone(fleet: Fleet, subject: str) -> None:
    alice, bob = await fleet.client("alice"), await fleet.foreign("bob")
    job = make_job({"model": MODEL, "prompt": "count down from 1"}, callback_subject=subject)
    with pytest.raises(SollolError, match="your own"):
        await alice.jobs.submit(job)
    (job_id,) = await alice.jobs.submit_many([("published", job)])
    assert (await alice.jobs.end(job_id, timeout_s=30)).state is JobState.FAILED
    await bob.flush()


async def test_a_result_reaches_its_owners_inbox_and_callbacks(fleet: Fleet) -> None:
    alice = await fleet.client("alice")
    heard: list[str] = []
    for subject in (alice.bus.new_inbox(), "callbacks.alice", "callbacks.alice.stories"):
        alice.bus.subscribe(subject, lambda m: heard.append(decode(m.data, JobResult).job_id))
        await alice.bus.flush()
        job = make_job({"model": MODEL, "prompt": "count down from 1"}, callback_subject=subject)
        job_id = await alice.jobs.submit(job)
        await eventually(lambda job_id=job_id: job_id in heard)


async def test_a_publisher_who_wants_no_ack_hears_nothing_and_its_job_runs(fleet: Fleet) -> None:
    nc, alice = await fleet.foreign("alice"), await fleet.client("alice")
    await nc.publish(submit_of("alice", "quiet"), body("count down from 2"))

    async def is_done() -> bool:
        try:
            return (await alice.jobs.get("quiet")).state is JobState.DONE
        except BadRequest:
            return False

    await eventually(is_done)


async def test_a_delayed_job_keeps_its_owner(fleet: Fleet) -> None:
    alice, bob = await fleet.client("alice"), await fleet.client("bob")
    await alice.jobs.submit(make_job({"model": MODEL, "prompt": "count down from 2"}), job_id="later", delay_s=0.3)
    status: JobStatus = await alice.jobs.get("later")
    assert status.job_id == "later"
    assert not await _is_there(bob, "later")
    assert await text_of(alice, "later") == ["1", "0"]


async def test_a_member_runs_a_batch_and_hears_when_its_jobs_end(fleet: Fleet) -> None:
    alice, bob = await fleet.client("alice"), await fleet.client("bob")
    job = make_job({"model": MODEL, "prompt": "count down from 2"})
    await bob.jobs.submit(make_job({"model": MODEL, "prompt": "x"}, routing=NOWHERE), job_id="many-0")
    answers = [answer async for _, answer in Batch(alice.jobs, "many").answers(enumerate([job] * 5))]
    assert [answer.text.split() for answer in answers] == [["1", "0"]] * 5
    assert [answer.job_id for answer in answers] == [f"many-{number}" for number in range(5)]
    told = await Batches(alice.jobs).tell(BatchTell(batch_id="many", total=5, submitted=5, begins=True))
    assert (told.batch_id, told.done, told.stage) == ("many", 5, BatchStage.DONE)
    seen = {
        user: await Batches((await fleet.client(user)).jobs).latest() for user in ("alice", "bob", "eye", "control")
    }
    names = {user: [batch.batch_id for batch in reply.batches] for user, reply in seen.items()}
    assert names == {"alice": ["many"], "bob": [], "eye": [], "control": ["alice=many"]}
    with pytest.raises(BadRequest, match="no batch is known"):
        await Batches(bob.jobs).get("alice=many")


async def test_a_store_from_before_jobs_had_owners_goes_on(empty: Fleet) -> None:
    control, alice = await empty.client("control"), await empty.client("alice")
    older = (
        msgspec.structs.replace(spec, subjects=(subjects.JOB_RESULT.all,))
        if spec.name == stores.RESULTS_STREAM
        else spec
        for spec in job_streams()
    )
    await provision(control.bus, streams=tuple(older))
    await publish_acked(control.bus, subjects.JOB_SUBMIT.of(5, "old"), body("count down from 3"))
    engine_config = EmulatorConfig(model=("m=1",), preload=("m",), parallel=4, decode_tps=2000)
    async with EmulatedNode(engine_config) as engine:
        await empty.begin(engine.url)
        assert await text_of(control, "old") == ["2", "1", "0"]
        new = await alice.jobs.submit(make_job({"model": MODEL, "prompt": "count down from 2"}))
        assert await text_of(alice, new) == ["1", "0"]
        with pytest.raises(BadRequest, match="no job is known"):
            await alice.jobs.get("old")


async def test_without_a_dispatcher_a_submit_fails_visibly(empty: Fleet) -> None:
    alice = await empty.client("alice")
    with pytest.raises(NoResponders):
        await alice.jobs.submit_many([make_job({"model": MODEL, "prompt": "x"})])


async def test_thousands_published_in_one_turn_are_all_stored(fleet: Fleet) -> None:
    alice, control = await fleet.client("alice"), await fleet.client("control")
    job = make_job({"model": MODEL, "prompt": "x"}, routing=NOWHERE)
    names = [f"job-{number}" for number in range(2000)]
    assert await alice.jobs.submit_many([(name, job) for name in names]) == names
    assert sum((await control.jobs.latest(limit=1)).waiting.values()) == len(names)
    async with asyncio.TaskGroup() as group:
        for name in names[:3]:
            group.create_task(alice.jobs.cancel(name))
