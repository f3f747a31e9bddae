"""Durable jobs over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_bus.sdk.jobs import make_job

MODEL = "m"


def world(tmp_path: Path, **settings: Any) -> EmulatedSystem:
    return EmulatedSystem(tmp_path, slots=2, decode_tps=50.0, gateway=GatewayConfig(port=0, **settings))


def job(count: int, **fields: Any) -> dict[str, Any]:
    return {"body": {"model": MODEL, "prompt": f"count {count}"}, **fields}


async def test_a_job_is_submitted_followed_and_fetched(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        stored = await here.http.post("/api/jobs", json=job(3, id="story-1", priority="low"))
        assert (stored.status_code, stored.json()) == (202, {"job_id": "story-1", "state": "queued"})
        assert stored.headers["location"] == "/api/jobs/story-1"
        assert (await here.http.post("/api/jobs", json=job(3, id="story-1"))).status_code == 202
        assert (await here.http.post("/api/jobs", json=job(4, id="story-1"))).status_code == 409
        status = (await here.http.get("/api/jobs/story-1/wait")).json()
        assert (status["state"], status["priority"], status["tries"]) == ("done", 2, 1)
        assert (await here.http.get("/api/jobs/story-1")).json()["state"] == "done"
        result = await here.http.get("/api/jobs/story-1/result")
        assert result.json()["response"].split() == ["2", "1", "0"]
        assert result.headers["x-sollol-node"] == "n1"
        listed = (await here.http.get("/api/jobs", params={"state": "done"})).json()
        assert [one["job_id"] for one in listed["jobs"]] == ["story-1"]
        assert (await here.http.delete("/api/jobs/story-1")).json() == {"job_id": "story-1", "purged": True}
        assert (await here.http.get("/api/jobs/story-1")).status_code == 404


async def test_a_job_on_openais_path_gives_openais_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "count 2"}]}
        asked = {"body": body, "path": "/v1/chat/completions"}
        job_id = (await here.http.post("/api/jobs", json=asked)).json()["job_id"]
        assert (await here.http.get(f"/api/jobs/{job_id}/wait")).json()["state"] == "done"
        answer = (await here.http.get(f"/api/jobs/{job_id}/result")).json()
        assert answer["choices"][0]["message"]["content"].split() == ["1", "0"]


async def test_a_running_job_is_waited_for_and_cancelled(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.http.post("/api/jobs", json=job(900, id="long"))
        waited = await here.http.get("/api/jobs/long/wait", params={"timeout_s": 0})
        assert (waited.status_code, waited.json()["job_id"]) == (202, "long")
        unready = await here.http.get("/api/jobs/long/result")
        assert (unready.status_code, "no result yet" in unready.json()["error"]) == (409, True)
        assert (await here.http.post("/api/jobs/long/cancel")).json()["state"] == "cancelled"
        assert (await here.http.post("/api/jobs/long/cancel")).status_code == 409
        assert (await here.http.get("/api/jobs/long/result")).status_code == 499


async def test_a_job_that_failed_is_listed_and_runs_again(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        asked = {"id": "bad", "path": "/api/nothing", "body": {"model": MODEL}}
        await here.http.post("/api/jobs", json=asked)
        assert (await here.http.get("/api/jobs/bad/wait")).json()["state"] == "failed"
        assert [one["job_id"] for one in (await here.http.get("/api/jobs/dead")).json()["jobs"]] == ["bad"]
        assert (await here.http.get("/api/jobs/bad/result")).status_code == 404
        assert (await here.http.post("/api/jobs/bad/retry")).status_code == 202
        assert (await here.http.get("/api/jobs/bad/wait")).json()["run"] == 2


UNUSABLE_JOBS: list[tuple[dict[str, Any], int]] = [
    ({}, 400),
    ({"body": {"model": MODEL}, "nonsense": 1}, 400),
    (job(1, id="no good"), 400),
    (job(1, priority=11), 400),
    (job(1, priority=True), 400),
    (job(1, not_before="tomorrow"), 400),
    (job(1, deadline_s=-1), 400),
    (job(1, path="/slots"), 403),
    (job(1, path="/api/pull"), 403),
    (job(1, callback_url="http://example.com/"), 403),
]


async def test_a_job_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        for asked, status in UNUSABLE_JOBS:
            answer = await here.http.post("/api/jobs", json=asked)
            assert answer.status_code == status, asked
            assert answer.json()["error"]


async def test_a_key_sees_its_own_jobs_and_keeps_to_its_priority(tmp_path: Path) -> None:
    async with world(tmp_path, require_key=True) as here:
        store = KeyStore(here.gateway.bus)
        key, secret = await store.create("one", max_priority=3)
        _, other = await store.create("two")
        _, boss = await store.create("boss", is_admin=True)
        one, two, admin = ({"Authorization": f"Bearer {one}"} for one in (secret, other, boss))
        async with asyncio.timeout(10):
            while (await here.http.get("/api/jobs", headers=admin)).status_code == 401:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the gateway hears of the keys a moment later
        stored = (await here.http.post("/api/jobs", json=job(1, id="mine", priority=9), headers=one)).json()
        assert stored["job_id"] == "mine"
        status = (await here.http.get("/api/jobs/mine/wait", headers=one)).json()
        assert (status["state"], status["priority"]) == ("done", 3)
        assert (await here.http.get(f"/api/jobs/{stored['job_id']}", headers=two)).status_code == 404
        assert (await here.http.get("/api/jobs", headers=two)).json().get("jobs", []) == []
        assert [j["job_id"] for j in (await here.http.get("/api/jobs", headers=one)).json()["jobs"]] == [
            stored["job_id"]
        ]
        full = f"key-{key.key_id}=mine"
        assert [j["job_id"] for j in (await here.http.get("/api/jobs", headers=admin)).json()["jobs"]] == [full]
        assert (await here.http.get(f"/api/jobs/{full}/result", headers=admin)).json()["response"].split() == ["0"]
        for foreign in (full, "mine"):
            assert (await here.http.get(f"/api/jobs/{foreign}", headers=two)).status_code in (400, 404)
        theirs = (await here.http.post("/api/jobs", json=job(2, id="mine"), headers=two)).json()
        assert theirs["job_id"] == "mine", "two keys may call two jobs by one name"
        assert (await here.http.get("/api/jobs/mine/wait", headers=two)).json()["state"] == "done"
        assert (await here.http.get("/api/jobs/mine/result", headers=two)).json()["response"].split() == ["1", "0"]
        assert (await here.http.get("/api/jobs/mine/result", headers=one)).json()["response"].split() == ["0"]
        old = f"{key.key_id}-old"  # as older versions called them
        await here.client.jobs.submit(make_job({"model": MODEL, "prompt": "count 1"}), job_id=old)
        await here.client.jobs.end(old, timeout_s=20)
        assert (await here.http.get(f"/api/jobs/{old}/result", headers=one)).json()["response"].split() == ["0"]
        assert (await here.http.get(f"/api/jobs/{old}", headers=two)).status_code == 404
        assert (await here.http.get(f"/api/jobs/{old}=x", headers=one)).status_code == 400
        spoken = job(1, callback_subject="callbacks.mine")
        assert (await here.http.post("/api/jobs", json=spoken, headers=one)).status_code == 403
