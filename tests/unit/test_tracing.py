"""Tracing: named by the conventions, off unless asked for, and never a way to put text into an engine's request."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from contextlib import closing

import pytest

from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.http.trace_context import TRACEPARENT
from sollol_bus.errors import ConfigError
from sollol_bus.observe import tracing
from sollol_bus.observe.tracing import SpanKind, TracingConfig
from sollol_bus.observe.tracing_setup import make_tracer
from sollol_schemas.context import RequestKind

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("kind", "path", "operation"),
    [
        (RequestKind.GENERATE, "", "text_completion"),
        (RequestKind.CHAT, "", "chat"),
        (RequestKind.EMBED, "", "embeddings"),
        (RequestKind.PASSTHROUGH, "/v1/chat/completions", "chat"),
        (RequestKind.PASSTHROUGH, "/v1/completions?x=/v1/messages", "text_completion"),
        (RequestKind.PASSTHROUGH, "/v1/messages", "chat"),
        (RequestKind.PASSTHROUGH, "/v1/responses", "chat"),
        (RequestKind.PASSTHROUGH, "/v1/embeddings", "embeddings"),
        (RequestKind.PASSTHROUGH, "/rerank", "passthrough"),
    ],
)
def test_a_request_is_called_as_in_the_conventions(kind: RequestKind, path: str, operation: str) -> None:
    assert tracing.operation_of(kind, path) == operation


def test_the_names_are_those_of_the_conventions() -> None:
    gen_ai = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    assert {"chat", "text_completion", "embeddings"} <= {value.value for value in gen_ai.GenAiOperationNameValues}
    assert (tracing.OPERATION, tracing.MODEL) == (gen_ai.GEN_AI_OPERATION_NAME, gen_ai.GEN_AI_REQUEST_MODEL)
    assert (tracing.ANSWERED_BY, tracing.PROVIDER) == (gen_ai.GEN_AI_RESPONSE_MODEL, gen_ai.GEN_AI_PROVIDER_NAME)
    assert (tracing.INPUT_TOKENS, tracing.OUTPUT_TOKENS) == (
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS,
    )


def test_tracing_is_off_unless_an_exporter_is_chosen() -> None:
    assert make_tracer(TracingConfig(), service="x") is None


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sollol_bus.observe.tracing_otel", None)
    with pytest.raises(ConfigError, match=r"sollol-bus\[otel\]"):
        make_tracer(TracingConfig(exporter="console"), service="x")


def test_the_console_gets_a_line_of_json_for_each_span(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk")
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    tracer = make_tracer(TracingConfig(exporter="console"), service="sollol-test")
    assert tracer is not None
    with closing(tracer):
        span = tracer.start("chat m", SpanKind.CLIENT, PARENT, {tracing.MODEL: "m", tracing.PROVIDER: None})
        span.set({tracing.OUTPUT_TOKENS: 3})
        span.event("first token", {})
        span.end("stalled")
        span.end()
    (line,) = shown.getvalue().splitlines()
    told = json.loads(line)
    assert told["name"] == "chat m"
    assert told["context"]["trace_id"] == "0x" + PARENT.split("-")[1]
    assert told["parent_id"] == "0x" + PARENT.split("-")[2]
    assert told["attributes"] == {tracing.MODEL: "m", tracing.OUTPUT_TOKENS: 3, tracing.ERROR_TYPE: "stalled"}
    assert told["status"]["status_code"] == "ERROR"
    assert told["resource"]["attributes"]["service.name"] == "sollol-test"


@pytest.mark.parametrize(
    ("parent", "is_kept"), [("", False), (PARENT, True), (PARENT[:-1] + "0", False), ("nonsense\r\nX: y", False)]
)
def test_what_is_not_sampled_is_not_kept_and_a_bad_context_is_none(parent: str, is_kept: bool) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from sollol_bus.observe.tracing_otel import OtelTracer

    kept = InMemorySpanExporter()
    tracer = OtelTracer(TracingConfig(sample_ratio=0.0), service="x", processor=SimpleSpanProcessor(kept))
    span = tracer.start("chat m", SpanKind.SERVER, parent, {})
    assert span.traceparent.startswith("00-")
    assert "\r" not in span.traceparent
    span.end()
    assert (len(kept.get_finished_spans()) == 1) is is_kept
    tracer.close()


async def test_an_engine_is_told_the_context_of_the_span_that_calls_it() -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        http = EngineHttp(f"http://127.0.0.1:{port}")
        await http.call("POST", "/api/generate", b"{}", timeout_s=5)
        token = TRACEPARENT.set(PARENT)
        try:
            await http.call("POST", "/api/generate", b"{}", timeout_s=5)
        finally:
            TRACEPARENT.reset(token)
        await http.aclose()
    assert [b"traceparent" in head for head in heads] == [False, True]
    assert f"\r\ntraceparent: {PARENT}\r\n".encode() in heads[1]
