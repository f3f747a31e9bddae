"""What only an emulated node does on purpose: loads, evictions, full queues and faults."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.lab.testing.waiting import eventually

MODELS = ("countdown", "small:3b=3.2", "large:32b=32.8", "nomic-embed-text=0.137")
GENERATE = {"model": "countdown", "prompt": "count 30"}


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[EmulatedNode, httpx.AsyncClient]]:
    config = msgspec.convert({"preset": "steady", "model": MODELS, "time_scale": 20.0} | settings, EmulatorConfig)
    async with EmulatedNode(config) as node, httpx.AsyncClient(base_url=node.url, timeout=20) as client:
        yield node, client


async def loaded_names(client: httpx.AsyncClient) -> list[str]:
    return [model["name"] for model in (await client.get("/api/ps")).json()["models"]]


async def generate(client: httpx.AsyncClient, model: str, prompt: str = "count 2", **more: Any) -> httpx.Response:
    return await client.post("/api/generate", json={"model": model, "prompt": prompt, "stream": False} | more)


@asynccontextmanager
async def streaming(client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream of which the first has come and which goes on for long."""
    body = {"model": "countdown", "prompt": "count 999"}
    async with client.stream("POST", "/api/generate", json=body) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        yield lines


async def read_into(seen: list[str], lines: AsyncIterator[str]) -> None:
    async for line in lines:
        seen.append(line)  # noqa: PERF401 - what came before a failure counts


async def generate_into(seen: list[str], client: httpx.AsyncClient) -> None:
    async with client.stream("POST", "/api/generate", json=GENERATE) as answer:
        await read_into(seen, answer.aiter_lines())


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


# faults


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.TRUNCATE])
async def test_a_connection_may_end_in_the_middle_of_a_stream(kind: FaultKind) -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=kind, after_tokens=3))
        seen: list[str] = []
        with pytest.raises(httpx.TransportError):
            await generate_into(seen, client)
        assert len(seen) <= 3
        assert (await generate(client, "countdown")).status_code == 200


async def test_a_connection_may_be_reset_before_any_header() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.RESET))
        with pytest.raises(httpx.TransportError):
            await generate(client, "countdown")


@pytest.mark.parametrize("kind", [FaultKind.LOAD_ERROR, FaultKind.OUT_OF_MEMORY])
async def test_a_load_may_fail(kind: FaultKind) -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=kind))
        answer = await generate(client, "countdown")
        assert answer.status_code == 500
        assert answer.json()["error"].startswith("llama runner process has terminated")


async def test_an_engine_may_die_in_the_middle_of_a_native_stream() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.ERROR_LINE, after_tokens=2))
        answer = await client.post("/api/generate", json=GENERATE)
        last = json.loads(answer.text.splitlines()[-1])
        assert last == {"error": "an error was encountered while running the model: unexpected EOF"}
        assert len(answer.text.splitlines()) == 3


async def test_killed_engines_end_their_answers_and_are_found_out_by_the_next_request() -> None:
    async with running(decode_tps=50.0, time_scale=1.0) as (node, client):
        async with streaming(client) as lines:
            waiting = asyncio.get_running_loop().create_task(generate(client, "countdown"))
            while not node.state()["models"][0]["waiting"]:  # noqa: ASYNC110 - a state sends no signal
                await asyncio.sleep(0.005)
            node.inject(Fault(kind=FaultKind.KILL_RUNNERS))
            seen: list[str] = []
            await read_into(seen, lines)
            assert json.loads(seen[-1])["error"].endswith("unexpected EOF")
            queued = await waiting
        assert (queued.status_code, queued.json()["error"]) == (
            500,
            "llama-server process no longer running: unknown ",
        )
        assert await loaded_names(client) == ["countdown:latest"]
        assert (await generate(client, "countdown")).status_code == 200
        assert node.state()["runners_started"] == 2


async def test_an_engine_that_dies_without_a_stream_is_a_server_error() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.ERROR_LINE, after_tokens=2))
        assert (await generate(client, "countdown", "count 30")).status_code == 500


