"""Many jobs at once on the whole system in one process: batches, tasks side by side, texts to embed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sollol_agents.dispatcher.pace import Pace
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_bus.errors import SollolError, UnknownModel
from sollol_bus.sdk.batch import Batch
from sollol_bus.sdk.jobs import make_job
from sollol_bus.transport.messages import decode
from sollol_schemas import subjects
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.jobs import JobNews, JobState
from sollol_schemas.routing import Routing


async def test_a_batch_answers_in_order_and_does_nothing_twice_when_it_is_resumed(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        jobs = [make_job({"model": MODEL, "prompt": f"count down from {n % 7}"}) for n in range(60)]
        stopped = Batch(s.client.jobs, "b", ahead=20)
        async for index, _ in stopped.answers(enumerate(jobs)):
            if index == 10:
                break
        resumed = Batch(s.client.jobs, "b", ahead=20)
        texts = [(index, answer.text) async for index, answer in resumed.answers(enumerate(jobs))]
        assert [index for index, _ in texts] == list(range(60))
        assert [text.split() for _, text in texts] == [[str(m) for m in range(n % 7 - 1, -1, -1)] for n in range(60)]
        assert (resumed.progress.ended, resumed.progress.failed) == (60, 0)
        done = [event.job_id for event in s.news if event.news is JobNews.DONE]
        assert len(done) == len(set(done)) == 60


async def test_several_tasks_at_once_have_an_error_each(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        answers = await s.client.distribute_task([(MODEL, "count down from 2"), ("nonesuch", "x")])
        assert not isinstance(answers[0], SollolError)
        assert answers[0].text.split() == ["1", "0"]
        assert isinstance(answers[1], UnknownModel)


async def test_many_texts_are_embedded_in_order_and_keep_every_node_busy(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=3, slots=1) as s:
        texts = [f"text {n} " + "long " * 300 for n in range(70)]  # a piece takes longer than the way to a free node
        asked = [await s.client.embed("nomic-embed-text", text) for text in texts[:3]]
        chosen: Counter[str | None] = Counter()
        s.client.bus.subscribe(
            subjects.ROUTING_EVENT.all, lambda m: chosen.update([decode(m.data, DecisionEvent).decision.node_id])
        )
        await s.client.bus.flush()
        vectors = await s.client.embed_many("nomic-embed-text", texts)
        assert len(vectors) == 70
        assert vectors[:3] == [one.embeddings[0] for one in asked]
        await s.client.bus.flush()
        assert {"n1", "n2", "n3"} <= set(chosen), chosen


async def test_jobs_of_absent_models_do_not_block_others_of_their_priority(tmp_path: Path) -> None:
    routing = Routing(node_id="absent", strict=True)
    async with EmulatedSystem(tmp_path, pace=Pace(job_window=4, job_hold_s=0.3)) as s:
        stuck = [await s.client.generate_async(MODEL, "x", routing=routing) for _ in range(8)]
        fine = await s.count(2)
        assert (await s.client.wait_for_task(fine, timeout_s=30)).text.split() == ["1", "0"]
        assert (await s.client.jobs.get(stuck[0])).state is JobState.QUEUED
        for job_id in stuck:
            await s.client.jobs.cancel(job_id)
