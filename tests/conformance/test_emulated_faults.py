"""The faults that an emulated node has on purpose."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.emulated_machine import GENERATE, generate, loaded_names, read_into, running, streaming
from sollol_agents.lab.testing.waiting import eventually


async def generate_into(seen: list[str], client: httpx.AsyncClient) -> None:
    async with client.stream("POST", "/api/generate", json=GENERATE) as answer:
        await read_into(seen, answer.aiter_lines())


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