async def test_the_openai_stream_hides_the_death_of_the_engine() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.ERROR_LINE, after_tokens=2))
        body = {"model": "countdown", "messages": [{"role": "user", "content": "count 30"}], "stream": True}
        text = (await client.post("/v1/chat/completions", json=body)).text
        assert "[DONE]" not in text
        assert '"finish_reason":"' not in text
        assert json.loads(text.split("data: ")[-1])["model"] == ""


async def test_a_stream_may_end_without_its_last_message() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.END_EARLY, after_tokens=4))
        seen = [json.loads(line) for line in (await client.post("/api/generate", json=GENERATE)).text.splitlines()]
        assert [line["done"] for line in seen] == [False] * 4


async def test_a_stall_keeps_the_slot_until_it_ends() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.STALL, after_tokens=2, duration_s=0.3))
        async with client.stream("POST", "/api/generate", json=GENERATE) as answer:
            reading = answer.aiter_lines()
            await anext(reading)
            await anext(reading)
            assert node.state()["models"][0]["running"] == 1
            rest = [json.loads(line) async for line in reading]
        assert rest[-1]["done"]


async def test_a_stall_without_end_lasts_until_the_client_leaves() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.STALL))
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/api/generate", json=GENERATE, timeout=0.2)

        async def is_free() -> bool:
            return bool(node.state()["models"][0]["running"] == 0)

        await eventually(is_free)


async def test_slow_tokens_take_longer() -> None:
    async with running() as (node, client):
        fast = (await generate(client, "countdown", "count 10")).json()["eval_duration"]
        node.inject(Fault(kind=FaultKind.SLOW, factor=5))
        slow = (await generate(client, "countdown", "count 10")).json()["eval_duration"]
        assert slow == pytest.approx(5 * fast, rel=0.1)


async def test_ps_may_hang_while_inference_goes_on() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.HANG, path="/api/ps"))
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/api/ps", timeout=0.2)
        assert (await generate(client, "countdown")).status_code == 200
        assert len(await loaded_names(client)) == 1


async def test_ps_may_lag() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.PS_LAG, duration_s=60))
        await generate(client, "countdown")
        assert await loaded_names(client) == []


async def test_an_answer_may_be_no_answer_at_all() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.WRONG_CONTENT))
        answer = await generate(client, "countdown")
        assert answer.status_code == 200
        assert "html" in answer.text


async def test_a_restart_loses_models_and_running_requests_but_keeps_the_address() -> None:
    async with running() as (node, client):
        async with streaming(client) as lines:
            node.inject(Fault(kind=FaultKind.RESTART))
            with pytest.raises(httpx.TransportError):
                await read_into([], lines)
        assert await loaded_names(client) == []
        assert (await generate(client, "countdown")).status_code == 200


async def test_a_refused_port_opens_again() -> None:
    async with running() as (node, client):
        node.inject(Fault(kind=FaultKind.REFUSE, duration_s=0.3))
        with pytest.raises(httpx.ConnectError):
            await client.get("/api/version")

        async def is_back() -> bool:
            try:
                return (await client.get("/api/version")).status_code == 200
            except httpx.ConnectError:
                return False

        await eventually(is_back)


async def test_faults_may_be_set_and_cleared_from_another_process() -> None:
    async with running() as (_, client):
        fault = {"kind": "load_error", "times": 0}
        assert (await client.post("/emulator/faults", json=fault)).status_code == 200
        assert (await generate(client, "countdown")).status_code == 500
        assert (await client.delete("/emulator/faults")).status_code == 200
        assert (await generate(client, "countdown")).status_code == 200
        assert (await client.post("/emulator/faults", json={"kind": "flood"})).status_code == 400


async def test_embeddings_meet_faults_too() -> None:
    async with running() as (node, client):
        body = {"model": "nomic-embed-text", "input": "hello"}
        node.inject(Fault(kind=FaultKind.ERROR_LINE, path="/api/embed"))
        assert (await client.post("/api/embed", json=body)).status_code == 500
        node.inject(Fault(kind=FaultKind.RESET, path="/api/embed"))
        with pytest.raises(httpx.TransportError):
            await client.post("/api/embed", json=body)
        assert (await client.post("/api/embed", json=body)).status_code == 200


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
