"""Files of models through the gateway and the bus to a node's engine."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually

GGUF = b"GGUF and so on"
MIB = 1 << 20


@asynccontextmanager
async def world(tmp_path: Path, **settings: Any) -> AsyncIterator[EmulatedSystem]:
    gateway = GatewayConfig(port=0, **settings)
    async with EmulatedSystem(tmp_path, nodes=0, engine={"model": (), "preload": ()}, gateway=gateway) as here:
        for name, preset in (("small", "rtx3060-12"), ("big", "rtx4090-24")):
            await here.node(name, engine={"preset": preset})

        async def knows_both() -> bool:
            nodes = (await here.http.get("/api/dashboard")).json().get("nodes", {}).get("nodes", ())
            return len(nodes) == 2

        await eventually(knows_both)
        yield here


async def of_engine(here: EmulatedSystem, name: str, method: str, path: str) -> httpx.Response:
    """What an engine itself answers."""
    async with httpx.AsyncClient(base_url=here.engines[name].url) as direct:
        return await direct.request(method, path)


async def holders(here: EmulatedSystem, digest: str) -> list[str]:
    """The nodes whose engines have a file, by their own word."""
    path = f"/api/blobs/{digest}"
    return [name for name in here.engines if (await of_engine(here, name, "HEAD", path)).status_code == 200]


async def has_made(here: EmulatedSystem, name: str) -> bool:
    tags = (await of_engine(here, name, "GET", "/api/tags")).json()["models"]
    return "mine:latest" in [row["name"] for row in tags]


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


async def in_pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def test_a_file_goes_to_one_node_and_a_model_is_made_there(tmp_path: Path) -> None:
    content = b"GGUF" + bytes(range(256)) * (40 * MIB // 256) + b"odd"
    digest = digest_of(content)  # before anybody in this process has a clock to keep
    path = f"/api/blobs/{digest}"
    async with world(tmp_path) as here:
        assert (await here.http.head(path)).status_code == 404
        sent = await here.http.post(path, content=in_pieces(content, 100_000))
        assert (sent.status_code, sent.headers["x-sollol-node"]) == (201, "big")
        assert await holders(here, digest) == ["big"]
        assert (await here.http.head(path)).status_code == 200
        assert (await here.http.post(path, content=content)).status_code == 200
        made = await here.http.post("/api/create", json={"model": "mine", "files": {"m.gguf": digest}})
        assert '"success"' in made.text
        assert await has_made(here, "big")


async def test_a_named_node_gets_the_file_and_makes_the_model(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        digest, on_small = digest_of(GGUF), {"X-Sollol-Node-Id": "small"}
        assert (await here.http.post(f"/api/blobs/{digest}", content=GGUF, headers=on_small)).status_code == 201
        assert await holders(here, digest) == ["small"]
        assert (await here.http.head(f"/api/blobs/{digest}", headers=on_small)).status_code == 200
        asked = {"model": "mine", "files": {"m.gguf": digest}, "stream": False}
        assert (await here.http.post("/api/create", json=asked)).json() == {"status": "success"}
        assert await has_made(here, "small")
        missing = {"model": "mine", "files": {"m.gguf": digest_of(b"other")}}
        refused = await here.http.post("/api/create", json=missing)
        assert "no such file" in refused.text.splitlines()[-1]  # the engine's own words
        everywhere = await here.http.post(f"/api/blobs/{digest}", content=GGUF, headers={"X-Sollol-Node-Id": "*"})
        assert everywhere.status_code == 400


async def test_files_of_one_model_on_two_nodes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        parts = {name: f"GGUF for {name}".encode() for name in ("small", "big")}
        for name, content in parts.items():
            path = f"/api/blobs/{digest_of(content)}"
            assert (await here.http.post(path, content=content, headers={"X-Sollol-Node-Id": name})).status_code == 201
        files = {f"{name}.gguf": digest_of(content) for name, content in parts.items()}
        refused = await here.http.post("/api/create", json={"model": "mine", "files": files})
        assert (refused.status_code, "upload every file" in refused.json()["error"]) == (400, True)


async def test_a_file_with_another_digest_never_gets_to_the_engine_whole(tmp_path: Path) -> None:
    async with world(tmp_path, max_blob_bytes=MIB) as here:
        digest = digest_of(b"model")
        refused = await here.http.post(f"/api/blobs/{digest}", content=b"other" * 100_000)
        assert (refused.status_code, "digest mismatch" in refused.json()["error"]) == (400, True)
        assert await holders(here, digest) == []
        too_large = await here.http.post(f"/api/blobs/{digest}", content=b"x" * (2 * MIB))
        assert (too_large.status_code, "limit" in too_large.json()["error"]) == (413, True)
        assert (await here.http.post("/api/blobs/sha256:short", content=b"x")).status_code == 400
        empty = digest_of(b"")
        assert (await here.http.post(f"/api/blobs/{empty}", content=b"")).status_code == 201


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as here:
        content = b"x" * (4 * MIB)
        digest = digest_of(content)
        host, port = here.http.base_url.host, here.http.base_url.port
        _, writer = await asyncio.open_connection(host, port)
        head = f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content[:MIB])
        await writer.drain()

        def is_at_work() -> bool:
            return any("ControlBlob" in task.get_name() for task in asyncio.all_tasks())

        await eventually(is_at_work)
        writer.close()
        await eventually(lambda: not is_at_work())
        assert await holders(here, digest) == []
        assert (await here.http.post(f"/api/blobs/{digest}", content=content)).status_code == 201
        assert [record.getMessage() for record in caplog.records if record.exc_info] == []
