"""What HTTP clients see of nodes that die: nothing, as long as another node can answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import httpx

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually

FLAGS = ("--preset", "steady", "--decode-tps", "50", "--parallel", "4", "--preload", "countdown")
MODEL = "countdown"


async def test_a_node_killed_before_the_first_byte_is_not_seen(
    fleet: ProcessFleet, figure: Callable[[str], None]
) -> None:
    up = await fleet.up()
    engines = {name: await fleet.emulator(name, *FLAGS) for name in ("a", "b")}
    nodes = {name: await fleet.node(name, engine.url, "--slots", "4") for name, engine in engines.items()}
    async with httpx.AsyncClient(base_url=up.served["http"], timeout=60, trust_env=False) as http:
        await engines["a"].add_fault(Fault(kind=FaultKind.HANG))
        body = {"model": MODEL, "prompt": "count 3", "stream": False}
        wish = {"X-Sollol-Node-Id": "a"}
        asking = asyncio.get_running_loop().create_task(http.post("/api/generate", json=body, headers=wish))

        async def runs() -> bool:
            return await engines["a"].in_flight() == 1

        await eventually(runs, complaint="the request runs on a")
        nodes["a"].kill()
        killed = time.perf_counter()
        answer = await asking
        figure(f"killed before the first byte, answered by b {time.perf_counter() - killed:.2f} s later")
        assert answer.status_code == 200, answer.text
        assert answer.json()["response"].split() == ["2", "1", "0"]
        assert answer.headers["x-sollol-node"] == "b"
        assert answer.headers["x-sollol-attempts"] == "2"


async def test_a_node_killed_in_the_middle_ends_the_stream_with_an_error(fleet: ProcessFleet) -> None:
    up = await fleet.up()
    engine = await fleet.emulator("a", *FLAGS)
    node = await fleet.node("a", engine.url, "--slots", "4")
    async with httpx.AsyncClient(base_url=up.served["http"], timeout=60, trust_env=False) as http:
        async with http.stream("POST", "/api/generate", json={"model": MODEL, "prompt": "count 900"}) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            node.kill()
            last = ""
            async for line in lines:
                last = line
        assert list(json.loads(last)) == ["error", "not_resumed"]
        refused = await http.post("/v1/chat/completions", json={"model": MODEL, "messages": []})
        assert refused.status_code in (502, 503)
        assert (await http.get("/healthz")).status_code == 200
