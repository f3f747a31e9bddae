"""Answers of many megabytes: whole on every way to the caller, or refused in words that charge nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.strict_engine import MODEL, StrictEngine
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_bus.sdk.job_making import make_job
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus

COUNT = 2000
WIDTH = 768
NUMBER = "-0.07634799184083939"  # as long as an engine writes it


@asynccontextmanager
async def embedding(folder: Path, *, width: int, nodes: int = 1) -> AsyncIterator[EmulatedSystem]:
    """A system whose nodes embed a text as so many numbers."""
    vector = f"[{','.join([NUMBER] * width)}]"
    async with (
        StrictEngine(vector) as engine,
        EmulatedSystem(folder, nodes=0, gateway=GatewayConfig(port=0)) as system,
    ):
        for number in range(nodes):
            await system.stack.add_engine(engine.url, node_id=f"v{number}", engine="openai")

        async def all_know_the_model() -> bool:
            views = (await system.client.models()).models
            return any(len(view.installed_on) == nodes for view in views if MODEL in view.name)

        await eventually(all_know_the_model)
        yield system


def texts(count: int) -> list[str]:
    return [f"text {number % 3}" for number in range(count)]


async def test_thousands_of_vectors_come_whole_on_every_way(tmp_path: Path) -> None:
    async with embedding(tmp_path, width=WIDTH) as system:
        body = {"model": MODEL, "input": texts(COUNT)}
        vectors = [[float(NUMBER)] * WIDTH] * COUNT
        native = await system.http.post("/api/embed", json=body, timeout=60)
        assert native.json()["embeddings"] == vectors
        openai = (await system.http.post("/v1/embeddings", json=body, timeout=60)).json()
        assert [one["embedding"] for one in openai["data"]] == vectors
        assert (await system.client.embed(MODEL, body["input"])).embeddings == vectors
        job_id = await system.client.jobs.submit(make_job(body))
        answer = await system.client.jobs.wait(job_id, timeout_s=60)
        assert answer.body["embeddings"] == vectors
        assert {outcome.status for outcome in system.outcomes} == {OutcomeStatus.SUCCESS}


async def test_hundreds_of_vectors_come_whole_from_an_ollama(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, gateway=GatewayConfig(port=0)) as system:
        body = {"model": "nomic-embed-text", "input": texts(600)}
        native: Any = (await system.http.post("/api/embed", json=body, timeout=60)).json()
        assert [len(one) for one in native["embeddings"]] == [WIDTH] * 600


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings"])
async def test_an_answer_that_nobody_could_put_together_is_the_requests_fault_and_tried_once(
    tmp_path: Path, path: str
) -> None:
    async with embedding(tmp_path, width=4096, nodes=2) as system:
        body = {"model": MODEL, "input": texts(900)}
        answer = await system.http.post(path, json=body, timeout=60)
        assert (answer.status_code, "ask for less" in answer.text) == (413, True)
        await eventually(lambda: bool(system.outcomes))
        (outcome,) = system.outcomes
        # Success, too: a node may have said everything before it hears that nobody can use it.
        assert outcome.status not in {OutcomeStatus.FAILED, OutcomeStatus.PRESUMED_LOST}
        if path == "/api/embed":
            with pytest.raises(SollolError) as caught:
                await system.client.embed(MODEL, body["input"])
            assert caught.value.body.code is ErrorCode.REPLY_TOO_LARGE
        assert [b for b in (await system.client.breakers()).breakers if b.failures] == []
