"""One trace per request over the real system: gateway, dispatcher, scorer, node and engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

pytest.importorskip("opentelemetry.sdk", reason="tracing needs the extra: pip install 'sollol-bus[otel]'")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import server_attributes
from opentelemetry.trace import SpanKind, StatusCode

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.engines.base import LoadRequest
from sollol_agents.node.engines.http.trace_context import TRACEPARENT
from sollol_agents.node.engines.ollama import OllamaEngine
from sollol_agents.stack import LocalStack
from sollol_bus.errors import SollolError
from sollol_bus.observe import tracing
from sollol_bus.observe.tracing import TracingConfig
from sollol_bus.observe.tracing_otel import OtelTracer

MODEL = "llama3.2:3b"
COLD = "qwen2.5:7b"
EMULATED = EmulatorConfig(preset="instant", model=(MODEL, COLD), preload=(MODEL,))
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
PROMPT = "canary-in-the-prompt"

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Traced:
    """A stack whose spans are kept in memory."""

    def __init__(self, stack: LocalStack, engine: EmulatedNode, spans: InMemorySpanExporter) -> None:
        self.stack = stack
        self.engine = engine
        self._spans = spans

    async def spans(self, count: int) -> dict[str, ReadableSpan]:
        """The next `count` spans that end, by actor; forgotten afterwards."""
        await eventually(lambda: len(self._spans.get_finished_spans()) >= count, complaint=f"{count} spans")
        found = self._spans.get_finished_spans()
        self._spans.clear()
        return {str((span.attributes or {})[tracing.ACTOR]): span for span in found}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traced]:
    spans = InMemorySpanExporter()
    config, processor = TracingConfig(exporter="otlp"), SimpleSpanProcessor(spans)
    tracer = await asyncio.to_thread(OtelTracer, config, service="test", processor=processor)  # looks at the machine
    async with EmulatedNode(EMULATED) as engine:
        node = NodeConfig(node_id="attic", engine="ollama", url=engine.url)
        stack = LocalStack(
            store_dir=tmp_path_factory.mktemp("stack"), nodes=(node,), gateway=GatewayConfig(port=0), tracer=tracer
        )
        async with stack:
            yield Traced(stack, engine, spans)
    await asyncio.to_thread(tracer.close)


def parents(spans: dict[str, ReadableSpan]) -> dict[str, str]:
    """The actor above each actor; the caller's own span is `caller`."""
    names = {span.context.span_id: actor for actor, span in spans.items() if span.context is not None}
    names[int(CALLER, 16)] = "caller"
    return {actor: names[span.parent.span_id] if span.parent else "" for actor, span in spans.items()}


async def post(traced: Traced, path: str, body: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=traced.stack.http_url) as http:
        return await http.post(path, json=body, headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})


async def test_a_request_over_http_is_one_trace_with_a_span_for_everybody_on_its_way(traced: Traced) -> None:
    reply = await post(
        traced, "/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    )
    assert reply.status_code == 200
    spans = await traced.spans(5)
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE}
    assert parents(spans) == {
        "gateway": "caller",
        "dispatcher": "gateway",
        "scorer": "dispatcher",
        "node": "dispatcher",
        "engine": "node",
    }
    assert {actor: span.name for actor, span in spans.items()} == {
        "gateway": f"chat {MODEL}",
        "dispatcher": f"chat {MODEL}",
        "scorer": f"schedule {MODEL}",
        "node": f"chat {MODEL}",
        "engine": f"chat {MODEL}",
    }
    assert {actor: span.kind for actor, span in spans.items() if span.kind is not SpanKind.SERVER} == {
        "engine": SpanKind.CLIENT
    }
    assert all(span.status.status_code is not StatusCode.ERROR for span in spans.values())
    request_id = reply.headers["x-sollol-request-id"]
    assert {(span.attributes or {}).get(tracing.REQUEST_ID, request_id) for span in spans.values()} == {request_id}
    assert PROMPT not in "".join(span.to_json() for span in spans.values())
    order = [spans[actor].start_time or 0 for actor in ("gateway", "dispatcher", "scorer", "node", "engine")]
    assert order == sorted(order)


async def test_the_engines_span_says_what_the_conventions_ask_for(traced: Traced) -> None:
    await post(traced, "/api/generate", {"model": MODEL, "prompt": PROMPT, "stream": False})
    told = (await traced.spans(5))["engine"].attributes or {}
    assert told[gen_ai.GEN_AI_OPERATION_NAME] == gen_ai.GenAiOperationNameValues.TEXT_COMPLETION.value
    assert told[gen_ai.GEN_AI_REQUEST_MODEL] == told[gen_ai.GEN_AI_RESPONSE_MODEL] == MODEL
    assert told[gen_ai.GEN_AI_PROVIDER_NAME] == "ollama"
    assert int(str(told[gen_ai.GEN_AI_USAGE_INPUT_TOKENS])) > 0
    assert int(str(told[gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS])) > 0
    assert told[server_attributes.SERVER_ADDRESS] == "127.0.0.1"
    assert str(told[server_attributes.SERVER_PORT]) in traced.engine.url


async def test_a_request_on_the_bus_begins_a_trace_or_joins_its_programs(traced: Traced) -> None:
    async with traced.stack.client() as client:
        await client.generate(MODEL, "count down from 2")
        spans = await traced.spans(4)
        assert parents(spans) == {"dispatcher": "", "scorer": "dispatcher", "node": "dispatcher", "engine": "node"}
        program = TracerProvider().get_tracer("program")
        with program.start_as_current_span("program") as span:
            await client.generate(MODEL, "count down from 2")
        spans = await traced.spans(4)
    assert {one.context.trace_id for one in spans.values() if one.context} == {span.get_span_context().trace_id}


async def test_a_failure_is_told_where_it_happened_and_a_refusal_where_it_was_decided(traced: Traced) -> None:
    async with traced.stack.client() as client:
        with pytest.raises(SollolError):
            await client.generate("no-such-model", "x")
        spans = await traced.spans(2)
        assert {actor: (span.attributes or {})[tracing.ERROR_TYPE] for actor, span in spans.items()} == {
            "dispatcher": "unknown_model",
            "scorer": "unknown_model",
        }
        traced.engine.inject(Fault(kind=FaultKind.END_EARLY))
        with pytest.raises(SollolError):
            await client.generate(MODEL, "x")
        spans = await traced.spans(4)
    assert {actor for actor, span in spans.items() if span.status.status_code is StatusCode.ERROR} >= {
        "engine",
        "node",
        "dispatcher",
    }
    assert "attempt failed" in {event.name for event in spans["dispatcher"].events}


async def test_a_load_is_not_told_the_span_of_the_request_before(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def noting(engine: OllamaEngine, wanted: LoadRequest) -> None:
        told.append(TRACEPARENT.get())
        await load(engine, wanted)

    load = OllamaEngine.load
    monkeypatch.setattr(OllamaEngine, "load", noting)
    await post(traced, "/api/generate", {"model": MODEL, "prompt": PROMPT, "stream": False})
    await post(traced, "/api/generate", {"model": COLD, "prompt": PROMPT, "stream": False})
    await traced.spans(10)
    assert told == [""]


async def test_without_a_tracer_nobody_makes_spans(tmp_path: Path) -> None:
    async with LocalStack(store_dir=tmp_path) as stack:
        assert [actor.bus.tracer for actor in stack.actors] == [None] * len(stack.actors)
