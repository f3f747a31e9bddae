"""Turns tracing on for a process, if it is asked for."""

from __future__ import annotations

import sys
from typing import Any

from sollol_bus.errors import ConfigError
from sollol_bus.observe.tracing import Tracer, TracingConfig


def make_tracer(config: TracingConfig, *, service: str, instance: str = "") -> Tracer | None:
    """The tracer of a process; None when tracing is off.

    Raises:
        ConfigError: It is on, and the extra `otel` is not installed.
    """
    if config.exporter == "none":
        return None
    try:
        from sollol_bus.observe.tracing_otel import OtelTracer  # noqa: PLC0415 what is off need not be loaded
    except ImportError as error:
        raise ConfigError(f"tracing needs OpenTelemetry ({error}): pip install 'sollol-bus[otel]'") from error
    return OtelTracer(config, service=service, instance=instance)


def present_traceparent() -> str:
    """The context of the span that the calling program is in; empty when it does not use OpenTelemetry."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return ""
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
