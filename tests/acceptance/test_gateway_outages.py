"""Models that nobody has, nodes that die, all nodes gone: what clients of every dialect see, and how soon.

One fleet for all tests, which stop its nodes one after the other: they run in the order of the file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from sollol_agents.children import Child
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.processes import Emulator, ProcessFleet
from sollol_agents.lab.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL, EMBEDDER = "countdown", "nomic-embed-text"
FLAGS = (
    "--preset",
    "steady",
    "--decode-tps",
    "200",
    "--parallel",
    "16",
    "--model",
    f"{MODEL}=1",
    "--model",
    f"{EMBEDDER}=0.137",
    "--preload",
    MODEL,
    "--preload",
    EMBEDDER,
)
USER = [{"role": "user", "content": "count 3"}]
GENERATING: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "count 3"},
    "/api/chat": {"messages": USER, "stream": False},
    "/v1/chat/completions": {"messages": USER, "stream": True},
    "/v1/completions": {"prompt": "count 3"},
    "/v1/responses": {"input": "count 3", "stream": True},
    "/v1/messages": {"messages": USER, "max_tokens": 20, "stream": True},
}
EMBEDDING: dict[str, dict[str, Any]] = {
    "/api/embed": {"input": "x"},
    "/api/embeddings": {"prompt": "x"},
    "/v1/embeddings": {"input": "x"},
}


DOOMED = ("/api/generate", "/v1/chat/completions", "/v1/messages", "/api/embed")
"""The paths whose nodes are killed while they work."""


class World(NamedTuple):
    """The fleet: node `last` on an engine that works, and for some paths a node each on an engine that hangs."""

    fleet: ProcessFleet
    http: httpx.AsyncClient
    hanging: Emulator
    last: Child
    doomed: dict[str, tuple[str, Child]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with ProcessFleet(tmp_path_factory.mktemp("outages")) as fleet:
        up = await fleet.up("--no-dashboard")
        steady, hanging = await fleet.emulator("steady", *FLAGS), await fleet.emulator("hanging", *FLAGS)
        last = await fleet.node("last", steady.url, "--slots", "16", is_joined=False)
        names = [f"doomed-{number}" for number in range(len(DOOMED))]
        node = partial(fleet.node, is_joined=False)
        nodes = await asyncio.gather(*(node(name, hanging.url, "--slots", "1") for name in names))
        await fleet.joined("last", *names)
        doomed = dict(zip(DOOMED, zip(names, nodes, strict=True), strict=True))
        async with httpx.AsyncClient(base_url=up.served["http"], timeout=50, trust_env=False) as http:
            yield World(fleet, http, hanging, last, doomed)


def asked(path: str, model: str = "") -> dict[str, Any]:
    if path in EMBEDDING:
        return {"model": model or EMBEDDER, **EMBEDDING[path]}
    return {"model": model or MODEL, **GENERATING[path]}


def words(answer: httpx.Response) -> str:
    """The text of an error in its dialect's form."""
    error = answer.json()["error"]
    return str(error["message"] if isinstance(error, dict) else error)


def beside(answer: httpx.Response, name: str) -> Any:
    """What an error says beside its text."""
    said = answer.json()
    return said["error"][name] if isinstance(said["error"], dict) else said[name]


@pytest.mark.parametrize("path", [*GENERATING, *EMBEDDING, "/api/show", "/api/copy", "/api/delete", "/v1/models/nope"])
async def test_an_unknown_model_is_404_at_once_with_the_names_that_are_known(world: World, path: str) -> None:
    http = world.http
    if path == "/v1/models/nope":
        answer = await http.get(path)
    elif path == "/api/delete":
        answer = await http.request("DELETE", path, json={"model": "nope"})
    else:
        body = asked(path, "nope") if path in GENERATING or path in EMBEDDING else {"model": "nope", "source": "nope"}
        answer = await http.post(path, json={**body, "destination": "x"} if path == "/api/copy" else body)
    assert answer.status_code == 404
    assert words(answer).startswith(("model 'nope", 'model "nope"'))
    if path not in ("/api/copy", "/api/delete"):  # there an engine speaks itself
        assert set(beside(answer, "models")) - {"auto"} == {f"{MODEL}:latest", f"{EMBEDDER}:latest"}
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


async def test_nodes_killed_before_their_first_byte_are_not_seen(world: World, figure: Callable[[str], None]) -> None:
    paths = list(world.doomed)
    for path in paths:
        await world.hanging.add_fault(Fault(kind=FaultKind.HANG, path=path))
    async with asyncio.TaskGroup() as group:
        asking = {
            path: group.create_task(
                world.http.post(path, json=asked(path), headers={"X-Sollol-Node-Id": world.doomed[path][0]})
            )
            for path in paths
        }

        async def all_hang() -> bool:
            # on a machine that stands still a node may be taken for dead, and its request is answered already
            return await world.hanging.in_flight() + sum(task.done() for task in asking.values()) >= len(paths)

        await eventually(all_hang, complaint="every request hangs on its own node")
        for _, child in world.doomed.values():
            child.kill()
        killed = time.perf_counter()
    figure(f"{len(paths)} nodes killed, all their requests answered {time.perf_counter() - killed:.2f} s later")
    for path, task in asking.items():
        answer = task.result()
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["x-sollol-node"] == "last"
        assert '"error":{' not in answer.text
        if path in GENERATING:
            assert all(digit in answer.text for digit in "210"), answer.text


async def test_without_any_node_the_answer_is_503_with_reasons_and_a_time_to_come_back(
    world: World, figure: Callable[[str], None]
) -> None:
    world.last.kill()
    at_first = await refused_everywhere(world.http)

    async def is_known() -> bool:
        return bool((await world.http.get("/readyz")).json().get("reason") == "no node is up")

    await eventually(is_known, complaint="the scorer knows that all nodes are gone")
    later = await refused_everywhere(world.http)
    figure(f"refused within {at_first * 1000:.0f} ms just after the kill, {later * 1000:.0f} ms once it was known")
    assert max(at_first, later) < 1.0


async def refused_everywhere(http: httpx.AsyncClient) -> float:
    """The longest that a client of any dialect waited for its refusal, in seconds."""
    took_s = []
    for path in [*GENERATING, *EMBEDDING]:
        began = time.perf_counter()
        answer = await http.post(path, json=asked(path))
        took_s.append(time.perf_counter() - began)
        assert answer.status_code == 503, (path, answer.text)
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-should-retry"] == "true"
        reasons = beside(answer, "nodes")
        assert reasons
        assert all(isinstance(reason, str) and reason for reason in reasons.values()), answer.text
    return max(took_s)


async def test_a_node_that_comes_back_serves_again(world: World) -> None:
    await world.fleet.node("again", world.hanging.url, "--slots", "4")
    answer = await world.http.post("/api/chat", json=asked("/api/chat"))
    assert answer.json()["message"]["content"].split() == ["2", "1", "0"]
    assert answer.headers["x-sollol-node"] == "again"
