"""Nodes called by where they are, in every place where a node is named; the engines are emulated."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from sollol_agents.lab.testing.gateway_questions import ANY_PORT
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BadRequest
from sollol_bus.sdk.client import Client
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.queries import NodesReply
from sollol_schemas.routing import Routing


async def _is_draining(client: Client, node_id: str) -> bool:
    return (await client.node(node_id)).telemetry.is_draining


async def test_two_engines_of_one_machine_are_called_by_their_ports_wherever_a_node_is_named(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=2, gateway=ANY_PORT) as here:
        client, host = here.client, socket.gethostname()
        port = here.engines["n2"].url.rpartition(":")[2]
        body = {"model": MODEL, "prompt": "count down from 1", "stream": False}
        for name in (f"{host}:{port}", here.engines["n2"].url, f"localhost:{port}"):
            answer = await client.generate(MODEL, "count down from 1", routing=Routing(node_id=name, strict=True))
            assert answer.decision is not None
            assert answer.decision.node_id == "n2"
            said = {"node_id": name, "strict": True}
            assert (await here.http.post("/api/generate", json=body | said)).headers["x-sollol-node"] == "n2"
            head = {"X-Sollol-Node-Id": name, "X-Sollol-Strict": "true"}
            chat = {"model": MODEL, "messages": [{"role": "user", "content": "count down from 1"}], "max_tokens": 3}
            answered = await here.http.post("/v1/chat/completions", json=chat, headers=head)
            assert answered.headers["x-sollol-node"] == "n2"
            tags = (await here.http.get("/api/ps", headers=head)).json()["models"]
            assert {row["node_id"] for row in tags} == {"n2"}
            assert (await client.node(name)).node_id == "n2"
        job_id = await client.generate_async(MODEL, "1", routing=Routing(node_id=f"{host}:{port}", strict=True))
        assert (await client.wait_for_task(job_id, timeout_s=10)).text
        assert next(o for o in here.outcomes if o.decision.job_id).node_id == "n2"
        assert (await client.drain(here.engines["n2"].url)).node_id == "n2"
        await eventually(_is_draining, client, "n2")
        assert (await client.undrain(f"localhost:{port}")).node_id == "n2"
        assert (await client.load(f"{host}:{port}", MODEL)).node_id == "n2"
        told = await client.reliability(here.engines["n2"].url)
        assert {entry.node_id for entry in told.entries} == {"n2"}
        assert await client.reset_breakers(here.engines["n2"].url) is not None

        for name in (host, "localhost"):
            answer = await client.generate(MODEL, "count down from 1", routing=Routing(node_id=name, strict=True))
            assert answer.decision is not None
            assert answer.decision.node_id in ("n1", "n2")
            listed = rf"'{re.escape(name)}' names 2 nodes: n1 \(port \d+\), n2 \(port \d+\)"
            with pytest.raises(BadRequest, match=listed):
                await client.drain(name)
            with pytest.raises(BadRequest, match=listed):
                await client.reliability(name)
            with pytest.raises(BadRequest, match=listed):
                await client.reset_breakers(name)
            answered = await here.http.post("/api/generate", json=body | {"node_id": name})
            assert answered.headers["X-Sollol-Node"] in ("n1", "n2")
            refused = await here.http.post("/api/pull", json={"model": "x"}, headers={"X-Sollol-Node-Id": name})
            assert refused.status_code == 400
        with pytest.raises(BadRequest, match=r"no node is known as '192\.0\.2\.1'") as caught:
            await client.drain("192.0.2.1")
        assert caught.value.body.code is ErrorCode.UNKNOWN_NODE
        with pytest.raises(BadRequest, match="node"):
            await client._ask(subjects.NODES, {"node": "a b"}, NodesReply)
