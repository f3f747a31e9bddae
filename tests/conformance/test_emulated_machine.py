"""What only an emulated node does on purpose: loads, evictions and full queues."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import httpx
import pytest

from sollol_agents.lab.testing.emulated_machine import (
    GENERATE,
    MODELS,
    generate,
    loaded_names,
    read_into,
    running,
    streaming,
)
from sollol_agents.lab.testing.waiting import eventually


async def test_a_model_that_does_not_fit_beside_another_evicts_it() -> None:
    async with running() as (_, client):
        await generate(client, "small:3b")
        await generate(client, "large:32b")
        assert await loaded_names(client) == ["large:32b"]


async def test_another_num_ctx_loads_again_and_so_does_none_afterwards() -> None:
    async with running() as (node, client):
        contexts, starts = [], []
        requests: list[dict[str, Any]] = [{}, {}, {"options": {"num_ctx": 2048}}, {"options": {"num_ctx": 2048}}, {}]
        for more in requests:
            await generate(client, "small:3b", **more)
            contexts += [model["context_length"] for model in (await client.get("/api/ps")).json()["models"]]
            starts.append(node.state()["runners_started"])
        assert contexts == [32768, 32768, 2048, 2048, 32768]
        assert starts == [1, 1, 2, 2, 3]


async def test_a_loading_model_is_not_shown_and_its_client_may_abort_the_load() -> None:
    async with running(time_scale=0.001) as (node, client):
        task = asyncio.get_running_loop().create_task(generate(client, "small:3b"))

        async def is_loading() -> bool:
            return bool(node.state()["waiting_for_load"] == 1)

        async def is_idle() -> bool:
            return bool(node.state()["waiting_for_load"] == 0) and node.in_flight == 0

        await eventually(is_loading)
        assert await loaded_names(client) == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(is_idle)
        assert await loaded_names(client) == []


async def test_only_requests_that_need_a_load_meet_the_full_queue() -> None:
    async with running(max_queue=1, max_loaded=1, decode_tps=20.0, time_scale=1.0) as (node, client):
        async with streaming(client):
            waiting = [asyncio.get_running_loop().create_task(generate(client, "small:3b")) for _ in range(5)]
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused = done.pop().result()
            assert refused.status_code == 503
            assert refused.json()["error"] == "server busy, please try again.  maximum pending requests exceeded"
            assert "retry-after" not in refused.headers
            assert node.state()["models"][0]["waiting"] == 0
        answers = await asyncio.gather(*waiting)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]


async def test_a_busy_model_is_waited_for_while_new_requests_for_it_overtake() -> None:
    async with running(max_loaded=1, parallel=2, decode_tps=50.0, time_scale=1.0) as (_, client):
        async with streaming(client):
            starving = asyncio.get_running_loop().create_task(generate(client, "small:3b"))
            overtaking = await generate(client, "countdown")
            assert overtaking.status_code == 200
            assert not starving.done()
        assert (await starving).status_code == 200


async def test_an_idle_model_leaves_when_its_keep_alive_ends() -> None:
    async with running(keep_alive_s=0.2) as (_, client):
        await generate(client, "countdown")

        async def is_empty() -> bool:
            return await loaded_names(client) == []

        await eventually(is_empty)


async def test_the_oldest_turns_are_left_out_when_a_conversation_is_too_long() -> None:
    async with running() as (_, client):
        turns = [{"role": "user", "content": "z" * 3000}, {"role": "assistant", "content": "z" * 3000}]
        body = {
            "model": "countdown",
            "messages": [*turns * 3, {"role": "user", "content": "count 2"}],
            "options": {"num_ctx": 4096},
            "stream": False,
        }
        answer = (await client.post("/api/chat", json=body)).json()
        assert answer["message"]["content"].split() == ["1", "0"]
        assert 3000 < answer["prompt_eval_count"] <= 4096


async def test_a_repeated_prompt_costs_less_the_second_time() -> None:
    async with running(preset="rtx3090-24", time_scale=1.0) as (_, client):
        prompt = "hello world " * 800 + "count 2"
        first = (await generate(client, "small:3b", prompt)).json()
        second = (await generate(client, "small:3b", prompt)).json()
        assert first["prompt_eval_count"] == second["prompt_eval_count"] > 1600
        assert second["prompt_eval_duration"] < first["prompt_eval_duration"] / 5


async def test_the_state_says_that_it_is_emulated_and_shows_the_fake_gpu() -> None:
    async with running(preset="rtx3060-12", preload=("small:3b",)) as (node, client):
        state = (await client.get("/emulator/state")).json()
        assert state["emulated"] is True
        assert state["gpu"]["memory_total_mib"] == 12 * 1024
        assert 2000 < state["gpu"]["memory_used_mib"] < 12 * 1024
        assert node.requests["/emulator/state"] == 1


async def test_a_pull_tells_its_progress_and_brings_the_model() -> None:
    async with running(time_scale=1000.0) as (_, client):
        async with client.stream("POST", "/api/pull", json={"model": "llama3.2:3b"}) as answer:
            reports = [json.loads(line) async for line in answer.aiter_lines()]
        assert [report["status"] for report in reports][:: len(reports) - 1] == ["pulling manifest", "success"]
        assert reports[-4]["completed"] == reports[-4]["total"]
        assert (await generate(client, "llama3.2:3b")).status_code == 200


async def test_a_pull_of_an_unknown_model_fails_inside_the_stream() -> None:
    async with running() as (_, client):
        answer = await client.post("/api/pull", json={"model": "nowhere"})
        assert answer.status_code == 200
        assert "error" in json.loads(answer.text.splitlines()[-1])


async def test_an_uploaded_file_becomes_a_model() -> None:
    content = b"GGUF and what else is in such a file"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    async with running() as (_, client):
        assert (await client.head(f"/api/blobs/{digest}")).status_code == 404
        assert (await client.post(f"/api/blobs/{digest}", content=b"other")).status_code == 400
        assert (await client.post(f"/api/blobs/{digest}", content=content)).status_code == 201
        assert (await client.head(f"/api/blobs/{digest}")).status_code == 200
        made = await client.post("/api/create", json={"model": "mine", "files": {"m.gguf": digest}})
        assert json.loads(made.text.splitlines()[-1]) == {"status": "success"}
        assert (await generate(client, "mine")).status_code == 200


async def test_an_instant_node_answers_the_same_text() -> None:
    async with running(preset="instant") as (_, client):
        answer = (await generate(client, "countdown", "count 5")).json()
        assert answer["response"].split() == ["4", "3", "2", "1", "0"]
        async with client.stream("POST", "/api/generate", json=GENERATE) as stream:
            seen = [json.loads(line) async for line in stream.aiter_lines()]
        assert len(seen) == 31
        assert len(await loaded_names(client)) == len(MODELS)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running(preset="instant") as (node, _):
        host, port = node.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        request = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writer.write(request + request.replace(b"/api/version", b"/"))
        async with asyncio.timeout(5):
            await reader.readuntil(b'"0.33.0"}')
            assert b"200 OK" in await reader.readuntil(b"Ollama is running")
        writer.close()
        await writer.wait_closed()


# life


async def test_a_node_that_cannot_start_says_why() -> None:
    with pytest.raises(ValueError, match="preload: there is no model 'nowhere'"):
        async with running(preload=("nowhere",)):
            pass
    async with running() as (node, _):
        port = int(node.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with running(port=port):
                pass


async def test_stopping_ends_requests_in_flight() -> None:
    async with running() as (node, client):
        async with streaming(client) as lines:
            await node.__aexit__(None, None, None)
            with pytest.raises(httpx.TransportError):
                await read_into([], lines)
        assert node.in_flight == 0
