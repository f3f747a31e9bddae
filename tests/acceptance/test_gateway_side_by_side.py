"""The same request to an engine and to the gateway before it: status, headers and body must be the same.

The emulated Ollama is a fake, held to Ollama's behaviour by the conformance tests; OpenAI's and Anthropic's dialects
are compared on a real llama.cpp server as well. Bodies are compared byte for byte, but for what no two answers share
(instants, durations, ids, what a cache held) and for the fields that the gateway adds, which are taken out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest

from sollol_agents.lab.testing.gateway_fleet import GatewayFleet


class Call(NamedTuple):
    """One request; a body that is bytes is sent as it is."""

    method: str
    path: str
    body: Any = None


class Pair(NamedTuple):
    """An engine, and the gateway that is told to use it."""

    direct: httpx.Client
    gateway: httpx.Client

    def both(self, call: Call) -> tuple[httpx.Response, httpx.Response]:
        content = call.body if isinstance(call.body, bytes) else json.dumps(call.body).encode()
        sent = None if call.body is None else content
        first = self.direct.request(call.method, call.path, content=sent)
        return first, self.gateway.request(call.method, call.path, content=sent)


def pair_before(fleet: GatewayFleet, node: str, stack: ExitStack) -> Pair:
    wish = {"X-Sollol-Node-Id": node, "X-Sollol-Strict": "true"}
    direct = httpx.Client(base_url=fleet.need(node), timeout=30, trust_env=False)
    gateway = httpx.Client(base_url=fleet.url, timeout=30, trust_env=False, headers=wish)
    return Pair(stack.enter_context(direct), stack.enter_context(gateway))


@pytest.fixture(scope="module")
def emulated(fleet_behind_gateway: GatewayFleet) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield pair_before(fleet_behind_gateway, "emulated", stack)


@pytest.fixture(scope="module")
def real(fleet_behind_gateway: GatewayFleet) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield pair_before(fleet_behind_gateway, "real", stack)


MASKS = (
    (rb',"_sollol_routing":\{[^\n]*\}\}(?=\n|$)', b"}"),
    (rb'"(created_at|modified_at|expires_at)":"[^"]*"', rb'"\1":""'),
    (rb'"(created|created_at|completed_at|\w+_duration)":\d+', rb'"\1":0'),
    (rb'"((?:item_|call_)?id)":"[^"]*"', rb'"\1":""'),
    (rb'"request_id":"[^"]*"', b'"request_id":""'),
    (rb'"timings":\{[^}]*\}', b'"timings":{}'),
    (rb'"(cached_tokens|cache_read_input_tokens|input_tokens)":\d+', rb'"\1":0'),
)
"""What no two answers share, and what the gateway adds to the last native object."""


def masked(body: bytes) -> bytes:
    for pattern, replacement in MASKS:
        body = re.sub(pattern, replacement, body)
    return body


def plain(value: Any) -> Any:
    """A JSON value without what the gateway adds: nodes of a model, and what is known in place of what was asked."""
    if isinstance(value, dict):
        added = {"nodes", "node_id", "models"} if "error" in value or "type" in value else {"nodes", "node_id"}
        return {name: plain(inner) for name, inner in value.items() if name not in added}
    return [plain(one) for one in value] if isinstance(value, list) else value


def assert_same_head(ours: httpx.Response, own: httpx.Response) -> None:
    assert ours.status_code == own.status_code, (ours.text, own.text)
    for name in ("content-type", "transfer-encoding"):
        assert ours.headers.get(name) == own.headers.get(name), name
    assert ("content-length" in ours.headers) == ("content-length" in own.headers)


def ids(call: Call) -> str:
    body = call.body.decode("latin-1")[:24] if isinstance(call.body, bytes) else json.dumps(call.body)[:70]
    return f"{call.method} {call.path} {body if call.body is not None else ''}".strip()


DIFFERENT: list[tuple[str, str, str, str]] = []
"""Where the gateway does not answer as the engine does: method, path, what the body holds, and the difference."""


def known(calls: list[Call]) -> list[Any]:
    """The calls as parameters; those that are known to be answered differently are expected to fail."""
    return [pytest.param(call, marks=marks(call)) for call in calls]


def marks(call: Call) -> list[pytest.MarkDecorator]:
    body = call.body.decode("latin-1") if isinstance(call.body, bytes) else json.dumps(call.body)
    why = [why for method, path, part, why in DIFFERENT if (method, path) == call[:2] and part in body]
    return [pytest.mark.xfail(reason=one, strict=True) for one in why[:1]]


MODEL = "countdown"
USER = [{"role": "user", "content": "count 4"}]
CALLING = [{"role": "user", "content": "please call"}]
THINKING = [{"role": "user", "content": "please think"}]
PARAMETERS = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "", "parameters": PARAMETERS}}
HIS_TOOL = {"name": "weather", "input_schema": PARAMETERS}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def streamed_and_whole(path: str, **body: Any) -> list[Call]:
    return [Call("POST", path, {"model": MODEL, **body, "stream": stream}) for stream in (True, False)]


EXACT = [
    *(Call(method, path) for path in ("/", "/api/status") for method in ("GET", "HEAD")),
    Call("GET", "/api/nothing"),
    Call("POST", "/api/nothing", {}),
    Call("POST", "/v1/systemone", {"model": MODEL, "input": "x"}),
    *(Call("PUT", path, {}) for path in ("/api/chat", "/api/tags", "/v1/models", "/api/delete")),
    Call("GET", "/api/generate"),
    Call("POST", "/api/generate", {"model": MODEL, "prompt": "count 4"}),
    *streamed_and_whole("/api/generate", prompt="count 4"),
    *streamed_and_whole("/api/generate", prompt="count 4", raw=True),
    *streamed_and_whole("/api/generate", prompt="please think", think=True),
    *streamed_and_whole("/api/generate", prompt="please think", think=False),
    *streamed_and_whole("/api/generate", prompt="please", system="be brief", format="json"),
    *streamed_and_whole("/api/generate", prompt="count 9", options={"num_predict": 3, "nonsense": 1}),
    *streamed_and_whole("/api/generate", prompt="count 9", options={"stop": [" 5"]}, images=[PIXEL]),
    *streamed_and_whole("/api/generate", prompt="count 2", keep_alive="10m", context=[1, 2], suffix="", template=""),
    *streamed_and_whole("/api/generate"),
    *streamed_and_whole("/api/chat", messages=[]),
    Call("POST", "/api/chat", {"model": MODEL, "messages": USER}),
    *streamed_and_whole("/api/chat", messages=USER),
    *streamed_and_whole("/api/chat", messages=THINKING),
    *streamed_and_whole("/api/chat", messages=CALLING, tools=[TOOL]),
    *streamed_and_whole("/api/chat", messages=USER, format=PARAMETERS, think="low"),
    *streamed_and_whole("/api/chat", messages=[{**USER[0], "images": [PIXEL]}], keep_alive=-1),
    *streamed_and_whole("/v1/chat/completions", messages=USER),
    *streamed_and_whole("/v1/chat/completions", messages=USER, stream_options={"include_usage": True}),
    *streamed_and_whole("/v1/chat/completions", messages=THINKING, reasoning_effort="low"),
    *streamed_and_whole("/v1/chat/completions", messages=CALLING, tools=[TOOL]),
    *streamed_and_whole("/v1/chat/completions", messages=USER, response_format={"type": "json_object"}),
    *streamed_and_whole("/v1/completions", prompt="count 4", max_tokens=9),
    *streamed_and_whole("/v1/responses", input="count 4"),
    *streamed_and_whole("/v1/responses", input=CALLING, tools=[TOOL["function"] | {"type": "function"}]),  # type: ignore[operator]
    *streamed_and_whole("/v1/messages", messages=USER, max_tokens=50),
    *streamed_and_whole("/v1/messages", messages=THINKING, max_tokens=50),
    *streamed_and_whole("/v1/messages", messages=CALLING, max_tokens=50, tools=[HIS_TOOL]),
    Call("POST", "/api/embed", {"model": "nomic-embed-text", "input": "a"}),
    Call("POST", "/api/embed", {"model": "nomic-embed-text", "input": ["a", "b"], "truncate": True, "dimensions": 8}),
    Call("POST", "/api/embeddings", {"model": "nomic-embed-text", "prompt": "a"}),
    Call("POST", "/v1/embeddings", {"model": "nomic-embed-text", "input": ["a", "b"]}),
    Call("POST", "/v1/embeddings", {"model": "nomic-embed-text", "input": "a", "encoding_format": "base64"}),
    Call("POST", "/api/show", {"model": MODEL}),
    Call("POST", "/api/show", {"name": "CountDown:latest", "verbose": True}),
    Call("POST", "/api/pull", {"model": "countdown", "stream": False}),
    Call("POST", "/api/pull", {"model": "nope"}),
    Call("POST", "/api/push", {"model": "countdown", "stream": False}),
    Call("POST", "/api/create", {"model": "made", "from": "countdown"}),
    Call("POST", "/api/create", {"model": "made", "from": "countdown", "stream": False}),
    Call("POST", "/api/copy", {"source": "countdown", "destination": "copied"}),
    Call("HEAD", f"/api/blobs/sha256:{'0' * 64}"),
]


@pytest.mark.parametrize("call", known(EXACT), ids=ids)
def test_an_ollama_and_the_gateway_say_the_same(emulated: Pair, call: Call) -> None:
    own, ours = emulated.both(call)
    assert_same_head(ours, own)
    assert masked(ours.content) == masked(own.content)
    if own.headers.get("content-length") and call.method == "HEAD":
        assert ours.headers["content-length"] == own.headers["content-length"]


def test_the_version_differs_by_what_an_emulated_engine_says_of_itself_alone(emulated: Pair) -> None:
    own, ours = emulated.both(Call("GET", "/api/version"))
    assert_same_head(ours, own)
    assert json.loads(own.content) == {"emulated": True, **json.loads(ours.content)}


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps", "/v1/models", "/v1/models/countdown:latest"])
def test_lists_differ_by_the_nodes_alone(emulated: Pair, path: str) -> None:
    own, ours = emulated.both(Call("GET", path))
    assert ours.status_code == own.status_code == 200
    assert ours.headers["content-type"] == own.headers["content-type"]
    said, expected = plain(json.loads(masked(ours.content))), json.loads(masked(own.content))
    if "models" not in expected and "data" not in expected:
        assert said == expected
        return
    rows = said.get("models") or said["data"]
    known = [json.dumps(row) for row in rows]  # the order of the fields counts too
    assert all(json.dumps(row) in known for row in expected.get("models") or expected["data"])


REFUSED = [
    *(
        Call("POST", path, {"model": "nope", "messages": USER, "prompt": "x", "input": "x", "max_tokens": 5})
        for path in (
            "/api/generate",
            "/api/chat",
            "/api/embed",
            "/api/embeddings",
            "/api/show",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/messages",
        )
    ),
    *(
        Call("POST", path, {"messages": USER, "prompt": "x", "input": "x", "max_tokens": 5})
        for path in (
            "/api/generate",
            "/api/chat",
            "/api/embed",
            "/api/show",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/messages",
        )
    ),
    *(Call("POST", path, b"") for path in ("/api/generate", "/api/chat", "/api/embed", "/api/show", "/api/pull")),
    Call("DELETE", "/api/delete", {"model": "nope"}),
    Call("POST", "/api/copy", {"source": "nope", "destination": "x"}),
    Call("POST", "/api/create", {"model": "x", "from": "nope"}),
    Call("GET", "/v1/models/nope"),
    Call("POST", "/api/chat", {"model": "nomic-embed-text", "messages": USER}),
    Call("POST", "/api/generate", {"model": "nomic-embed-text", "prompt": "x"}),
    Call("POST", "/v1/chat/completions", {"model": "nomic-embed-text", "messages": USER}),
    Call("POST", "/api/embed", {"model": MODEL, "input": "x"}),
    Call("POST", "/v1/embeddings", {"model": MODEL, "input": "x"}),
    Call("POST", "/api/embed", {"model": "nomic-embed-text", "input": "a " * 9000, "truncate": False}),
    Call("POST", "/api/chat", {"model": MODEL, "messages": [{"role": "user", "content": "a " * 9000}]}),
    Call("POST", "/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "a " * 9000}]}),
    Call("POST", "/v1/chat/completions", {"model": MODEL, "messages": []}),
    Call("POST", "/v1/messages", {"model": MODEL, "messages": USER}),
    Call("POST", "/api/generate", {"model": MODEL, "prompt": "x", "keep_alive": "300"}),
    Call("POST", "/api/generate", {"model": MODEL, "prompt": "x", "format": "yaml"}),
]


def told(answer: httpx.Response) -> tuple[int, str, Any]:
    """Status, kind and words of a refusal, in the form of its dialect."""
    said = answer.json()
    error = said["error"]
    if isinstance(error, dict):
        error = {
            "type": error["type"],
            "message": error["message"],
            "has_code": "code" in error,
            "outer": said.get("type"),
        }
    return answer.status_code, answer.headers["content-type"], error


@pytest.mark.parametrize("call", known(REFUSED), ids=ids)
def test_refusals_have_the_same_status_form_and_words(emulated: Pair, call: Call) -> None:
    own, ours = emulated.both(call)
    assert told(ours) == told(own)
    assert "retry-after" not in ours.headers or own.status_code >= 500
    assert "content-length" in ours.headers


UNREADABLE = [
    Call("POST", path, body)
    for path in ("/api/generate", "/api/chat", "/api/embed", "/api/show", "/api/pull", "/v1/chat/completions")
    for body in (b"{", b"not json", b"[]", b'{"model":1}', b'{"model":"countdown","prompt":1,"messages":1,"input":1}')
    if not (path in ("/api/show", "/api/pull") and b"prompt" in body)
]


@pytest.mark.parametrize("call", UNREADABLE, ids=ids)
def test_bodies_that_cannot_be_read_are_refused_alike(emulated: Pair, call: Call) -> None:
    own, ours = emulated.both(call)
    assert (ours.status_code, own.status_code) == (400, 400), (ours.text, own.text)
    assert type(ours.json()["error"]) is type(own.json()["error"])


@pytest.mark.parametrize("path", ["/api/pull", "/api/push"])
def test_progress_is_told_alike_but_less_often(emulated: Pair, path: str) -> None:
    own, ours = emulated.both(Call("POST", path, {"model": MODEL}))
    assert_same_head(ours, own)
    said, expected = (answer.content.splitlines() for answer in (ours, own))
    assert (said[0], said[-1]) == (expected[0], expected[-1])
    assert [line for line in expected if line in said] == said  # the engine's own lines in their order, some left out


def test_an_option_of_the_wrong_type_is_the_clients_fault_and_tried_nowhere_else(emulated: Pair) -> None:
    body = {"model": MODEL, "prompt": "x", "options": {"num_ctx": "many"}, "stream": False}
    own, ours = emulated.both(Call("POST", "/api/generate", body))
    assert (ours.status_code, ours.json()) == (own.status_code, own.json())
    assert own.status_code == 500


def test_a_model_is_deleted_with_an_empty_answer(emulated: Pair) -> None:
    answers = []
    for client in emulated:
        assert client.post("/api/copy", json={"source": MODEL, "destination": "gone"}).status_code == 200
        for _ in range(200):
            if "gone:latest" in {row["name"] for row in emulated.gateway.get("/api/tags").json()["models"]}:
                break
        answers.append(client.request("DELETE", "/api/delete", json={"model": "gone"}))
    own, ours = answers
    assert_same_head(ours, own)
    assert ours.content == own.content == b""


# -- the real llama.cpp server ------------------------------------------------------------------------------

SURE: dict[str, Any] = {"temperature": 0, "seed": 7}
OPENAI = [
    *streamed_and_whole("/v1/chat/completions", messages=USER, **SURE),
    *streamed_and_whole("/v1/chat/completions", messages=USER, stream_options={"include_usage": True}, **SURE),
    *streamed_and_whole("/v1/chat/completions", messages=USER, max_tokens=2, stop=["9"], user="me", **SURE),
    *streamed_and_whole("/v1/chat/completions", messages=USER, logprobs=True, top_logprobs=2, max_tokens=2, **SURE),
    *streamed_and_whole("/v1/chat/completions", messages=THINKING, **SURE),
    *streamed_and_whole("/v1/chat/completions", messages=CALLING, tools=[TOOL], **SURE),
    *streamed_and_whole(
        "/v1/chat/completions",
        messages=THINKING,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}},
        **SURE,
    ),
    *streamed_and_whole("/v1/completions", prompt="count 4", max_tokens=9, **SURE),
    *streamed_and_whole("/v1/completions", prompt=["count 4", "count 2"], max_tokens=9, **SURE),
    *streamed_and_whole("/v1/responses", input="count 4", **SURE),
    *streamed_and_whole("/v1/messages", messages=USER, max_tokens=9, **SURE),
    *streamed_and_whole("/v1/messages", messages=CALLING, max_tokens=90, tools=[HIS_TOOL], **SURE),
    Call("POST", "/v1/messages/count_tokens", {"model": MODEL, "messages": USER, "max_tokens": 5}),
    Call("POST", "/tokenize", {"model": MODEL, "content": "count 4"}),
]


@pytest.mark.parametrize("call", OPENAI, ids=ids)
def test_a_llama_server_and_the_gateway_say_the_same(real: Pair, call: Call) -> None:
    own, ours = real.both(call)
    assert_same_head(ours, own)
    assert masked(ours.content) == masked(own.content)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_of_a_llama_server_have_the_same_shape(real: Pair, encoding: str) -> None:
    """Their values depend on what the server's cache holds, so they are not compared."""
    own, ours = real.both(
        Call("POST", "/v1/embeddings", {"model": MODEL, "input": ["a", "b"], "encoding_format": encoding})
    )
    assert_same_head(ours, own)
    said, expected = ours.json(), own.json()
    assert list(said) == list(expected)
    for row, wanted in zip(said["data"], expected["data"], strict=True):
        assert list(row) == list(wanted)
        assert (row["index"], len(row["embedding"])) == (wanted["index"], len(wanted["embedding"]))


PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
BAD_OPENAI = [
    Call("POST", "/v1/chat/completions", {"model": MODEL, "messages": "x"}),
    Call("POST", "/v1/chat/completions", {"model": MODEL}),
    Call("POST", "/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "a " * 9000}]}),
    Call("POST", "/v1/completions", {"model": MODEL}),
    Call("POST", "/v1/embeddings", {"model": MODEL}),
    Call("POST", "/v1/chat/completions", {"model": MODEL, "messages": USER, "tools": 3}),
    Call("POST", "/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": [PICTURE]}]}),
]


@pytest.mark.parametrize("call", BAD_OPENAI, ids=ids)
def test_a_llama_servers_refusals_come_through_as_they_are(real: Pair, call: Call) -> None:
    own, ours = real.both(call)
    assert ours.headers["content-type"].partition(";")[0] == own.headers["content-type"].partition(";")[0]
    assert ours.headers["x-should-retry"] == "false"
    said, expected = ours.json()["error"], own.json()["error"]
    if said["code"] is None:  # refused before it reached any engine, and so as the caller's error
        assert ours.status_code == 400 <= own.status_code
        assert said["type"] == ("invalid_request_error" if own.status_code == 500 else expected["type"])
    else:
        assert ours.status_code == own.status_code >= 400
        assert ours.json() == own.json()
