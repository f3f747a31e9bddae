"""What the gateway says: errors in three dialects, joined objects, event streams, headers, lists. All pure."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http import routing_headers
from sollol_agents.gateway.http.access import token_in
from sollol_agents.gateway.http.errors import JSON, PLAIN_JSON, error_in_stream, refusal
from sollol_agents.gateway.http.hosts import Hosts
from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.gateway.inference import native
from sollol_agents.gateway.inference.event_relay import EventRelay
from sollol_agents.gateway.management import model_lists
from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.gateway.management.progress import failure_of, with_node
from sollol_agents.gateway.management.targets import roomiest
from sollol_agents.gateway.pages.application import has_page, pages
from sollol_agents.gateway.pages.models import ModelPages
from sollol_agents.gateway.pages.openapi import document
from sollol_agents.lab.testing.messages import engine, node_view
from sollol_agents.requests.dialects import Dialect, dialect_of
from sollol_bus.errors import error_from
from sollol_bus.sdk.client import Client
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.queries import NodeView
from sollol_schemas.telemetry import EngineKind, Gpu, InstalledModel, LoadedModel, NodeState


def error(code: ErrorCode = ErrorCode.QUEUE_FULL, message: str = "full", **details: Any) -> ErrorBody:
    return ErrorBody(code=code, message=message, details=details)


def view(node_id: str, *models: str, kind: EngineKind = EngineKind.OLLAMA, **fields: Any) -> NodeView:
    version = fields.pop("version", "0.33.0")
    on_disk = tuple(InstalledModel(name=name, size_bytes=5, parameter_count=8_000_000_000) for name in models)
    return node_view(node_id, engine=engine(kind, version=version), installed=on_disk, **fields)


class TestErrors:
    @pytest.mark.parametrize(
        ("path", "dialect"),
        [
            ("/api/chat", Dialect.OLLAMA),
            ("/v1/chat/completions", Dialect.OPENAI),
            ("/v1/models/x", Dialect.OPENAI),
            ("/v1/messages", Dialect.ANTHROPIC),
            ("/v1/messages/count_tokens", Dialect.ANTHROPIC),
            ("/completion", Dialect.OLLAMA),
        ],
    )
    def test_the_path_tells_the_dialect(self, path: str, dialect: Dialect) -> None:
        assert dialect_of(path) is dialect

    def test_each_dialect_has_its_own_shape(self) -> None:
        assert json.loads(refusal(Dialect.OLLAMA, error()).body) == {"error": "full"}
        assert json.loads(refusal(Dialect.OPENAI, error()).body) == {
            "error": {"message": "full", "type": "rate_limit_error", "param": None, "code": "queue_full"}
        }
        said = json.loads(refusal(Dialect.ANTHROPIC, error()).body)
        assert said.pop("request_id").startswith("req_")
        assert said == {"type": "error", "error": {"type": "rate_limit_error", "message": "full"}}

    def test_what_is_found_at_the_door_of_openais_paths_is_written_as_ollama_writes_it_there(self) -> None:
        at_door = refusal(Dialect.OPENAI, error(ErrorCode.BAD_REQUEST), "/v1/completions")
        behind = refusal(Dialect.OPENAI, error(ErrorCode.UNKNOWN_MODEL), "/v1/completions")
        assert (dict(at_door.headers)[b"content-type"], at_door.body[-1:]) == (JSON, b"}")
        assert (dict(behind.headers)[b"content-type"], behind.body[-1:]) == (PLAIN_JSON, b"\n")
        assert json.loads(at_door.body)["error"]["code"] is json.loads(behind.body)["error"]["code"] is None

    def test_errors_are_safe_inside_a_web_page(self) -> None:
        refused = error(ErrorCode.BAD_REQUEST, "<b>")
        assert refusal(Dialect.OLLAMA, refused).body == b'{"error":"\\u003cb\\u003e"}'

    def test_waiting_helps_where_a_time_is_given_and_nowhere_else(self) -> None:
        assert dict(refusal(Dialect.OPENAI, error(retry_after_s=2.2)).headers)[b"retry-after"] == b"3"
        assert dict(refusal(Dialect.OPENAI, error()).headers)[b"x-should-retry"] == b"true"
        headers = dict(refusal(Dialect.OPENAI, error(ErrorCode.ATTEMPTS_EXHAUSTED)).headers)
        assert headers[b"x-should-retry"] == b"false"
        assert b"retry-after" not in headers

    @pytest.mark.parametrize("nonsense", [float("nan"), -1, True, "soon", 1e12])
    def test_a_senseless_time_is_not_passed_on(self, nonsense: object) -> None:
        assert dict(refusal(Dialect.OPENAI, error(retry_after_s=nonsense)).headers)[b"retry-after"] == b"1"

    def test_an_engines_refusal_is_passed_on_byte_for_byte_in_its_own_dialect_alone(self) -> None:
        own = '{"error":"invalid  options"}'
        body = ErrorBody(code=ErrorCode.ENGINE_REJECTED, message="m", status=422, details={"engine_body": own})
        assert refusal(Dialect.OLLAMA, body).body == own.encode()
        assert refusal(Dialect.OLLAMA, body).status == 422
        assert json.loads(refusal(Dialect.OPENAI, body).body)["error"]["message"] == "m"

    def test_an_engines_plain_404_stays_plain(self) -> None:
        details = {"engine_body": "404 page not found"}
        body = ErrorBody(code=ErrorCode.ENGINE_REJECTED, message="m", status=404, details=details)
        answer = refusal(Dialect.OLLAMA, body)
        assert (answer.body, dict(answer.headers)[b"content-type"]) == (b"404 page not found", b"text/plain")

    def test_failures_of_engines_are_never_shown_raw(self) -> None:
        body = error(ErrorCode.ENGINE_FAILED, "broke", engine_body='{"error":"secret"}')
        assert b"secret" not in refusal(Dialect.OLLAMA, body).body

    def test_unknown_models_are_told_as_ollama_tells_them(self) -> None:
        body = error(ErrorCode.UNKNOWN_MODEL, "?", model="x", models=["a"])
        assert json.loads(refusal(Dialect.OLLAMA, body, "/api/chat").body) == {
            "error": "model 'x' not found",
            "models": ["a"],
        }
        text = json.loads(refusal(Dialect.OLLAMA, body, "/api/embed").body)["error"]
        assert text == 'model "x" not found, try pulling it first'

    def test_a_group_of_which_no_model_is_there_is_told_as_such(self) -> None:
        body = error(ErrorCode.UNKNOWN_MODEL, "no node has a model of group 'x': nowhere:1b", model="x", group="x")
        assert "group 'x'" in json.loads(refusal(Dialect.OLLAMA, body, "/api/chat").body)["error"]

    def test_errors_in_streams_are_lines_or_events(self) -> None:
        assert error_in_stream(Dialect.OLLAMA, error()) == b'{"error":"full"}\n'
        assert error_in_stream(Dialect.OPENAI, error()).startswith(b'data: {"error":{')
        assert error_in_stream(Dialect.ANTHROPIC, error()).startswith(b"event: error\ndata: ")
        said = error_in_stream(Dialect.OPENAI, error(), "/v1/responses")
        assert json.loads(said.split(b"data: ")[1])["type"] == "error"

    def test_why_an_answer_did_not_go_on_stands_beside_its_error_in_every_dialect(self) -> None:
        broken = error(ErrorCode.NODE_LOST, "gone", not_resumed="its deadline is over")
        told = {"not_resumed": "its deadline is over"}
        assert json.loads(error_in_stream(Dialect.OLLAMA, broken)) == {"error": "gone"} | told
        for dialect, path in ((Dialect.OPENAI, "/v1/chat/completions"), (Dialect.ANTHROPIC, "/v1/messages")):
            said = json.loads(error_in_stream(dialect, broken, path).split(b"data: ")[1])
            assert said["error"].items() >= told.items()
        said = json.loads(error_in_stream(Dialect.OPENAI, broken, "/v1/responses").split(b"data: ")[1])
        assert said.items() >= told.items()


class TestNative:
    def test_routing_is_the_last_field_and_the_rest_is_untouched(self) -> None:
        line = b'{"done":true,  "x":"\\u00e9"}'
        assert native.with_routing(line, b'{"a":1}') == b'{"done":true,  "x":"\\u00e9","_sollol_routing":{"a":1}}'
        assert json.loads(native.with_routing(b"{}\n", b"1")) == {"_sollol_routing": 1}


class TestEvents:
    TEXT = b'data: {"id":"chatcmpl-7","x":1}\n\ndata: {"id":"chatcmpl-7","x":2}\n\ndata: [DONE]\n\n'

    @given(st.lists(st.integers(0, len(TEXT)), max_size=6))
    def test_however_it_is_cut_the_same_comes_out_with_another_id(self, cuts: list[int]) -> None:
        places = [0, *sorted(cuts), len(self.TEXT)]
        relay = EventRelay("/v1/chat/completions", "r1")
        out = b"".join(relay.feed(self.TEXT[a:b]) for a, b in itertools.pairwise(places)) + relay.rest()
        assert out == self.TEXT.replace(b"chatcmpl-7", b"chatcmpl-r1")

    def test_ids_that_are_unique_already_stay(self) -> None:
        text = b'data: {"id":"chatcmpl-cwtDTIs3qKoqIebx"}\n\n'
        assert EventRelay("/v1/chat/completions", "r1").feed(text) == text

    def test_other_paths_are_not_looked_at(self) -> None:
        text = b'data: {"id":"chatcmpl-7"}\n\n'
        assert EventRelay("/v1/responses", "r1").feed(text) == text

    def test_it_knows_whether_an_event_is_open(self) -> None:
        relay = EventRelay("/v1/messages", "r1")
        relay.feed(b"event: x\nda")
        assert relay.gap == b"\n"
        relay.feed(b"ta: {}\n\n")
        assert relay.gap == b""

    def test_a_long_line_does_not_wait_for_its_end(self) -> None:
        relay = EventRelay("/v1/responses", "r1")
        text = b"event: x\ndata: " + b"y" * 100_000
        assert relay.feed(text) == text
        assert relay.gap == b"\n\n"


class TestHeaders:
    def test_a_decision_is_told_in_printable_ascii(self) -> None:
        decision = Decision(
            request_id="r", attempt_id="r-1", node_id="n", reason="schnell\r\nX: é", rejected={"down": 2}
        )
        told = dict(routing_headers.told(decision, "r", Figures(actual_s=1.25)))
        assert told[b"x-sollol-reason"] == b"schnell??X: ?"
        assert told[b"x-sollol-rejected"] == b"down=2"
        assert told[b"x-sollol-actual-s"] == b"1.25"


class TestDoors:
    LOCAL = GatewayConfig()

    @pytest.mark.parametrize(
        ("host", "is_allowed"),
        [
            (b"localhost:8000", True),
            (b"127.0.0.1:8000", True),
            (b"[::1]:8000", True),
            (b"192.168.1.5", True),
            (b"box.local", True),
            (b"", True),
            (b"evil.example", False),
            (b"8.8.8.8", False),
            (b"localhost.evil.example", False),
        ],
    )
    def test_only_names_of_this_machine_are_served_on_loopback(self, host: bytes, *, is_allowed: bool) -> None:
        assert Hosts(self.LOCAL).allow(host) is is_allowed

    def test_where_no_key_is_asked_for_no_page_can_take_a_name_that_is_served(self) -> None:
        lan = Hosts(GatewayConfig(host="0.0.0.0", hosts=("ai.example",)))
        assert not lan.allow(b"evil.example:8000")
        assert all(lan.allow(name) for name in (b"gateway:8000", b"8.8.8.8", b"ai.example", b"box.local", b"[fe80::1]"))
        assert Hosts(GatewayConfig(host="0.0.0.0", require_key=True)).allow(b"evil.example")
        assert Hosts(GatewayConfig(hosts=("*",))).allow(b"evil.example")

    @pytest.mark.parametrize(
        ("path", "is_ours"),
        [("/api/tags", True), ("/v1/models/a/b", True), ("/api/chat", True), ("/api", False), ("/completion", False)],
    )
    def test_the_pages_know_which_paths_are_theirs(self, path: str, *, is_ours: bool) -> None:
        application = pages(ModelPages(Fleet(cast("Client", None)), "g1").routes())
        assert has_page(application, path) is is_ours

    def test_keys_are_found_where_clients_put_them(self) -> None:
        assert token_in([(b"authorization", b"bearer abc ")]) == b"abc"
        assert token_in([(b"x-api-key", b"abc")]) == b"abc"
        assert token_in([(b"authorization", b"Basic abc")]) == b""


class TestModels:
    def test_rows_of_engines_are_merged_by_name_and_others_told_from_telemetry(self) -> None:
        fleet = [
            view("a", "m:latest"),
            view("b", "m:latest", kind=EngineKind.OPENAI),
            view("c", "x", state=NodeState.DOWN),
        ]
        rows = model_lists.tags(fleet, {"a": [{"name": "M:latest", "size": 9, "modified_at": "2026"}]})
        assert rows == [{"name": "M:latest", "size": 9, "modified_at": "2026", "nodes": ["a", "b"]}]

    def test_a_fleet_that_tells_a_model_twice_as_a_node_has_it_in_memory_once(self) -> None:
        twice: list[dict[str, Any]] = [{"name": "m:latest"}, {"name": "m:latest"}]
        rows = model_lists.running([view("a", "m:latest")], {"a": twice}, dt.datetime.fromtimestamp(1e9, dt.UTC))
        assert rows == [{"name": "m:latest", "node_id": "a"}]

    def test_a_single_model_server_tells_what_it_knows(self) -> None:
        (row,) = model_lists.tags([view("b", "m", kind=EngineKind.OPENAI, version="llama.cpp b1")], {})
        assert row["details"]["parameter_size"] == "8.0B"
        assert row["details"]["format"] == "gguf"
        assert model_lists.openai_model(row)["id"] == "m"

    @pytest.mark.parametrize("version", ["llama.cpp b1", "vLLM 0.9"])
    def test_models_of_engines_without_digests_have_made_up_ones_that_stay(self, version: str) -> None:
        loaded = (LoadedModel(name="m", size_bytes=5), LoadedModel(name="new"))
        one = view("b", "m", kind=EngineKind.OPENAI, version=version, loaded=loaded)
        (tag,) = model_lists.tags([one], {})
        rows = model_lists.running([one], {}, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        assert [len(row["digest"]) for row in (tag, *rows)] == [64, 64, 64]
        assert all(row["details"]["families"] is not None or row["details"]["family"] == "" for row in (tag, *rows))
        assert {row["digest"] for row in rows if row["name"] == "m"} == {tag["digest"]}
        assert all(dt.datetime.fromisoformat(row["expires_at"]) for row in rows)

    def test_the_context_that_is_told_is_that_of_a_slot(self) -> None:
        loaded = (LoadedModel(name="m", size_bytes=5, context_length=2048),)
        shown = model_lists.show_of(view("b", "m", kind=EngineKind.OPENAI, loaded=loaded), "m")
        assert shown["model_info"]["general.context_length"] == shown["details"]["context_length"] == 2048
        assert "general.architecture" not in shown["model_info"], "nobody told it"

    def test_the_newest_model_comes_first_whatever_the_zone_of_its_host(self) -> None:
        rows = [
            {"name": "old", "modified_at": "2026-01-01T10:00:00.123456789+09:00"},
            {"name": "new", "modified_at": "2026-01-01T02:00:00.5Z"},
        ]
        found = model_lists.tags([view("a", "x")], {"a": rows})
        assert [row["name"] for row in found] == ["new", "old"]

    def test_memories_are_told_for_each_node(self) -> None:
        loaded = (LoadedModel(name="m", size_bytes=5, expires_in_s=60.0),)
        now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        rows = model_lists.running([view("a", "m", loaded=loaded), view("b", "m", loaded=loaded)], {}, now)
        assert [row["node_id"] for row in rows] == ["a", "b"]
        assert rows[0]["expires_at"] == "2026-01-01T00:01:00.000Z"

    def test_the_node_that_holds_a_model_comes_first(self) -> None:
        fleet = [view("a", "m"), view("b", "m", loaded=(LoadedModel(name="M:latest"),))]
        assert [v.node_id for v in model_lists.having(fleet, "m")] == ["b", "a"]

    def test_the_oldest_version_counts(self) -> None:
        fleet = [
            view("a", version="0.10.0"),
            view("b", version="0.9.5-rc1"),
            view("c", kind=EngineKind.OPENAI, version="1"),
        ]
        assert model_lists.lowest_version(fleet, "9") == "0.9.5-rc1"
        assert model_lists.lowest_version([], "9") == "9"

    def test_a_new_model_goes_where_most_memory_is_free_and_it_is_not_yet(self) -> None:
        def gpu(free: float) -> tuple[Gpu, ...]:
            return (Gpu(index=0, name="g", memory_total_mib=100_000, memory_free_mib=free),)

        fleet = [view("a", gpus=gpu(5.0)), view("b", "m", gpus=gpu(90.0)), view("c", gpus=gpu(50.0))]
        assert roomiest(fleet, "m").node_id == "c"
        assert roomiest(fleet[1:2], "m").node_id == "b"

    def test_progress_names_its_node(self) -> None:
        assert json.loads(with_node(b'{"status":"x"}\n', "a")) == {"status": "x", "node_id": "a"}


def test_the_series_of_a_gateway_are_bounded() -> None:
    metrics = Metrics()
    for number in range(400):
        metrics.began()
        decision = Decision(request_id="r", attempt_id="r-1", node_id=f"n{number}")
        metrics.ended(
            "/api/chat", 200, 1.0, first_s=0.5, decision=decision, figures=Figures(output_tokens=3), code=None
        )
    text = metrics.text(None, 3).decode()
    assert text.count("sollol_gateway_attempts_total{") == 257
    assert 'sollol_gateway_attempts_total{node="other"} 144.0' in text
    assert "sollol_gateway_open_connections 3.0" in text


def test_the_document_describes_every_path_of_inference() -> None:
    described = document()
    assert "/v1/messages" in described["paths"]
    names = {parameter["name"] for parameter in described["paths"]["/api/chat"]["post"]["parameters"]}
    assert {"X-Sollol-Priority", "X-Sollol-Node-Id"} <= names
    json.dumps(described)


def test_what_every_node_refuses_in_the_same_words_is_told_once() -> None:
    refused = error_from(ErrorBody(code=ErrorCode.ENGINE_REJECTED, message='destination "a b" is invalid', status=400))
    assert failure_of("copy", [], {"n1": refused, "n2": refused}) is refused
    other = error_from(ErrorBody(code=ErrorCode.ENGINE_FAILED, message="disk full"))
    told = failure_of("copy", [], {"n1": refused, "n2": other})
    assert told is not None
    assert "n2: disk full" in told.message
