"""The node's part of a request's trace: the attempt in its slot, and below it the call to the engine."""

from __future__ import annotations

from urllib.parse import urlsplit

from sollol_agents.node.engines.base import Engine
from sollol_agents.node.engines.http.trace_context import TRACEPARENT
from sollol_bus.observe import tracing
from sollol_bus.observe.tracing import Span, SpanKind, Tracer
from sollol_schemas.errors import ErrorBody
from sollol_schemas.execution import Exec, Figures
from sollol_schemas.telemetry import EngineKind


class AttemptTrace:
    """The two spans of one attempt.

    Args:
        tracer: Makes them.
        exec_: What the dispatcher sent.
        parent: The dispatcher's context.
    """

    def __init__(self, tracer: Tracer, exec_: Exec, parent: str) -> None:
        decision = exec_.decision
        self._tracer = tracer
        self._operation = tracing.operation_of(exec_.decision.kind, exec_.path)
        self._name = f"{self._operation} {exec_.decision.model}"
        self._model = exec_.decision.model
        self._call: Span | None = None
        self._span = tracer.start(
            self._name,
            SpanKind.SERVER,
            parent,
            {
                tracing.ACTOR: "node",
                tracing.OPERATION: self._operation,
                tracing.MODEL: exec_.decision.model,
                tracing.REQUEST_ID: decision.request_id,
                tracing.ATTEMPT_ID: decision.attempt_id,
                tracing.NODE_ID: decision.node_id,
                "sollol.predicted_s": decision.forecast.total_s,
                "sollol.needs_load": exec_.decision.forecast.needs_load,
            },
        )

    def call(self, engine: Engine) -> None:
        """The engine is asked now, by the task that calls this; the engine is told the context."""
        where = urlsplit(engine.url)
        span = self._call = self._tracer.start(
            self._name,
            SpanKind.CLIENT,
            self._span.traceparent,
            {
                tracing.ACTOR: "engine",
                tracing.OPERATION: self._operation,
                # the convention's `openai` is the company's own service
                tracing.PROVIDER: "ollama" if engine.kind is EngineKind.OLLAMA else "openai_compatible",
                tracing.MODEL: self._model,
                tracing.SERVER_ADDRESS: where.hostname,
                tracing.SERVER_PORT: where.port,
            },
        )
        TRACEPARENT.set(span.traceparent)

    def first(self, seam_s: float) -> None:
        """The first chunk leaves for the caller.

        Args:
            seam_s: Of an answer that goes on: seconds until the engine was asked for the rest; else 0.
        """
        if self._call is not None:
            self._call.event("first token", {"sollol.seam_s": seam_s or None})

    def end(self, figures: Figures, error: ErrorBody | None) -> None:
        """The attempt is over."""
        code = "" if error is None else error.code.value
        told = tracing.attributes_of(figures)
        if self._call is not None:
            self._call.set({**told, tracing.ANSWERED_BY: self._model})
            self._call.end(code)
        self._span.set(told)
        self._span.end(code)
