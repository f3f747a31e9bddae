"""Ollama's own answers: lines of a stream as they are, or joined into the one object of a client that does not stream.

Routing is told in the last object, under `_sollol_routing`; nothing else of an engine's words is changed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_agents.gateway.telling import attempts_of
from sollol_schemas.context import RequestKind
from sollol_schemas.decision import DecisionSummary
from sollol_schemas.execution import Figures

ROUTING_FIELD: Final = "_sollol_routing"
_DONE: Final = b'"done":true'
_LOADED: Final = (b'"done_reason":"load"', b'"done_reason":"unload"')
_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct, frozen=True):
    content: str = ""
    thinking: str = ""
    tool_calls: list[msgspec.Raw] = []


class _Line(msgspec.Struct, frozen=True):
    response: str = ""
    thinking: str = ""
    message: _Message = _Message()
    tool_calls: list[msgspec.Raw] = []
    logprobs: list[msgspec.Raw] | None = None


_lines = msgspec.json.Decoder(_Line)
_fields = msgspec.json.Decoder(dict[str, Any])


class NotNative(ValueError):
    """A message is no object of Ollama's."""


def may_be_last(line: bytes) -> bool:
    """Whether a line may be the last object of a stream; an argument of a tool may be called `done` too."""
    return _DONE in line


def is_only_loaded(line: bytes) -> bool:
    """Whether an answer says that a model was loaded or unloaded: one object, even to a client that streams."""
    return any(said in line for said in _LOADED)


def with_routing(line: bytes, routing: bytes) -> bytes:
    """An object with the routing as its last field."""
    body = line.rstrip()
    comma = b"" if body.endswith(b"{}") else b","
    return body[:-1] + comma + b'"%b":%b}' % (ROUTING_FIELD.encode(), routing)


def routing_of(decision: DecisionSummary | None, figures: Figures | None, request_id: str) -> bytes:
    """Where and why a request ran, as JSON."""
    told: dict[str, Any] = {"request_id": request_id}
    if decision is not None:
        told |= {
            "node_id": decision.node_id,
            "node_url": decision.node_url,
            "mode": decision.mode,
            "strategy": decision.strategy,
            "priority": decision.priority,
            "predicted_s": decision.predicted_s,
            "queue_s": decision.queue_s,
            "attempts": attempts_of(decision),
            "reason": decision.reason,
            "rejected": decision.rejected,
        }
    if figures is not None:
        told["actual_s"] = figures.actual_s
        told["first_token_s"] = figures.ttft_s
    return _encode(told)


def joined(kind: RequestKind, lines: list[bytes]) -> bytes:
    """The one object for a client that does not stream: the last line with the texts of all in it.

    Raises:
        NotNative: A line is no object of Ollama's.
    """
    if len(lines) == 1 or kind is RequestKind.EMBED:
        return b"".join(lines)
    try:
        parts = [_lines.decode(line) for line in lines]
        reply = _fields.decode(lines[-1])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotNative(str(error)) from error
    logprobs = [entry for part in parts for entry in part.logprobs or ()]
    if logprobs:
        reply["logprobs"] = logprobs
    if kind is RequestKind.CHAT:
        message = reply.get("message")
        reply["message"] = _joined_message(message if isinstance(message, dict) else {}, parts)
        return _encode(reply)
    reply["response"] = "".join([part.response for part in parts])
    if calls := [call for part in parts for call in part.tool_calls]:
        reply["tool_calls"] = calls
    thinking = "".join([part.thinking for part in parts])
    return _encode(_with_thinking(reply, "response", thinking))


def _joined_message(last: dict[str, Any], parts: list[_Line]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", **last}
    message["content"] = "".join([part.message.content for part in parts])
    if calls := [call for part in parts for call in part.message.tool_calls]:
        message["tool_calls"] = calls
    return _with_thinking(message, "content", "".join([part.message.thinking for part in parts]))


def _with_thinking(fields: dict[str, Any], after: str, thinking: str) -> dict[str, Any]:
    """Fields with the thoughts where Ollama has them: right after the text."""
    if not thinking:
        return fields
    ordered: dict[str, Any] = {}
    for name, value in fields.items():
        if name != "thinking":
            ordered[name] = value
        if name == after:
            ordered["thinking"] = thinking
    return ordered
