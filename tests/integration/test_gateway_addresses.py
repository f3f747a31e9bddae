"""Where engines listen is told to administrators alone: in headers, in bodies, on pages and in what is called back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_bus.sdk.jobs import make_job

BODY = {"model": "m", "prompt": "count 2"}
HEADER = "x-sollol-node-url"


async def test_an_administrators_key_is_told_where_engines_listen_and_no_other(tmp_path: Path) -> None:
    async with EmulatedSystem(
        tmp_path, slots=2, decode_tps=50.0, gateway=GatewayConfig(port=0, require_key=True)
    ) as here:
        store = KeyStore(here.gateway.bus)
        _, secret = await store.create("program")
        _, boss = await store.create("boss", is_admin=True)
        program, admin = ({"Authorization": f"Bearer {one}"} for one in (secret, boss))
        async with asyncio.timeout(10):
            while (await here.http.get("/api/jobs", headers=admin)).status_code == 401:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the gateway hears of the keys a moment later
        seen = (await here.http.post("/api/generate", json={**BODY, "stream": False}, headers=admin)).headers[HEADER]
        assert seen.startswith("http://127.0.0.1:")
        chat = {"model": "m", "messages": [{"role": "user", "content": "count 2"}]}
        for headers, is_told in ((admin, True), (program, False)):
            for is_stream in (False, True):
                native = await here.http.post("/api/generate", json={**BODY, "stream": is_stream}, headers=headers)
                passed = await here.http.post(
                    "/v1/chat/completions", json={**chat, "stream": is_stream}, headers=headers
                )
                for answer in (native, passed):
                    assert answer.headers["x-sollol-node"] == "n1"
                    assert (answer.headers.get(HEADER) == seen) is is_told
                    assert (HEADER in answer.headers) is is_told
                assert "_sollol_routing" in native.text
                assert (seen in native.text) is is_told
            page = await here.http.get("/api/dashboard", headers=headers)
            assert "n1" in page.text
            assert (seen in page.text) is is_told


async def test_whoever_comes_from_this_machine_alone_is_told(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=2, decode_tps=50.0, gateway=GatewayConfig(port=0)) as here:
        assert HEADER in (await here.http.post("/api/generate", json={**BODY, "stream": False})).headers


async def test_the_result_of_a_job_names_the_node_and_no_address(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=2, decode_tps=50.0, gateway=GatewayConfig(port=0)) as here:
        await here.client.jobs.submit(make_job(BODY), job_id="j")
        answer = await here.client.jobs.end("j", timeout_s=20)
        assert answer.result is not None
        assert answer.result.decision is not None
        assert (answer.result.decision.node_id, answer.result.decision.node_url) == ("n1", "")
