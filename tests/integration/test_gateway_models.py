"""Models of the fleet, managed through the gateway: what holds once an operation is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually

MODEL = "m"
BIG = "llama3.1:70b"
SLOW = {"download_gbps": 0.001}
DEAD = Fault(kind=FaultKind.REFUSE, duration_s=60.0)
ANY_PORT = GatewayConfig(port=0)
DIGEST = f"sha256:{'0' * 64}"


def world(tmp_path: Path, *, gateway: GatewayConfig = ANY_PORT, **more: Any) -> EmulatedSystem:
    return EmulatedSystem(tmp_path, gateway=gateway, **more)


async def said_by(here: EmulatedSystem, model: str) -> int:
    """The status with which a model answers."""
    body = {"model": model, "prompt": "count 1", "stream": False}
    return (await here.http.post("/api/generate", json=body)).status_code


async def delete(here: EmulatedSystem, model: str) -> httpx.Response:
    return await here.http.request("DELETE", "/api/delete", json={"model": model})


# -- at once ------------------------------------------------------------------------------------------------


async def test_a_model_is_there_when_its_making_is_answered_and_gone_when_its_deletion_is(tmp_path: Path) -> None:
    async with world(tmp_path, engine={"download_gbps": 100.0}) as here:
        for path, body in (
            ("/api/copy", {"source": MODEL, "destination": "new"}),
            ("/api/create", {"model": "new", "from": MODEL}),
            ("/api/create", {"model": "new", "from": MODEL, "stream": False}),
            ("/api/pull", {"model": "llama3.2:3b"}),
        ):
            name = body.get("destination") or body["model"]
            assert (await here.http.post(path, json=body)).status_code == 200
            assert await said_by(here, str(name)) == 200, path
            assert (await delete(here, str(name))).status_code == 200
            assert await said_by(here, str(name)) == 404, path


async def test_a_stream_tells_success_only_when_the_model_is_there(tmp_path: Path) -> None:
    body = {"model": "new", "from": MODEL}
    async with world(tmp_path) as here, here.http.stream("POST", "/api/create", json=body) as answer:
        async for line in answer.aiter_lines():
            if '"success"' in line:
                assert await said_by(here, "new") == 200


# -- what is left -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_pull_ends_on_the_node_when_its_client_leaves(tmp_path: Path, stream: bool) -> None:
    async with world(tmp_path, engine=SLOW) as here:
        engine = here.engines["n1"]
        pulls = engine.requests
        asked = here.http.post("/api/pull", json={"model": BIG, "stream": stream})
        client = asyncio.get_running_loop().create_task(asked)
        await eventually(lambda: pulls["/api/pull"] == 1 and engine.in_flight == 1)
        client.cancel()
        await eventually(lambda: engine.in_flight == 0)


async def test_a_pull_by_a_command_ends_on_the_node_when_the_command_does(tmp_path: Path) -> None:
    async with world(tmp_path, engine=SLOW) as here:
        engine = here.engines["n1"]
        async for _ in here.client.pull("n1", BIG):
            break
        await eventually(lambda: engine.in_flight == 0)


# -- many nodes ---------------------------------------------------------------------------------------------


async def test_a_deletion_goes_on_after_a_node_that_failed_and_names_it(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=3) as here:
        here.engines["n2"].inject(DEAD)
        answer = await delete(here, "other")
        assert answer.status_code >= 500
        assert "n2" in answer.json()["error"]
        assert list(answer.json()["nodes"]) == ["n2"]
        for name in ("n1", "n3"):
            async with httpx.AsyncClient(base_url=here.engines[name].url) as direct:
                rows = (await direct.get("/api/tags")).json()["models"]
                assert "other:latest" not in {row["name"] for row in rows}


async def test_a_pull_everywhere_says_by_its_status_that_it_failed(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=2) as here:
        everywhere = {"X-Sollol-Node-Id": "*"}
        answer = await here.http.post("/api/pull", json={"model": "nope", "stream": False}, headers=everywhere)
        assert answer.status_code == 500
        assert answer.json()["error"], "both say the same, which is told once"


async def test_a_pull_never_goes_to_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=0, engine={"download_gbps": 100.0}) as here:
        await here.node("roomy", engine={"preset": "h100-80"})
        await here.node("small", engine={"preset": "n150"})
        here.engines["roomy"].inject(DEAD)

        async def is_known() -> bool:
            nodes = (await here.client.nodes()).nodes
            return any(v.node_id == "roomy" and not v.telemetry.engine.is_reachable for v in nodes)

        await eventually(is_known)
        answer = await here.http.post("/api/pull", json={"model": "llama3.2:3b", "stream": False})
        assert answer.json() == {"status": "success"}
        assert here.engines["small"].requests["/api/pull"] == 1


async def test_a_model_made_from_one_that_nobody_has_is_pulled_by_the_engine(tmp_path: Path) -> None:
    async with world(tmp_path, engine={"preset": "recorded", "preload": (), "model": ()}) as here:
        answer = await here.http.post("/api/create", json={"model": "x", "from": "nope", "stream": False})
        assert answer.status_code == 500
        assert "pull model manifest" in answer.json()["error"]


# -- who may ------------------------------------------------------------------------------------------------


async def test_files_are_looked_for_by_administrators_alone(tmp_path: Path) -> None:
    async with world(tmp_path, gateway=GatewayConfig(port=0, require_key=True)) as here:
        store = KeyStore(here.gateway.bus)
        _, user = await store.create("user")
        _, admin = await store.create("admin", is_admin=True)

        async def head(secret: str) -> int:
            return (await here.http.head(f"/api/blobs/{DIGEST}", headers={"x-api-key": secret})).status_code

        async def is_known() -> bool:
            return await head(admin) == 404

        await eventually(is_known)
        assert await head(user) == 403
