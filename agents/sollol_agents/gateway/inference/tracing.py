"""The gateway's part of a request's trace: from the HTTP request to the last byte of its answer."""

from __future__ import annotations

from sollol_agents.gateway.inference.request import HttpRequest
from sollol_bus.observe import tracing
from sollol_bus.observe.tracing import Span, SpanKind, Tracer
from sollol_schemas.decision import Decision
from sollol_schemas.execution import Figures
from sollol_schemas.headers import TRACEPARENT

_MODEL_MAX = 200


def begin(tracer: Tracer | None, request: HttpRequest) -> Span | None:
    """A span for a request, below the client's if it brought one; what goes on to the bus is below it."""
    if tracer is None:
        return None
    operation, model = tracing.operation_of(request.kind, request.path), request.model[:_MODEL_MAX]
    span = tracer.start(
        f"{operation} {model}".rstrip(),
        SpanKind.SERVER,
        request.headers.get(TRACEPARENT, ""),
        {
            tracing.ACTOR: "gateway",
            tracing.OPERATION: operation,
            tracing.MODEL: model,
            "http.request.method": "POST",
            "http.route": request.label,
        },
    )
    request.headers[TRACEPARENT] = span.traceparent
    return span


def finish(
    span: Span | None,
    status: int,
    *,
    request_id: str | None = None,
    decision: Decision | None = None,
    figures: Figures | None = None,
    error: str = "",
) -> None:
    """Ends the span of a request."""
    if span is None:
        return
    span.set({"http.response.status_code": status, tracing.REQUEST_ID: request_id, **tracing.attributes_of(figures)})
    if decision is not None:
        span.set({tracing.NODE_ID: decision.node_id, "sollol.attempts": decision.attempt})
    span.end(error)
