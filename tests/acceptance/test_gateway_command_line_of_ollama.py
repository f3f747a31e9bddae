"""What the `ollama` command asks, call by call, of the fleet, of an emulated Ollama in it, and of a real llama.cpp.

The command cuts twelve digits off every digest, reads every instant as RFC 3339, and shows numbers without looking:
what is absent or null there ends it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from sollol_agents.lab.testing.gateway_fleet import ClientPackage, GatewayFleet

ollama = ClientPackage("ollama")

MODEL = "countdown"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
LAYERS = re.compile(r"sha256:[0-9a-f]{64}")
FIGURES = ("total_duration", "prompt_eval_count", "eval_count")
USER = [{"role": "user", "content": "count 2"}]
Row = dict[str, Any]


class Seen(NamedTuple):
    """The fleet, or one node of it, as the command sees it."""

    http: httpx.Client
    node: str

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Row) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def lines(self, path: str, body: Row) -> list[Row]:
        with self.http.stream("POST", path, json=body) as answer:
            return [json.loads(line) for line in answer.iter_lines()]

    def names(self) -> list[str]:
        return [row["name"] for row in self.get("/api/tags")["models"]]


@pytest.fixture(params=["fleet", "emulated", "real"])
def seen(request: pytest.FixtureRequest, fleet_behind_gateway: GatewayFleet) -> Iterator[Seen]:
    node = "" if request.param == "fleet" else request.param
    fleet_behind_gateway.need(node or "real")
    headers = {"X-Sollol-Node-Id": node, "X-Sollol-Strict": "true"} if node else {}
    with httpx.Client(base_url=fleet_behind_gateway.url, headers=headers, timeout=30) as http:
        yield Seen(http, node)


def check_row(row: Row) -> None:
    """A row of a list, as far as the command shows it."""
    assert re.fullmatch(r"[0-9a-f]{12}", row["digest"][:12])
    assert row["name"] == row["model"] != ""
    assert type(row["size"]) is int
    for name in ("family", "format", "parameter_size", "quantization_level"):
        assert isinstance(row["details"][name], str)


def test_list_shows_every_model_of_what_is_seen(seen: Seen) -> None:
    listed = seen.get("/api/tags")["models"]
    rows = [row for row in listed if "group" not in row]
    for row in rows:
        check_row(row)
        assert INSTANT.fullmatch(row["modified_at"])
    if seen.node:
        assert {node for row in rows for node in row["nodes"]} == {seen.node}
    assert (len(rows) == 1) is (seen.node == "real")
    assert len(seen.get("/v1/models")["data"]) == len(listed)


def test_ps_shows_what_is_in_memory_and_until_when(seen: Seen) -> None:
    seen.post("/api/generate", {"model": MODEL, "stream": False})
    rows = seen.get("/api/ps")["models"]
    assert MODEL in {row["name"].removesuffix(":latest") for row in rows}
    for row in rows:
        check_row(row)
        assert INSTANT.fullmatch(row["expires_at"])
        assert type(row["size_vram"]) is int
        assert row["context_length"] > 0
        assert seen.node in ("", row["node_id"])


def test_show_describes_every_model_that_is_listed(seen: Seen) -> None:
    names = seen.names()
    assert names
    for name in names:
        shown = seen.post("/api/show", {"name": name, "verbose": True})
        assert None not in [value for key, value in shown.items() if key != "projector_info"]
        assert shown["capabilities"]
        assert INSTANT.fullmatch(shown["modified_at"])
        architecture = shown["model_info"].get("general.architecture")
        assert architecture != "unknown"
        assert shown["model_info"][f"{architecture or 'general'}.context_length"] > 0
        assert isinstance(shown["details"]["quantization_level"], str)


def test_show_tells_of_a_llama_cpp_what_its_server_says(fleet_behind_gateway: GatewayFleet) -> None:
    engine = fleet_behind_gateway.need("real")
    props = httpx.get(f"{engine}/props").json()
    headers = {"X-Sollol-Node-Id": "real", "X-Sollol-Strict": "true"}
    shown = httpx.post(f"{fleet_behind_gateway.url}/api/show", json={"model": MODEL}, headers=headers).json()
    told = {"tools": "tools" in props["chat_template"], "thinking": "<think>" in props["chat_template"]}
    assert {name: name in shown["capabilities"] for name in told} == told
    assert ("vision" in shown["capabilities"]) is props["modalities"]["vision"]
    assert shown["model_info"]["general.context_length"] == props["default_generation_settings"]["n_ctx"]
    assert shown["details"]["quantization_level"] == props["model_ftype"]


def test_run_looks_loads_and_talks(seen: Seen) -> None:
    assert seen.http.head("/").status_code == 200
    assert seen.post("/api/show", {"model": MODEL})["capabilities"]
    loaded = seen.lines("/api/generate", {"model": MODEL, "prompt": "", "keep_alive": "5m"})
    assert [line["done"] for line in loaded] == [True]
    talk = {"model": MODEL, "messages": USER, "options": {}, "format": "", "keep_alive": "5m", "think": False}
    asks = {"model": MODEL, "prompt": "count 2", "context": [], "options": {}, "system": "", "template": ""}
    for path, body in (("/api/chat", talk), ("/api/generate", asks)):
        lines = seen.lines(path, body)
        assert all(INSTANT.fullmatch(line["created_at"]) for line in lines)
        assert "".join(line.get("response") or line.get("message", {}).get("content", "") for line in lines).split()
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
        assert all(type(lines[-1][name]) is int for name in FIGURES)


def test_stop_is_answered_at_once(seen: Seen) -> None:
    (line,) = seen.lines("/api/generate", {"model": MODEL, "prompt": "", "keep_alive": 0})
    assert (line["done"], line["done_reason"], line["response"]) == (True, "unload", "")


def test_what_is_not_there_is_not_found_in_words_that_the_command_knows(seen: Seen) -> None:
    for method, path in (("POST", "/api/show"), ("DELETE", "/api/delete"), ("POST", "/api/generate")):
        answer = seen.http.request(method, path, json={"model": "no-such", "prompt": ""})
        if seen.node == "real" and path == "/api/delete":
            assert "cannot delete" in answer.json()["error"]
        else:
            assert (answer.status_code, "not found" in answer.json()["error"]) == (404, True)


def test_models_are_made_copied_and_removed_or_refused_with_a_reason(seen: Seen) -> None:
    name = f"cli-{seen.node or 'fleet'}"
    made = seen.lines("/api/create", {"model": name, "from": MODEL, "system": "be brief"})
    if seen.node == "real":
        assert made == [{"error": f"this engine cannot create {name} at run time"}]
        return
    assert made[-1] == {"status": "success"}
    copied = seen.http.post("/api/copy", json={"source": name, "destination": f"{name}-2"})
    assert (copied.status_code, copied.content) == (200, b"")
    assert {f"{name}:latest", f"{name}-2:latest"} <= set(seen.names())
    for one in (name, f"{name}-2"):
        seen.lines("/api/generate", {"model": one, "keep_alive": 0})
        assert seen.http.request("DELETE", "/api/delete", json={"model": one}).status_code == 200
    assert not any(one.startswith(name) for one in seen.names())


def test_files_are_looked_for_sent_and_looked_for_again(seen: Seen) -> None:
    content = f"a file for {seen.node}".encode()
    path = f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}"
    if seen.node == "real":
        assert seen.http.post(path, content=content).json()["error"].startswith("this engine cannot take the file")
        return
    assert seen.http.head(path).status_code == 404
    assert seen.http.post(path, content=content).status_code == 201
    assert seen.http.head(path).status_code == 200


@pytest.mark.parametrize("command", ["pull", "push"])
def test_progress_comes_line_by_line(seen: Seen, command: str) -> None:
    lines = seen.lines(f"/api/{command}", {"model": "cli-absent", "insecure": False})
    assert lines
    for line in lines:
        assert isinstance(line.get("status") or line.get("error"), str)
        assert LAYERS.fullmatch(line.get("digest", f"sha256:{'0' * 64}"))


def test_the_python_client_reads_all_of_it(seen: Seen) -> None:
    client = ollama.Client(str(seen.http.base_url), headers=dict(seen.http.headers))
    try:
        names = [model.model for model in client.list().models]
        assert names == seen.names()
        assert all(client.show(name).capabilities for name in names)
        assert client.chat(MODEL, USER, keep_alive="5m").message.content.split() == ["1", "0"]
        assert MODEL in {model.name.removesuffix(":latest") for model in client.ps().models}
        assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
        assert client.embed("nomic-embed-text" if seen.node != "real" else MODEL, []).embeddings == []
    finally:
        client._client.close()
