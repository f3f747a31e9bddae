"""A fleet is never its own engine: whatever leads back to it is refused, over any number of hops."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.requests.hops import MOST_HOPS
from sollol_bus.errors import ConfigError, SollolError

GATEWAY = GatewayConfig(port=0)
ASK = {"model": MODEL, "prompt": "count down from 2", "stream": False}


async def test_a_node_refuses_every_gateway_of_its_own_fleet_as_an_engine(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, gateway=GATEWAY) as s, s.beside(GATEWAY) as other:
        for url in (s.stack.http_url, other.url):
            with pytest.raises(ConfigError, match="gateway of this node's own fleet is no engine") as caught:
                await s.stack.add_engine(url, node_id="loop")
            assert url in caught.value.message
            assert "give it the engine's own address" in caught.value.message
        assert {view.node_id for view in (await s.client.nodes()).nodes} == {"n1"}


async def test_a_request_that_met_this_gateway_before_gets_508_and_says_what_to_do(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, gateway=GATEWAY) as s:
        node = next(actor for actor in s.stack.actors if actor.name == "node")
        too_far = ", ".join(f"g{number}" for number in range(MOST_HOPS + 1))
        for via in (s.gateway.instance, f"far, {s.gateway.instance}", f"n1.{node.instance}", too_far):
            answer = await s.http.post("/api/generate", json=ASK, headers={"Sollol-Via": via})
            assert answer.status_code == 508, via
            assert "sollol node --url" in answer.json()["error"]
        for via in ("elsewhere", "n1.another", "a b,;", "n9.x"):
            answer = await s.http.post("/api/generate", json=ASK, headers={"Sollol-Via": via})
            assert answer.status_code == 200, via
        assert (await s.http.get("/")).headers["sollol-gateway"] == s.gateway.instance
        assert (await s.http.get("/api/version")).headers["sollol-gateway"] == s.gateway.instance


async def test_two_fleets_that_are_each_others_engine_end_a_request_instead_of_going_round(tmp_path: Path) -> None:
    async with (
        EmulatedSystem(tmp_path / "a", gateway=GATEWAY) as a,
        EmulatedSystem(tmp_path / "b", gateway=GATEWAY, nodes=0) as b,
    ):
        await b.stack.add_engine(a.stack.http_url, node_id="to-a", slots=2)
        said = await b.client.generate(MODEL, "count down from 2")
        assert said.text.split() == ["1", "0"], "another fleet's gateway may be an engine"
        await a.stack.add_engine(b.stack.http_url, node_id="to-b", slots=2)
        headers = {"X-Sollol-Node-Id": "to-b", "X-Sollol-Strict": "true"}
        async with asyncio.timeout(20):
            answer = await a.http.post("/api/generate", json=ASK, headers=headers)
            assert answer.status_code >= 400
            with pytest.raises(SollolError):
                await a.client.generate(MODEL, "count down from 2", node_id="to-b", strict=True)
            assert (await a.http.post("/api/generate", json=ASK)).status_code == 200
