"""Spans by OpenTelemetry's SDK. The only module that imports it; it needs the extra `otel`."""

from __future__ import annotations

import sys
from threading import Thread
from typing import Final

from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind as OtelKind
from opentelemetry.trace import Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sollol_bus.observe.tracing import ERROR_TYPE, Attributes, Span, SpanKind, TracingConfig
from sollol_bus.version import VERSION
from sollol_schemas.headers import TRACEPARENT

_KIND: Final = {SpanKind.SERVER: OtelKind.SERVER, SpanKind.CLIENT: OtelKind.CLIENT}
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_LAST_SPANS_S: Final = 3.0


class OtelTracer:
    """A `sollol_bus.observe.tracing.Tracer`.

    Args:
        config: Exporter and sampling.
        service: Name of the service, such as `sollol-node`.
        instance: Which process of the service it is.
        processor: Gets the spans in place of the configured exporter.
    """

    def __init__(
        self, config: TracingConfig, *, service: str, instance: str = "", processor: SpanProcessor | None = None
    ) -> None:
        resource = {SERVICE_NAME: service, SERVICE_VERSION: VERSION}
        if instance:
            resource[SERVICE_INSTANCE_ID] = instance
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)),
            resource=Resource.create(resource),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor or BatchSpanProcessor(_exporter(config)))
        self._tracer = self._provider.get_tracer("sollol_bus", VERSION)

    def start(self, name: str, kind: SpanKind, parent: str, attributes: Attributes) -> Span:
        """A span that has begun now, below `parent`."""
        context = _PROPAGATOR.extract({TRACEPARENT: parent}) if parent else None
        known = {key: value for key, value in attributes.items() if value is not None}
        return _Span(self._tracer.start_span(name, context=context, kind=_KIND[kind], attributes=known))

    def close(self) -> None:
        """Sends what is left; waits up to 3 seconds, even for a collector that is gone and asked again and again."""
        sending = Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(_LAST_SPANS_S)


class _Span:
    """One span, and its context as text."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span))
        self.traceparent = carrier.get(TRACEPARENT, "")

    def set(self, attributes: Attributes) -> None:
        """Adds attributes."""
        for key, value in attributes.items():
            if value is not None:
                self._span.set_attribute(key, value)

    def event(self, name: str, attributes: Attributes) -> None:
        """Notes a moment in it."""
        self._span.add_event(name, {key: value for key, value in attributes.items() if value is not None})

    def end(self, error: str = "") -> None:
        """Ends it."""
        if not self._span.is_recording():
            return  # ended before, or not sampled
        if error:
            self._span.set_attribute(ERROR_TYPE, error)
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


def _exporter(config: TracingConfig) -> SpanExporter:
    if config.exporter == "console":
        return ConsoleSpanExporter(out=sys.stderr, formatter=_line)
    # its HTTP client costs 60 ms to import
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    endpoint = config.endpoint.rstrip("/")
    if endpoint and not endpoint.endswith("/v1/traces"):
        endpoint += "/v1/traces"
    return OTLPSpanExporter(endpoint=endpoint or None)


def _line(span: ReadableSpan) -> str:
    text: str = span.to_json(indent=None)
    return text + "\n"
