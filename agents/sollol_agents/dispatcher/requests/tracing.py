"""The dispatcher's part of a request's trace: from its arrival to its answer, with every attempt as an event."""

from __future__ import annotations

import msgspec

from sollol_agents.dispatcher.requests.intake import Request
from sollol_bus.observe import tracing
from sollol_bus.observe.tracing import Span, SpanKind, Tracer
from sollol_schemas.errors import ErrorBody
from sollol_schemas.grant import Granted


def traced(tracer: Tracer | None, request: Request) -> tuple[Request, Span | None]:
    """The request below a span of its own; as it is when nobody traces."""
    if tracer is None:
        return request, None
    context = request.context
    operation = tracing.operation_of(request.kind, request.path)
    span = tracer.start(
        f"{operation} {context.model}",
        SpanKind.SERVER,
        request.traceparent,
        {
            tracing.ACTOR: "dispatcher",
            tracing.OPERATION: operation,
            tracing.MODEL: context.model,
            tracing.REQUEST_ID: request.request_id,
            "sollol.mode": request.routing.routing_mode.value,
            "sollol.priority": request.routing.priority,
            "sollol.task_type": context.task_type,
            "sollol.prompt_tokens_estimate": context.prompt_tokens,
            "sollol.resend": request.resend,
        },
    )
    return msgspec.structs.replace(request, traceparent=span.traceparent), span


def tell_granted(span: Span, granted: Granted) -> None:
    """The request runs on a node now."""
    made = granted.decision
    told = {tracing.ATTEMPT_ID: made.attempt_id, tracing.NODE_ID: made.node_id}
    span.set({**told, "sollol.attempts": made.attempt, "sollol.queue_s": made.queue_s})
    span.event("attempt", {**told, "sollol.predicted_s": made.forecast.total_s})


def tell_failed(span: Span, granted: Granted, error: ErrorBody) -> None:
    """An attempt ended without an answer."""
    made = granted.decision
    span.event(
        "attempt failed",
        {tracing.ATTEMPT_ID: made.attempt_id, tracing.NODE_ID: made.node_id, tracing.ERROR_TYPE: error.code.value},
    )
