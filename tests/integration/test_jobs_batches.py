"""Batches as anybody finds them: how far each is follows from its jobs, whoever handed it over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BadRequest, Conflict
from sollol_bus.sdk.batch import Batch
from sollol_bus.sdk.batches import Batches
from sollol_bus.sdk.jobs import make_job
from sollol_schemas.batch_progress import BatchStage, BatchTell
from sollol_schemas.jobs import Job
from sollol_schemas.routing import Routing

NOWHERE = Routing(node_id="absent", strict=True)
"""A job that waits for a node which never comes."""


def countdown(n: int) -> Job:
    return make_job({"model": MODEL, "prompt": f"count down from {n}"})


async def test_how_far_a_batch_is_follows_from_its_jobs_and_is_told_to_whoever_asks(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=2) as s:
        batches = Batches(s.client.jobs)
        told = BatchTell(batch_id="b", total=6, begins=True, requests="/home/me/in.jsonl", host="den")
        assert (await batches.tell(told)).stage is BatchStage.RUNNING
        jobs = [countdown(3), make_job({"model": "nonesuch", "prompt": "x"}), countdown(3), countdown(3)]
        async for _ in Batch(s.client.jobs, "b").answers(enumerate(jobs)):
            pass
        stuck = make_job({"model": MODEL, "prompt": "x"}, routing=NOWHERE)
        await s.client.jobs.submit(stuck, job_id="b-4")
        view = await batches.tell(BatchTell(batch_id="b", total=6, submitted=5))
        assert (view.done, view.failed, view.running, view.waiting, view.submitted) == (3, 1, 0, 1, 5)
        assert (view.stage, view.requests, view.host) == (BatchStage.RUNNING, "/home/me/in.jsonl", "den")
        assert [(one.code, one.count) for one in view.reasons] == [("unknown_model", 1)]
        assert sum(view.by_node.values()) == 3
        assert view.tokens == sum([(await s.client.jobs.get(f"b-{n}")).tokens for n in (0, 2, 3)]) > 0
        assert view.left_s is not None
        await s.client.jobs.submit(countdown(2), job_id="b-5")
        await s.client.jobs.end("b-5", timeout_s=20)
        assert (await batches.tell(BatchTell(batch_id="b", total=6, submitted=6))).done == 4, "not only those in order"
        cancelled = await batches.cancel("b")
        assert (cancelled.stage, cancelled.cancelled, cancelled.waiting) == (BatchStage.CANCELLED, 1, 0)
        assert (await batches.latest()).batches[0] == await batches.get("b")
        again = await batches.tell(BatchTell(batch_id="b", total=6, begins=True))
        assert again.stage is BatchStage.CANCELLED, "what somebody cancelled is not begun again by another"
        await s.client.jobs.purge()
        with pytest.raises(BadRequest, match="no batch is known under b"):
            await batches.get("b")


async def test_a_batch_that_is_begun_again_tells_what_had_ended_before_and_a_job_run_again_is_counted_anew(
    tmp_path: Path,
) -> None:
    async with EmulatedSystem(tmp_path) as s:
        batches = Batches(s.client.jobs)
        jobs = [countdown(1), make_job({"model": "nonesuch", "prompt": "x"})]
        await batches.tell(BatchTell(batch_id="b", total=2, submitted=2, begins=True))
        async for _ in Batch(s.client.jobs, "b").answers(enumerate(jobs)):
            pass
        first = await batches.get("b")
        assert (first.stage, first.done, first.failed, first.earlier) == (BatchStage.DONE, 1, 1, 0)
        assert first.ended_at
        assert (await batches.tell(BatchTell(batch_id="b", total=2, begins=True))).earlier == 2
        with pytest.raises(Conflict, match="has ended already"):
            await batches.cancel("b")
        await s.client.jobs.retry("b-1")

        async def is_counted_anew() -> bool:
            view = await batches.get("b")
            return view.failed == 1 and (await s.client.jobs.get("b-1")).run == 2

        await eventually(is_counted_anew)
        assert (await batches.get("b")).done == 1


async def test_a_batch_whose_file_was_left_is_stopped_once_nothing_of_it_is_on_its_way(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        batches = Batches(s.client.jobs)
        await batches.tell(BatchTell(batch_id="b", total=3, submitted=1, begins=True))
        async for _ in Batch(s.client.jobs, "b").answers(enumerate([countdown(1)])):
            pass

        async def is_stopped() -> bool:
            return (await batches.get("b")).stage is BatchStage.STOPPED

        await eventually(is_stopped)


async def test_a_gateways_batch_is_listed_beside_the_others_and_cancelled_like_them(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, gateway=GatewayConfig(port=0)) as s:
        batches = Batches(s.client.jobs)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "node_id": "absent", "strict": True}
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
        files = {"file": ("in.jsonl", json.dumps(line).encode())}
        file_id = (await s.http.post("/v1/files", files=files, data={"purpose": "batch"})).json()["id"]
        asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch_id = (await s.http.post("/v1/batches", json=asked)).json()["id"]

        async def is_at_work() -> bool:
            view = (await batches.latest()).batches[0]
            return (view.is_of_gateway, view.total, view.waiting) == (True, 1, 1)

        await eventually(is_at_work)
        name = (await batches.latest()).batches[0].batch_id
        assert name.endswith(batch_id)
        assert (await batches.cancel(name)).stage is BatchStage.CANCELLED
