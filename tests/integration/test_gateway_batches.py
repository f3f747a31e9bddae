"""OpenAI's files and batches over durable jobs, on a whole fleet in one program."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from sollol_agents.gateway.batches.store import ANYBODY, Records
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_schemas.batches import BatchRecord, BatchState

openai = pytest.importorskip("openai")

MODEL = "m"
CHAT = "/v1/chat/completions"


def world(tmp_path: Path, *, decode_tps: float = 2000.0, **settings: Any) -> EmulatedSystem:
    return EmulatedSystem(tmp_path, decode_tps=decode_tps, gateway=GatewayConfig(port=0, **settings))


def chat_lines(counts: list[int], *, model: str = MODEL) -> bytes:
    lines = [
        {
            "custom_id": f"r{index}",
            "method": "POST",
            "url": CHAT,
            "body": {"model": model, "messages": [{"role": "user", "content": f"count {count}"}]},
        }
        for index, count in enumerate(counts)
    ]
    return "\n".join(json.dumps(line) for line in lines).encode()


async def uploaded(http: httpx.AsyncClient, content: bytes, **headers: str) -> str:
    answer = await http.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}, headers=headers
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def begun(http: httpx.AsyncClient, file_id: str, endpoint: str = CHAT, **headers: str) -> str:
    asked = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
    answer = await http.post("/v1/batches", json=asked, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def ended(http: httpx.AsyncClient, batch_id: str, **headers: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def is_over() -> bool:
        found.update((await http.get(f"/v1/batches/{batch_id}", headers=headers)).json())
        return found["status"] in ("completed", "failed", "cancelled", "expired")

    await eventually(is_over)
    return found


async def content(http: httpx.AsyncClient, file_id: str) -> list[dict[str, Any]]:
    answer = await http.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


def said(line: dict[str, Any]) -> list[str]:
    return str(line["response"]["body"]["choices"][0]["message"]["content"]).split()


async def test_openais_client_runs_a_batch_from_upload_to_answers(tmp_path: Path) -> None:
    async with (
        world(tmp_path) as here,
        openai.AsyncOpenAI(base_url=f"{here.stack.http_url}/v1", api_key="none") as client,
    ):
        file = await client.files.create(file=("in.jsonl", chat_lines([3, 1, 2])), purpose="batch")
        assert (file.object, file.purpose, file.bytes, file.filename) == ("file", "batch", 440, "in.jsonl")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint=CHAT,
            completion_window="24h",
            metadata={"for": "test"},
            extra_headers={"X-Sollol-Priority": "Low"},
        )
        assert batch.status == "validating"
        with pytest.raises(openai.BadRequestError, match="priority 'hasty' is not allowed"):
            await client.batches.create(
                input_file_id=file.id,
                endpoint=CHAT,
                completion_window="24h",
                extra_headers={"X-Sollol-Priority": "hasty"},
            )
        async with asyncio.timeout(40):
            while batch.status not in ("completed", "failed"):
                await asyncio.sleep(0.1)  # the client has no way to wait
                batch = await client.batches.retrieve(batch.id)
        assert batch.status == "completed"
        assert batch.metadata == {"for": "test"}
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (3, 3, 0)
        assert {news.priority for news in here.news} == {2}
        assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
        assert batch.error_file_id is None
        answers = [json.loads(line) for line in (await client.files.content(batch.output_file_id)).text.splitlines()]
        assert [(line["custom_id"], said(line)) for line in answers] == [
            ("r0", ["2", "1", "0"]),
            ("r1", ["0"]),
            ("r2", ["1", "0"]),
        ]
        assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in answers)
        assert [one.id async for one in client.batches.list()] == [batch.id]
        assert {one.id async for one in client.files.list()} == {file.id, batch.output_file_id}
        assert [one.id async for one in client.files.list(purpose="batch")] == [file.id]
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file.id)


async def test_requests_that_fail_are_told_in_the_file_of_errors(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        lines = chat_lines([1]) + b"\n" + chat_lines([1], model="nowhere").replace(b"r0", b"lost") + b"\n\n"
        batch = await ended(here.http, await begun(here.http, await uploaded(here.http, lines)))
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        assert [line["custom_id"] for line in await content(here.http, batch["output_file_id"])] == ["r0"]
        [error] = await content(here.http, batch["error_file_id"])
        assert error["custom_id"] == "lost"
        assert error["response"]["status_code"] == 404
        assert "nowhere" in error["response"]["body"]["error"]["message"]


async def test_embeddings_run_as_a_batch(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        body = {"model": "nomic-embed-text", "input": "a cat"}
        line = json.dumps({"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": body}).encode()
        batch_id = await begun(here.http, await uploaded(here.http, line), "/v1/embeddings")
        batch = await ended(here.http, batch_id)
        [answer] = await content(here.http, batch["output_file_id"])
        assert answer["response"]["body"]["data"][0]["embedding"]


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"no json", "invalid_json_line", 1),
        (b"\n\n", "empty_file", None),
        (chat_lines([1]) + b"\n" + chat_lines([1]), "duplicate_custom_id", 2),
        (chat_lines([1]).replace(b"/chat/", b"/cat/"), "mismatched_endpoint", 1),
        (chat_lines([1]).replace(b'"messages"', b'"stream": true, "messages"'), "stream_not_supported", 1),
        (chat_lines([1]).replace(b'"POST"', b'"GET"'), "invalid_method", 1),
    ],
    ids=["no-json", "empty", "twice", "other-endpoint", "stream", "method"],
)
def test_files_that_are_no_batch_are_told_by_line(content: bytes, code: str, line: int | None) -> None:
    from sollol_agents.gateway.batches.lines import Checked

    checked = Checked(CHAT, 10)
    for number, text in enumerate(content.split(b"\n"), 1):
        if text.strip():
            checked.takes(text, number)
    if line is None:
        assert checked.total == 0
    else:
        assert [(p.code, p.line) for p in checked.problems] == [(code, line)]


async def test_a_file_that_is_no_batch_fails_it(tmp_path: Path) -> None:
    async with world(tmp_path, max_batch_requests=2) as here:
        batch = await ended(here.http, await begun(here.http, await uploaded(here.http, b"no json")))
        assert (batch["status"], batch["errors"]["data"][0]["line"]) == ("failed", 1)
        batch = await ended(here.http, await begun(here.http, await uploaded(here.http, chat_lines([1, 1, 1]))))
        assert batch["errors"]["data"][0]["code"] == "too_many_tasks"


async def test_a_cancelled_batch_keeps_what_was_answered(tmp_path: Path) -> None:
    async with world(tmp_path, decode_tps=20.0) as here:
        batch_id = await begun(here.http, await uploaded(here.http, chat_lines([1, 1, *([300] * 40)])))

        async def has_answers() -> bool:
            return bool((await here.http.get(f"/v1/batches/{batch_id}")).json()["request_counts"]["completed"] == 2)

        await eventually(has_answers)
        answer = await here.http.post(f"/v1/batches/{batch_id}/cancel")
        assert answer.json()["status"] == "cancelling"
        batch = await ended(here.http, batch_id)
        assert batch["status"] == "cancelled"
        assert batch["request_counts"] == {"total": 42, "completed": 2, "failed": 0}
        assert [line["custom_id"] for line in await content(here.http, batch["output_file_id"])] == ["r0", "r1"]
        assert (await here.http.post(f"/v1/batches/{batch_id}/cancel")).status_code == 409
        jobs = next(actor for actor in here.stack.actors if actor.name == "node")
        await eventually(lambda: not jobs.in_flight())


async def test_another_gateway_goes_on_when_the_one_at_work_stops(tmp_path: Path) -> None:
    async with world(tmp_path, decode_tps=200.0, drain_timeout_s=0.5) as here:
        batch_id = await begun(here.http, await uploaded(here.http, chat_lines([100] * 24)))

        async def has_begun() -> bool:
            return bool((await here.http.get(f"/v1/batches/{batch_id}")).json()["request_counts"]["completed"] >= 2)

        await eventually(has_begun)
        async with (
            here.beside(GatewayConfig(port=0)) as second,
            httpx.AsyncClient(base_url=second.url, timeout=30, trust_env=False) as http,
        ):
            assert (await http.get(f"/v1/batches/{batch_id}")).json()["status"] == "in_progress"
            here.gateway.stop()
            batch = await ended(http, batch_id)
            assert batch["request_counts"] == {"total": 24, "completed": 24, "failed": 0}
            answers = await content(http, batch["output_file_id"])
            assert [line["custom_id"] for line in answers] == [f"r{index}" for index in range(24)]


async def test_a_batch_whose_gateway_died_is_taken_over(tmp_path: Path) -> None:
    async with world(tmp_path, batches_at_once=0) as here:
        batch_id = await begun(here.http, await uploaded(here.http, chat_lines([2, 1])))
        batches = Records(here.gateway.bus, "batch", BatchRecord)
        record, revision = await batches.find(batch_id, ANYBODY)
        assert record is not None
        assert record.worker == ""  # this gateway works on none
        dead = msgspec.structs.replace(record, worker="dead")
        assert await batches.write(dead, batch_id, revision) is not None
        async with here.beside(GatewayConfig(port=0)):
            batch = await ended(here.http, batch_id)
        assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


async def test_a_worker_that_was_replaced_stops(tmp_path: Path) -> None:
    async with world(tmp_path, decode_tps=50.0) as here:
        batch_id = await begun(here.http, await uploaded(here.http, chat_lines([200] * 4)))
        batches = Records(here.gateway.bus, "batch", BatchRecord)

        async def is_replaced() -> bool:
            record, revision = await batches.find(batch_id, ANYBODY)
            if record is None or record.state is not BatchState.IN_PROGRESS:
                return False
            other = msgspec.structs.replace(record, worker="other")
            return await batches.write(other, batch_id, revision) is not None

        await eventually(is_replaced)
        await eventually(lambda: not any(t.get_name() == f"batch {batch_id}" for t in asyncio.all_tasks()))
        record, _ = await batches.find(batch_id, ANYBODY)
        assert record is not None
        assert (record.worker, record.state) == ("other", BatchState.IN_PROGRESS)


async def test_files_and_batches_belong_to_the_key_that_made_them(tmp_path: Path) -> None:
    async with world(tmp_path, require_key=True, max_stored_bytes=2048) as here:
        store = KeyStore(here.gateway.bus)
        secrets, ids = {}, {}
        for name in ("one", "two", "boss"):
            key, secrets[name] = await store.create(name, is_admin=name == "boss")
            ids[name] = key.key_id
        bearer = {name: {"Authorization": f"Bearer {secret}"} for name, secret in secrets.items()}
        async with asyncio.timeout(10):
            while (await here.http.get("/v1/files", headers=bearer["boss"])).status_code == 401:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the gateway hears of the keys a moment later
        file_id = await uploaded(here.http, chat_lines([1]), **bearer["one"])
        batch_id = await begun(here.http, file_id, **bearer["one"])
        for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content", f"/v1/batches/{batch_id}"):
            assert (await here.http.get(path, headers=bearer["two"])).status_code == 404
            assert (await here.http.get(path, headers=bearer["one"])).status_code == 200
            assert (await here.http.get(path, headers=bearer["boss"])).status_code == 200
        asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        assert (await here.http.post("/v1/batches", json=asked, headers=bearer["two"])).status_code == 404
        assert (await here.http.get("/v1/batches", headers=bearer["two"])).json()["data"] == []
        assert (await ended(here.http, batch_id, **bearer["one"]))["status"] == "completed"
        of_batch = {"one": [f"{batch_id}-0"], "two": [], "boss": [f"key-{ids['one']}={batch_id}-0"]}
        for name, expected in of_batch.items():
            listed = (await here.http.get("/api/jobs", headers=bearer[name])).json()
            assert [job["job_id"] for job in listed.get("jobs", [])] == expected
        too_much = {"file": ("in.jsonl", chat_lines([1] * 20))}
        refused = await here.http.post("/v1/files", data={"purpose": "batch"}, files=too_much, headers=bearer["one"])
        assert refused.status_code == 413
        assert "delete some" in refused.json()["error"]["message"]


UNUSABLE_UPLOADS: list[tuple[dict[str, Any], int]] = [
    ({"json": {}}, 400),
    ({"data": {"purpose": "batch"}, "files": {"other": ("x", b"{}")}}, 400),
    ({"data": {"purpose": "fine-tune"}, "files": {"file": ("x", b"{}")}}, 400),
    ({"data": {"purpose": "batch"}, "files": {"file": ("x", b"x" * 5000)}}, 413),
    ({"content": b"--b\r\nrubbish", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400),
    ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400),
]


async def test_uploads_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    async with world(tmp_path, max_file_bytes=4096) as here:
        for kwargs, status in UNUSABLE_UPLOADS:
            answer = await here.http.post("/v1/files", **kwargs)
            assert answer.status_code == status, kwargs
            assert answer.json()["error"]["message"]
        assert (await here.http.get("/v1/files")).json()["data"] == []
