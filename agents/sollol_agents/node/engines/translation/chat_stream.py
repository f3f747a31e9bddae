"""OpenAI's stream of a chat, read once for every dialect that it is told in."""

from __future__ import annotations

from typing import Any

import msgspec

from sollol_agents.node.engines.decoding import decoded
from sollol_agents.node.engines.ends import Tail
from sollol_agents.node.engines.refusals import broken_off, failure
from sollol_agents.node.engines.translation.calls import Calls, ToolDelta
from sollol_schemas.execution import Figures


class _Candidate(msgspec.Struct, omit_defaults=True):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class Token(msgspec.Struct, omit_defaults=True):
    """One token with its probability."""

    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None
    top_logprobs: list[_Candidate] = []


class _Logprobs(msgspec.Struct):
    content: list[Token] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolDelta] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    matched_stop: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    timings: Any = None
    error: Any = None


class Said(msgspec.Struct, frozen=True):
    """What one event says."""

    content: str = ""
    thinking: str = ""
    logprobs: list[Token] = []


class ChatStream:
    """Reads the events of one stream; its calls of tools are complete when it is."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.finish_reason: str | None = None
        self.stop_sequence: str | None = None
        """The text that ended it, where the engine tells."""
        self._tail: Tail | None = None

    def feed(self, data: bytes) -> Said:
        """What one event's data says.

        Raises:
            SollolError: The event is not what it should be, or reports an error.
        """
        event = decoded(data, _Event, "a stream")
        if event.error is not None:
            text = str(event.error.get("message", event.error)) if isinstance(event.error, dict) else str(event.error)
            raise failure(text)
        if event.usage is not None or event.timings is not None:
            self._tail = decoded(data, Tail, "a stream")
        if not event.choices:
            return Said()
        choice = event.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        for stop in (choice.stop_reason, choice.matched_stop):
            self.stop_sequence = stop if isinstance(stop, str) else self.stop_sequence
        delta = choice.delta or _Delta(content=choice.text)
        for call in delta.tool_calls or ():
            self.calls.add(call)
        logprobs = (choice.logprobs.content or []) if choice.logprobs is not None else []
        return Said(delta.content or "", delta.reasoning_content or delta.reasoning or "", logprobs)

    def figures(self) -> Figures:
        """What the engine said about the work."""
        return self._tail.figures() if self._tail is not None else Figures()

    def ended(self) -> str:
        """Why it ended.

        Raises:
            BackendBrokeProtocol: The engine never said it.
        """
        if self.finish_reason is None:
            raise broken_off("the engine's stream ended without a finish_reason")
        return self.finish_reason
