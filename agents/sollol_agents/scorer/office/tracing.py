"""The scorer's part of a request's trace: from the question for a slot to the answer."""

from __future__ import annotations

from typing import Protocol

from sollol_bus.observe import tracing
from sollol_bus.observe.tracing import Span, SpanKind, Tracer
from sollol_schemas.grant import Granted, GrantRefused, GrantRequest

_GONE = "withdrawn"


class Waiting(Protocol):
    """Knows which requests wait."""

    def __contains__(self, request_id: str, /) -> bool:
        """Whether this one does."""


class QuestionSpans:
    """The questions that wait for an answer, one span each."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[str, Span] = {}

    def asked(self, request: GrantRequest, parent: str) -> None:
        """A dispatcher asks; asking again while the question waits changes nothing."""
        if request.request_id in self._open:
            return
        context = request.context
        self._open[request.request_id] = self._tracer.start(
            f"schedule {context.model}",
            SpanKind.SERVER,
            parent,
            {
                tracing.ACTOR: "scorer",
                tracing.MODEL: context.model,
                tracing.REQUEST_ID: request.request_id,
                "sollol.mode": request.routing.routing_mode.value,
                "sollol.priority": request.routing.priority,
                "sollol.attempts": request.number,
            },
        )

    def answered(self, answer: Granted | GrantRefused) -> None:
        """The question has its last answer."""
        if isinstance(answer, GrantRefused):
            self._end(answer.request_id, answer.error.code.value)
            return
        made = answer.decision
        span = self._open.get(made.request_id)
        if span is not None:
            span.set(
                {
                    tracing.NODE_ID: made.node_id,
                    tracing.ATTEMPT_ID: made.attempt_id,
                    "sollol.strategy": made.strategy,
                    "sollol.reason": made.reason,
                    "sollol.queue_s": made.queue_s,
                    "sollol.predicted_s": made.forecast.total_s,
                    "sollol.term": made.term,
                }
            )
        self._end(made.request_id)

    def keep(self, waiting: Waiting) -> None:
        """Ends the spans of questions that wait no more without an answer: released, or their dispatcher is gone."""
        for request_id in [r for r in self._open if r not in waiting]:
            self._end(request_id, _GONE)

    def _end(self, request_id: str, error: str = "") -> None:
        span = self._open.pop(request_id, None)
        if span is not None:
            span.end(error)
