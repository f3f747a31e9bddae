"""The queue of jobs at its limits: full, the same id again, kept no longer, and crowded with what cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from sollol_agents.dispatcher.pace import Pace
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BadRequest, Conflict, QueueFull, RequestTimedOut, SollolError
from sollol_bus.jetstream.api import JetStreamRefused, api, publish_acked
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.sdk.jobs import make_job
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas import stores, subjects
from sollol_schemas.jobs import JobNews, JobResult, JobState, JobStatus
from sollol_schemas.routing import Routing

NOWHERE = Routing(node_id="absent", strict=True)
"""A job that waits for a node which never comes."""


def payload_of(prompt: str) -> bytes:
    return json.dumps({"body": {"model": MODEL, "prompt": prompt}}).encode()


async def limit_queue(bus: Bus, max_msgs: int) -> None:
    """What an operator does with `nats stream edit`."""
    info = msgspec.json.decode(await api(bus, f"STREAM.INFO.{stores.JOBS_STREAM}"))
    await api(bus, f"STREAM.UPDATE.{stores.JOBS_STREAM}", info["config"] | {"max_msgs": max_msgs})


async def bucket_is_made(bus: Bus) -> None:
    """Waits for the dispatcher to make what states of jobs lie in, which it does after the streams of jobs."""

    async def is_there() -> bool:
        try:
            await api(bus, f"STREAM.INFO.KV_{stores.JOBS_BUCKET}")
        except JetStreamRefused as error:
            if error.is_not_found:
                return False
            raise
        return True

    await eventually(is_there, complaint="the bucket of jobs")


async def test_a_full_queue_refuses_every_submitter_and_takes_jobs_again_once_there_is_room(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        stuck = [await s.client.generate_async(MODEL, "x", routing=NOWHERE) for _ in range(3)]
        await limit_queue(s.client.bus, 3)
        with pytest.raises(JetStreamRefused, match="maximum messages exceeded") as refused:
            await publish_acked(s.client.bus, subjects.JOB_SUBMIT.of(5, "plain"), payload_of("x"))
        assert refused.value.err_code == 10077
        job = make_job({"model": MODEL, "prompt": "count down from 1"})
        with pytest.raises(QueueFull, match="queue of jobs is full"):
            await s.client.jobs.submit(job)
        with pytest.raises(QueueFull, match="queue of jobs is full"):
            await s.client.jobs.submit_many([job] * 3)
        await s.client.jobs.cancel(stuck[0])
        assert (await s.client.wait_for_task(await s.client.jobs.submit(job), timeout_s=20)).text.split() == ["0"]
        assert [(await s.client.jobs.get(name)).state for name in stuck[1:]] == [JobState.QUEUED] * 2, (
            "nothing was lost"
        )


async def test_the_same_publish_beyond_the_duplicate_window_runs_nothing_again(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        results: list[Msg] = []
        s.client.bus.subscribe(subjects.JOB_RESULT.of("mine"), results.append)
        job = {"prompt": "count down from 2", "model": MODEL}
        bare = json.dumps(job, indent=1).encode()
        for written in (payload_of(job["prompt"]), payload_of(job["prompt"]), bare):
            # without a message id, as if the window were over
            ack = await publish_acked(s.client.bus, subjects.JOB_SUBMIT.of(5, "mine"), written)
            assert not ack.duplicate
            await s.client.wait_for_task("mine", timeout_s=20)

            async def is_empty() -> bool:
                return not (await s.client.jobs.latest()).waiting

            await eventually(is_empty)
        assert s.news_of("mine").count(JobNews.RUNNING) == 1
        assert JobNews.CONFLICT not in s.news_of("mine")
        assert len(results) == 1
        assert await s.client.jobs.submit(make_job(job, kind="generate"), job_id="mine") == "mine"


async def test_many_jobs_at_once_tell_an_id_that_stands_for_another_job(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        mine = make_job({"model": MODEL, "prompt": "x"}, routing=NOWHERE)
        other = make_job({"model": MODEL, "prompt": "y"}, routing=NOWHERE)
        assert await s.client.jobs.submit_many([("a", mine), ("b", mine)]) == ["a", "b"]
        assert await s.client.jobs.submit_many([("a", mine), ("b", mine)]) == ["a", "b"], "the very same is harmless"
        with pytest.raises(Conflict, match="job b exists with another body"):
            await s.client.jobs.submit_many([("a", mine), ("b", other)])


async def test_an_answer_that_is_not_kept_any_more_is_an_error_and_no_endless_wait(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, job_inline_bytes=1024) as s:
        small, large = await s.count(3), await s.count(500)
        for job_id in (small, large):
            await s.client.wait_for_task(job_id, timeout_s=20)
        for stream in (stores.RESULTS_STREAM, f"OBJ_{stores.JOB_BLOBS}"):
            keep = {"filter": subjects.JOB_RESULT.of(small)} if stream == stores.RESULTS_STREAM else {}
            await api(s.client.bus, f"STREAM.PURGE.{stream}", keep)
        for job_id in (small, large):
            with pytest.raises(BadRequest, match="not kept any more"):
                await s.client.wait_for_task(job_id, timeout_s=10)
            assert (await s.client.jobs.end(job_id)).state is JobState.DONE


async def test_a_job_whose_dispatcher_died_after_storing_its_result_is_not_run_again(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        bus = s.client.bus
        await bucket_is_made(bus)
        known = JobStatus(job_id="mine", state=JobState.QUEUED, worker="dead")  # it ran too briefly to be written down
        stored = JobResult(job_id="mine", state=JobState.DONE, body=msgspec.Raw(b'{"response":"stored","done":true}'))
        await publish_acked(bus, f"$KV.{stores.JOBS_BUCKET}.job.mine", encode(known))
        await publish_acked(bus, subjects.JOB_RESULT.of("mine"), encode(stored))
        await publish_acked(bus, subjects.JOB_SUBMIT.of(5, "mine"), payload_of("count down from 3"))
        assert (await s.client.wait_for_task("mine", timeout_s=20)).text == "stored"
        assert s.began() == []


async def test_a_message_that_the_server_gave_up_delivering_is_buried_with_a_letter(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        job_id = await s.client.generate_async(MODEL, "x", routing=NOWHERE)
        await eventually(lambda: JobNews.RETRYING in s.news_of(job_id))
        number = (await s.client.jobs.get(job_id)).stream_seq
        advisory = {"stream": stores.JOBS_STREAM, "stream_seq": number, "deliveries": 100_000}
        subject = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stores.JOBS_STREAM}.p5"
        s.client.bus.publish(subject, encode(advisory))
        with pytest.raises(SollolError, match="delivered 100000 times"):
            await s.client.wait_for_task(job_id, timeout_s=20)
        assert [(letter.job_id, letter.state) for letter in (await s.client.jobs.dead()).jobs] == [
            (job_id, JobState.DEAD)
        ]

        async def is_empty() -> bool:
            return not (await s.client.jobs.latest()).waiting

        await eventually(is_empty)


async def test_a_job_whose_state_cannot_be_read_ends_with_an_event_and_a_letter_and_lists_say_how_many_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmulatedSystem(tmp_path) as s:
        await bucket_is_made(s.client.bus)
        states = Bucket(s.client.bus, stores.JOBS_BUCKET)
        for key in ("job.spoilt", "job.other"):
            await states.put(key, b"no state")
        await s.client.jobs.latest()
        assert "states of jobs cannot be read, 2" in caplog.text
        await publish_acked(s.client.bus, subjects.JOB_SUBMIT.of(5, "spoilt"), payload_of("x"))
        await eventually(lambda: JobNews.FAILED in s.news_of("spoilt"))
        ended = await s.client.jobs.get("spoilt")
        assert ended.error is not None
        assert "cannot be read" in ended.error.message
        assert [letter.job_id for letter in (await s.client.jobs.dead()).jobs] == ["spoilt"]


async def test_a_result_that_cannot_be_read_ends_its_job_once_and_gives_way_to_the_next_one(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        bus = s.client.bus
        await bucket_is_made(bus)
        known = JobStatus(job_id="spoilt", state=JobState.QUEUED, worker="dead")
        await publish_acked(bus, f"$KV.{stores.JOBS_BUCKET}.job.spoilt", encode(known))
        for job_id in ("spoilt", "new"):
            await publish_acked(bus, subjects.JOB_RESULT.of(job_id), b"no result")
            await publish_acked(bus, subjects.JOB_SUBMIT.of(5, job_id), payload_of("count down from 2"))
        with pytest.raises(SollolError, match="result of job spoilt cannot be read"):
            await s.client.wait_for_task("spoilt", timeout_s=20)
        assert (await s.client.wait_for_task("new", timeout_s=20)).text.split() == ["1", "0"]
        await eventually(lambda: JobNews.FAILED in s.news_of("spoilt"))
        assert [letter.job_id for letter in (await s.client.jobs.dead()).jobs] == ["spoilt"]
        assert len(s.began()) == 1


async def test_a_job_that_is_run_again_waits_and_can_be_cancelled_before_anybody_takes_it(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, pace=Pace(job_window=1), job_max_tries=1, max_attempts=1) as s:
        bad = await s.client.jobs.submit(make_job({"model": MODEL, "prompt": "x"}, path="/v1/no-such-path"))
        with pytest.raises(SollolError):
            await s.client.wait_for_task(bad, timeout_s=20)
        await s.client.generate_async(MODEL, "x", routing=NOWHERE)  # fills the window
        await s.client.jobs.retry(bad)
        status = await s.client.jobs.get(bad)
        assert (status.state, status.run) == (JobState.QUEUED, 2)
        assert await s.client.jobs.retry(bad) == bad, "asking twice runs it once"
        assert (await s.client.jobs.cancel(bad)).state is JobState.CANCELLED
        with pytest.raises(RequestTimedOut):
            await s.client.wait_for_task((await s.client.jobs.latest("queued")).jobs[0].job_id, timeout_s=0.1)


async def test_what_is_not_ended_or_not_known_cannot_be_purged(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, job_inline_bytes=1024) as s:
        waiting = await s.client.generate_async(MODEL, "x", routing=NOWHERE)
        with pytest.raises(Conflict, match="is queued"):
            await s.client.jobs.purge(job_id=waiting)
        with pytest.raises(BadRequest, match="nope"):
            await s.client.jobs.purge(job_id="nope")
        large = await s.count(500)
        await s.client.wait_for_task(large, timeout_s=20)
        assert await s.client.jobs.purge(job_id=large) == 1
        info = msgspec.json.decode(await api(s.client.bus, f"STREAM.INFO.OBJ_{stores.JOB_BLOBS}"))
        assert info["state"]["bytes"] < 1024, "the answer is gone with its job"


async def test_jobs_that_no_node_may_take_make_room_for_any_number_behind_them(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, pace=Pace(job_window=4, job_hold_s=0.1)) as s:
        stuck = make_job({"model": MODEL, "prompt": "x"}, routing=NOWHERE)
        await s.client.jobs.submit_many([stuck] * 40)
        fine = await s.count(2)
        assert (await s.client.wait_for_task(fine, timeout_s=30)).text.split() == ["1", "0"]
        assert sum((await s.client.jobs.latest()).waiting.values()) == 40


async def test_as_many_jobs_run_as_the_fleet_has_slots_however_small_the_window_is(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=12, decode_tps=20, pace=Pace(job_window=3)) as s:
        await s.client.jobs.submit_many([make_job({"model": MODEL, "prompt": "count down from 900"})] * 20)

        async def are_all_busy() -> bool:
            return len((await s.client.jobs.latest("running")).jobs) == 12

        await eventually(are_all_busy)
        for job in (await s.client.jobs.latest()).jobs:
            await s.client.jobs.cancel(job.job_id)


async def test_a_job_that_runs_longer_than_the_ack_wait_stays_where_it_is(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, decode_tps=40, job_ack_wait_s=2) as s:
        job_id = await s.count(140)
        status = (await s.client.wait_for_task(job_id, timeout_s=30)).status
        assert status.tokens >= 140, "three and a half seconds at 40 tokens a second"
        assert (status.losses, status.tries) == (0, 1)
        assert s.news_of(job_id).count(JobNews.RUNNING) == 1
