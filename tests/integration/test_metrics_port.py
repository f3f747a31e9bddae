"""A process serves the metrics of its actors when it is given a port, and only what is documented."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.processes import clean_environ
from sollol_agents.metering.catalog import of_actors
from sollol_agents.metering.config import MetricsConfig
from sollol_agents.metering.server import MetricsServer
from sollol_agents.node.config import NodeConfig
from sollol_agents.stack import LocalStack
from sollol_bus.errors import ConfigError
from sollol_bus.server.server import EmbeddedServer

MODEL = "llama3.2:3b"
ON = MetricsConfig(port=0)


async def test_everything_that_is_documented_is_served_after_a_request(tmp_path: Path) -> None:
    emulated = EmulatorConfig(preset="rtx4090-24", model=(f"{MODEL}=3.2",), preload=(MODEL,), time_scale=50.0)
    async with EmulatedNode(emulated) as engine, httpx.AsyncClient() as http:
        node = NodeConfig(node_id="attic", engine="ollama", url=engine.url)
        stack = LocalStack(store_dir=tmp_path, nodes=(node,), gateway=GatewayConfig(port=0), metrics=ON)
        async with stack, stack.client() as client:
            await client.generate(MODEL, "count down from 3")
            await http.post(f"{stack.http_url}/api/generate", json={"model": MODEL, "prompt": "x", "stream": False})
            reply = await http.get(stack.metrics_url)
            scorer = next(actor for actor in stack.actors if actor.name == "scorer")
            assert scorer.meter is not None
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    typed = dict(re.findall(r"^# TYPE (\w+) (\w+)$", reply.text, re.MULTILINE))
    served = {
        f"{name}_total" if kind == "counter" and not name.endswith("_total") else name for name, kind in typed.items()
    }
    documented = {metric.name for metric in of_actors()}
    assert documented - served <= {"sollol_attempt_failures_total"} | GPU_MAY_BE_SILENT
    assert {name for name in served if name.startswith("sollol_")} - documented <= {
        name for name in served if name.startswith(("sollol_gateway_", "sollol_fleet_"))
    }
    assert 'sollol_fleet_node_up_nodes{node="attic"} 1.0' in reply.text
    assert 'sollol_attempts_total{mode="fast",node="attic",status="success"} 2.0' in reply.text
    assert "sollol_scorer_held_offices 1.0" in reply.text
    assert re.search(r"^process_resident_memory_bytes [1-9]", reply.text, re.MULTILINE)


GPU_MAY_BE_SILENT = {
    f"sollol_node_gpu_{what}"
    for what in ("memory_total_bytes", "memory_used_bytes", "utilisation_ratio", "temperature_celsius", "power_watts")
}
"""Not every machine that runs this has a GPU."""


async def test_without_a_port_nothing_listens_and_nobody_counts(tmp_path: Path) -> None:
    async with LocalStack(store_dir=tmp_path) as stack:
        assert stack.metrics_url == ""
        assert [actor.bus.meter for actor in stack.actors] == [None] * len(stack.actors)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics?x=1", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/", 404),
        ("POST", "/metrics", 405),
        ("GET", "/" + "x" * 20_000, 431),
    ],
    ids=["query", "head", "other path", "other method", "too long"],
)
async def test_only_a_plain_question_for_metrics_is_answered(method: str, path: str, status: int) -> None:
    async with MetricsServer(ON, lambda: ()) as server, httpx.AsyncClient() as http:
        answer = await http.request(method, server.url.removesuffix("/metrics") + path)
    assert answer.status_code == status
    assert (status == 200) == answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert method != "HEAD" or answer.content == b""


async def test_more_readers_than_can_be_meant_are_sent_away() -> None:
    async with MetricsServer(ON, lambda: ()) as server, AsyncExitStack() as readers:
        url = httpx.URL(server.url)
        for _ in range(32):
            _, writer = await asyncio.open_connection(url.host, url.port)
            readers.callback(writer.close)
        async with httpx.AsyncClient() as http:
            assert (await http.get(url)).status_code == 503


async def test_a_port_that_is_taken_is_said_at_the_start() -> None:
    async with MetricsServer(ON, lambda: ()) as server:
        port = int(server.url.rsplit(":", 1)[1].partition("/")[0])
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}: .*for the metrics"):
            async with MetricsServer(MetricsConfig(port=port), lambda: ()):
                pass


async def test_an_actor_that_is_a_process_says_where_its_metrics_are(nats_server: EmbeddedServer) -> None:
    clean = clean_environ()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sollol_agents.cli",
        "scorer",
        "--nats",
        nats_server.url,
        stdout=PIPE,
        stderr=DEVNULL,
        env=clean | {"SOLLOL_METRICS_PORT": "0"},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30), httpx.AsyncClient() as http:
            told: dict[str, str] = {}
            while "ready" not in told:
                name, _, value = (await process.stdout.readline()).decode().strip().partition(" ")
                told[name] = value
            assert told["metrics"].startswith("http://127.0.0.1:")
            text = (await http.get(told["metrics"])).text
            while "sollol_scorer_held_offices 1.0" not in text:  # it may not be in office yet
                text = (await http.get(told["metrics"])).text
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0
    assert 'sollol_bus_connections{actor="scorer"} 1.0' in text
