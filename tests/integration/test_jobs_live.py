"""Jobs on the whole system in one process, with an emulated engine behind a real nats-server."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.emulator import FaultKind
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import (
    BackendError,
    BadRequest,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    NoResponders,
    PayloadTooLarge,
    RoutingError,
    SollolError,
    UnknownModel,
)
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.sdk.jobs import make_job
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_schemas import stores, subjects
from sollol_schemas.jobs import JobNews, JobResult, JobState


async def test_one_publish_is_one_job_with_one_result_and_every_state_is_an_event(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        results: list[Msg] = []
        s.client.bus.subscribe(subjects.JOB_RESULT.of("mine"), results.append)
        payload = json.dumps({"body": {"model": MODEL, "prompt": "count down from 4"}}).encode()
        for _ in range(3):
            await publish_acked(
                s.client.bus, subjects.JOB_SUBMIT.of(8, "mine"), payload, headers={"Nats-Msg-Id": "mine"}
            )
        answer = await s.client.wait_for_task("mine", timeout_s=20)
        assert answer.text.split() == ["3", "2", "1", "0"]
        assert answer.result is not None
        assert answer.result.decision is not None
        assert answer.result.decision.mode == "async"
        assert (answer.status.priority, answer.status.node_id, answer.status.tries) == (8, "n1", 1)
        await eventually(lambda: JobNews.DONE in s.news_of("mine"))
        assert s.news_of("mine") == [JobNews.QUEUED, JobNews.RUNNING, JobNews.DONE]
        assert len(results) == 1
        assert decode(results[0].data, JobResult).state is JobState.DONE
        listed = await s.client.jobs.latest()
        assert (listed.waiting, [job.job_id for job in listed.jobs]) == ({}, ["mine"])


async def test_a_plain_publish_of_an_ollama_body_is_a_job_and_one_that_is_none_is_a_dead_letter(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        message = {"role": "user", "content": "count down from 3"}
        bodies = {
            "said": {"model": MODEL, "prompt": "count down from 3", "stream": True},
            "embedded": {"model": "nomic-embed-text", "input": ["hi", "there"]},
            "chatted": {"model": MODEL, "messages": [message], "stream": False, "keep_alive": "5m", "priority": 0},
        }
        for name, body in bodies.items():
            s.client.bus.publish(subjects.JOB_SUBMIT.of(5, name), encode(body))
        s.client.bus.publish(subjects.JOB_SUBMIT.of(5, "lost"), b'{"model": "m", "promt": "hi"}')
        for name, kind in (("said", "generate"), ("chatted", "chat")):
            answer = await s.client.wait_for_task(name, timeout_s=20)
            assert (answer.text.split(), answer.status.kind, answer.status.priority) == (["2", "1", "0"], kind, 5)
        answer = await s.client.wait_for_task("embedded", timeout_s=20)
        assert (answer.status.state, answer.status.kind) == (JobState.DONE, "embed")
        with pytest.raises(BadRequest, match="is no bare one either"):
            await s.client.wait_for_task("lost", timeout_s=20)
        assert [status.job_id for status in (await s.client.jobs.dead()).jobs] == ["lost"]


async def test_every_try_of_a_job_is_a_request_of_its_own_and_explained_under_the_job(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, max_attempts=1) as s:
        s.fault(FaultKind.ERROR_LINE, model="m", times=1)
        job_id = await s.count(3, job_id="mine")
        answer = await s.client.wait_for_task(job_id, timeout_s=30)
        assert answer.status.tries == 2
        assert answer.result is not None
        assert answer.result.decision is not None
        assert answer.result.decision.job_id == "mine"

        async def are_recorded() -> bool:
            return len((await s.client.why(job_id)).outcomes) == 2

        await eventually(are_recorded)
        explained = await s.client.why(job_id)
        tries = {event.decision.request_id for event in explained.decisions}
        assert len(tries) == 2
        assert answer.result.decision.request_id in tries
        assert len((await s.client.why(answer.result.decision.request_id)).decisions) == 1


async def test_a_job_is_known_by_its_id_long_after_it_is_done(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        assert await s.count(3, job_id="mine") == "mine"
        first = await s.client.wait_for_task("mine", timeout_s=20)
        assert await s.count(3, job_id="mine") == "mine"
        assert (await s.client.jobs.get("mine")).finished_at == first.status.finished_at
        with pytest.raises(Conflict):
            await s.count(4, job_id="mine")


async def test_another_body_under_a_known_id_is_told_as_a_conflict_and_dropped(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        await s.client.wait_for_task(await s.count(3, job_id="mine"), timeout_s=20)
        payload = json.dumps({"body": {"model": MODEL, "prompt": "count down from 9"}}).encode()
        headers = {"Nats-Msg-Id": "mine"}
        ack = await publish_acked(s.client.bus, subjects.JOB_SUBMIT.of(5, "mine"), payload, headers=headers)
        assert ack.duplicate, "inside the window the ack itself tells"
        await publish_acked(s.client.bus, subjects.JOB_SUBMIT.of(5, "mine"), payload)
        await eventually(lambda: JobNews.CONFLICT in s.news_of("mine"))
        told = next(event for event in s.news if event.news is JobNews.CONFLICT)
        assert (told.state, told.tries, told.node_id) == (JobState.DONE, 1, "n1"), "the state of the job that stands"
        assert (await s.client.wait_for_task("mine")).text.split() == ["2", "1", "0"]
        assert (await s.client.jobs.latest()).waiting == {}


async def test_the_same_job_under_two_priorities_runs_once(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=1, decode_tps=100) as s:
        payload = json.dumps({"body": {"model": MODEL, "prompt": "count down from 30"}}).encode()
        for priority in (3, 7):
            await publish_acked(s.client.bus, subjects.JOB_SUBMIT.of(priority, "mine"), payload)
        await s.client.wait_for_task("mine", timeout_s=20)

        async def is_empty() -> bool:
            return not (await s.client.jobs.latest()).waiting

        await eventually(is_empty)
        assert s.news_of("mine").count(JobNews.RUNNING) == 1
        assert s.news_of("mine").count(JobNews.DONE) == 1


async def test_chats_embeddings_and_other_paths_are_jobs_too(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        chat = make_job({"model": MODEL, "messages": [{"role": "user", "content": "count down from 3"}]})
        embed = make_job({"model": "nomic-embed-text", "input": ["a", "b"]})
        passthrough = make_job(
            {"model": MODEL, "messages": [{"role": "user", "content": "count down from 2"}]},
            path="/v1/chat/completions",
        )
        ids = [await s.client.jobs.submit(job) for job in (chat, embed, passthrough)]
        answers = [await s.client.wait_for_task(job_id, timeout_s=20) for job_id in ids]
        assert answers[0].text.split() == ["2", "1", "0"]
        assert len(answers[1].body["embeddings"]) == 2
        assert answers[2].body["choices"][0]["message"]["content"].split() == ["1", "0"]


async def test_a_large_answer_goes_through_the_object_store(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, job_inline_bytes=1024) as s:
        answer = await s.client.wait_for_task(await s.count(500), timeout_s=30)
        assert answer.result is not None
        assert answer.result.object_name
        assert answer.text.split() == [str(n) for n in range(499, -1, -1)]


async def test_a_poison_job_ends_as_a_dead_letter_and_blocks_nobody_and_runs_again_by_request(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, job_max_tries=3, max_attempts=1) as s:
        s.fault(FaultKind.ERROR_LINE, model="other", times=0)
        poison = await s.client.generate_async("other", "count down from 3", priority="critical")
        fine = [await s.count(2, priority="low") for _ in range(5)]
        for job_id in fine:
            await s.client.wait_for_task(job_id, timeout_s=20)
        with pytest.raises(BackendError):
            await s.client.wait_for_task(poison, timeout_s=30)
        ended = await s.client.jobs.get(poison)
        assert (ended.state, ended.tries) == (JobState.DEAD, 3)
        letters = (await s.client.jobs.dead()).jobs
        assert [(letter.job_id, letter.state) for letter in letters] == [(poison, JobState.DEAD)]
        assert letters[0].error is not None
        assert (await s.client.jobs.latest()).waiting == {}
        s.clear_faults()
        await s.client.reset_breakers()
        assert await s.client.jobs.retry(poison) == poison
        await eventually(lambda: JobNews.DONE in s.news_of(poison))
        answer = await s.client.wait_for_task(poison, timeout_s=20)
        assert (answer.text.split(), answer.status.run) == (["2", "1", "0"], 2)
        assert (await s.client.jobs.dead()).jobs == ()


async def test_a_job_whose_model_exists_nowhere_says_so_at_once_and_fails_when_no_node_is_expected(
    tmp_path: Path,
) -> None:
    async with EmulatedSystem(tmp_path) as s:  # its node has just joined: another one might
        early = await s.client.generate_async("nonesuch", "hello")
        await eventually(lambda: JobNews.RETRYING in s.news_of(early))
        status = await s.client.jobs.get(early)
        assert status.error is not None
        assert status.error.code == "unknown_model"
        with pytest.raises(UnknownModel, match="there are m:latest, "):
            await s.client.wait_for_task(early, timeout_s=30)
        assert (await s.client.jobs.get(early)).state is JobState.FAILED
        late = await s.client.generate_async("nonesuch", "hello")
        with pytest.raises(UnknownModel):
            await s.client.wait_for_task(late, timeout_s=10)
        assert s.news_of(late) == [JobNews.QUEUED, JobNews.FAILED], "no second try was worth it"


async def test_a_job_is_cancelled_delayed_queued_and_running_but_not_when_it_is_done(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=1, decode_tps=20) as s:
        running = await s.count(500)
        await eventually(lambda: JobNews.RUNNING in s.news_of(running))
        queued = await s.count(2)
        delayed = await s.client.jobs.submit(
            make_job(
                {"model": MODEL, "prompt": "x"}, not_before=datetime.fromtimestamp(wall_s(), UTC) + timedelta(hours=1)
            )
        )
        assert (await s.client.jobs.get(delayed)).state is JobState.QUEUED
        for job_id in (delayed, queued, running):
            assert (await s.client.jobs.cancel(job_id)).state is JobState.CANCELLED
            with pytest.raises(Cancelled):
                await s.client.wait_for_task(job_id, timeout_s=10)
            with pytest.raises(Conflict, match="cancelled already"):
                await s.client.jobs.cancel(job_id)
        done = await s.count(1)
        await s.client.wait_for_task(done, timeout_s=20)
        for ask, said in ((s.client.jobs.cancel, "done already"), (s.client.jobs.retry, "only dead or failed")):
            with pytest.raises(Conflict, match=said) as refused:
                await ask(done)
            assert refused.value.body.details == {"state": "done"}
        listed = await s.client.jobs.latest()
        assert (listed.waiting, listed.delayed) == ({}, 0)


async def test_progress_is_told_in_tokens_and_at_most_once_a_second(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, decode_tps=40) as s:
        writes: list[Msg] = []
        s.client.bus.subscribe(f"$KV.{stores.JOBS_BUCKET}.job.mine", writes.append)
        began = time.monotonic()
        job_id = await s.count(90, job_id="mine")
        seen: set[int] = set()

        async def has_moved() -> bool:
            seen.add((await s.client.jobs.get(job_id)).tokens)
            return len(seen - {0}) >= 2

        await eventually(has_moved)
        assert (await s.client.wait_for_task(job_id, timeout_s=20)).status.tokens >= 90
        took_s = time.monotonic() - began
        assert 2 < len(writes) <= 3 + took_s, "queued, running, done, and one for each second between"


async def test_a_delayed_job_starts_when_it_is_due_however_it_was_submitted(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        due = datetime.fromtimestamp(wall_s(), UTC) + timedelta(seconds=1.5)
        job = make_job({"model": MODEL, "prompt": "count down from 2"}, not_before=due)
        await s.client.jobs.submit(job, job_id="by-request")
        await s.client.jobs.submit_many([("by-publish", job)])
        for job_id in ("by-request", "by-publish"):
            status = (await s.client.wait_for_task(job_id, timeout_s=20)).status
            assert datetime.fromisoformat(status.started_at) >= due
        assert (await s.client.jobs.latest()).delayed == 0


async def test_a_deadline_ends_a_job_that_did_not_get_its_turn(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=1, decode_tps=20) as s:
        running = await s.count(400)
        late = await s.client.jobs.submit(make_job({"model": MODEL, "prompt": "count down from 3"}, deadline_s=0.5))
        with pytest.raises((DeadlineExceeded, RoutingError)):
            await s.client.wait_for_task(late, timeout_s=20)
        assert (await s.client.jobs.get(late)).state is JobState.FAILED
        await s.client.jobs.cancel(running)


async def test_bad_input_gets_a_clear_error_and_harms_nobody(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        bus = s.client.bus
        with pytest.raises(NoResponders):
            await publish_acked(bus, "sollol.v1.jobs.submit.11.x", b"{}")
        with pytest.raises(PayloadTooLarge):
            await s.client.generate_async(MODEL, "x" * (9 << 20))
        with pytest.raises(BadRequest):
            await s.client.jobs.submit(make_job({"prompt": "no model"}))
        with pytest.raises(BadRequest, match="job id"):
            await s.count(1, job_id="not an id")
        with pytest.raises(BadRequest, match="priority 11"):
            await s.count(1, priority=11)
        body = {"job": {"body": {"model": MODEL, "prompt": "x"}}}
        unusable: list[dict[str, object]] = [
            {**body, "priority": 11},
            {**body, "priority": "hasty"},
            {**body, "priority": [8]},
            {**body, "job_id": "not an id"},
            {**body, "job_id": "a-line\n"},
            {"job": {}},
            {},
        ]
        for asked in unusable:
            refused = error_of(await bus.request(subjects.JOB_ENQUEUE, encode(asked)))
            assert refused is not None
            assert refused.code == "bad_request"
        with pytest.raises(BadRequest, match="nope"):
            await s.client.jobs.get("nope")
        with pytest.raises(BadRequest, match="nope"):
            await s.client.jobs.cancel("nope")
        with pytest.raises(SollolError):
            await s.client.jobs.purge("queued")
        await publish_acked(bus, subjects.JOB_SUBMIT.of(5, "malformed"), b"not json")
        await publish_acked(bus, subjects.JOB_SUBMIT.of(5, "far-too-long-" + "x" * 60), b"{}")
        named_at_length = encode({"body": {"model": "m" * 700_000, "prompt": "x"}})
        await publish_acked(bus, subjects.JOB_SUBMIT.of(5, "named-at-length"), named_at_length)
        with pytest.raises(BadRequest, match="malformed"):
            await s.client.wait_for_task("malformed", timeout_s=20)
        with pytest.raises(BadRequest, match="at most 512 characters"):
            await s.client.wait_for_task("named-at-length", timeout_s=20)
        await eventually(lambda: any(event.job_id.startswith("invalid-") for event in s.news))
        assert len((await s.client.jobs.dead()).jobs) == 3
        assert (await s.client.wait_for_task(await s.count(1), timeout_s=20)).text.split() == ["0"]
        assert (await s.client.jobs.latest()).waiting == {}


async def test_ended_jobs_are_forgotten_on_request(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        ids = [await s.count(1) for _ in range(3)]
        for job_id in ids:
            await s.client.wait_for_task(job_id, timeout_s=20)
        assert await s.client.jobs.purge(job_id=ids[0]) == 1
        assert await s.client.jobs.purge() == 2
        with pytest.raises(BadRequest):
            await s.client.jobs.get(ids[1])
        assert (await s.client.jobs.latest()).jobs == ()


@pytest.mark.shutdown
async def test_a_dispatcher_that_shuts_down_gives_its_jobs_to_the_others_at_once(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=1, decode_tps=25) as s:
        running = await s.count(300)
        waiting = [await s.count(2) for _ in range(3)]
        await eventually(lambda: JobNews.RUNNING in s.news_of(running))
        first = next(actor for actor in s.stack.actors if actor.name == "dispatcher")
        await eventually(lambda: set(waiting) <= set(first.in_flight()))
        second = Dispatcher(DispatcherConfig(), BusConfig(url=s.stack.nats_url, inbox_prefix="_INBOX_ctl"))
        async with second:
            leaving = asyncio.get_running_loop().time()
            await first.stop_intake()
            await eventually(lambda: set(waiting) <= set(second.in_flight()))
            assert asyncio.get_running_loop().time() - leaving < DispatcherConfig().job_ack_wait_s / 2
            assert running in first.in_flight()
            await first.hand_back("shutting down")
            await eventually(lambda: running in second.in_flight())
            assert (await s.client.jobs.get(running)).losses == 0, "nobody died"
            await s.client.jobs.cancel(running)
            for job_id in waiting:
                answer = await s.client.wait_for_task(job_id, timeout_s=30)
                assert answer.text.split() == ["1", "0"]
