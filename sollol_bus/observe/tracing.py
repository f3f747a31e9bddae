"""Spans of a request, for whoever traces. Nobody does unless tracing is on: then `Bus.tracer` is set.

A span's context travels as a W3C `traceparent`, in a header of the same name, on the bus as over HTTP. Names and
attributes follow OpenTelemetry's conventions for generative AI; what they do not know begins with `sollol.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from sollol_schemas.context import RequestKind
from sollol_schemas.execution import Figures

Value = str | int | float | bool
Attributes = Mapping[str, Value | None]
"""Attributes of a span; None stands for one that is not known."""

OPERATION: Final = "gen_ai.operation.name"
MODEL: Final = "gen_ai.request.model"
ANSWERED_BY: Final = "gen_ai.response.model"
PROVIDER: Final = "gen_ai.provider.name"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ACTOR: Final = "sollol.actor"
REQUEST_ID: Final = "sollol.request_id"
ATTEMPT_ID: Final = "sollol.attempt_id"
NODE_ID: Final = "sollol.node_id"


class SpanKind(StrEnum):
    """On which side of a call a span is."""

    SERVER = "server"  # answers a call
    CLIENT = "client"  # makes one


class TracingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the tracing of one process."""

    exporter: Annotated[
        Literal["none", "console", "otlp"],
        Meta(description="Where spans go: console prints them on stderr, otlp sends them to a collector."),
    ] = "none"
    endpoint: Annotated[
        str,
        Meta(description="URL of the collector, for OTLP over HTTP; empty: as OTEL_EXPORTER_OTLP_ENDPOINT says."),
    ] = ""
    sample_ratio: Annotated[
        float, Meta(ge=0, le=1, description="Share of traces that begin here and are kept; others follow their caller.")
    ] = 1.0


class Span(Protocol):
    """One part of a request's way."""

    traceparent: str
    """Its context, for those that work on its behalf."""

    def set(self, attributes: Attributes) -> None:
        """Adds attributes."""

    def event(self, name: str, attributes: Attributes) -> None:
        """Notes a moment in it."""

    def end(self, error: str = "") -> None:
        """Ends it, with the code of the error if there was one; ending twice is harmless."""


class Tracer(Protocol):
    """Makes spans. Called on the event loop; must not wait."""

    def start(self, name: str, kind: SpanKind, parent: str, attributes: Attributes) -> Span:
        """A span that has begun now; `parent` is a `traceparent`, empty (or unusable) for a trace of its own."""

    def close(self) -> None:
        """Sends what is left; may wait for seconds."""


_OPERATION_OF: Final = {
    RequestKind.GENERATE: "text_completion",
    RequestKind.CHAT: "chat",
    RequestKind.EMBED: "embeddings",
}
_OPERATION_ON: Final = (
    ("/chat/completions", "chat"),
    ("/messages", "chat"),
    ("/responses", "chat"),
    ("/embeddings", "embeddings"),
    ("/completions", "text_completion"),
)


def operation_of(kind: RequestKind, path: str = "") -> str:
    """What the conventions call a request: `chat`, `text_completion` or `embeddings`; other paths are `passthrough`."""
    known = _OPERATION_OF.get(kind)
    if known is not None:
        return known
    plain = path.partition("?")[0]
    return next((name for ending, name in _OPERATION_ON if plain.endswith(ending)), "passthrough")


def attributes_of(figures: Figures | None) -> Attributes:
    """What an attempt took, as attributes."""
    if figures is None:
        return {}
    return {
        INPUT_TOKENS: figures.prompt_tokens,
        OUTPUT_TOKENS: figures.output_tokens,
        "sollol.actual_s": figures.actual_s,
        "sollol.ttft_s": figures.ttft_s,
        "sollol.load_s": figures.load_s,
        "sollol.prompt_s": figures.prompt_s,
    }
