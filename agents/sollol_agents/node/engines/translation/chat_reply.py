"""OpenAI's answers in Ollama's words."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.decoding import decoded
from sollol_agents.node.engines.passthrough import Tail
from sollol_agents.node.engines.refusals import engine_error, failure_code
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures

_DONE_REASONS: Final = {"tool_calls": "stop", "function_call": "stop", "content_filter": "stop"}
_MAX_TOOL_CALLS: Final = 128


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolDelta] | None = None


class _Candidate(msgspec.Struct, omit_defaults=True):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class _Token(msgspec.Struct, omit_defaults=True):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None
    top_logprobs: list[_Candidate] = []


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    timings: Any = None
    error: Any = None


class _Message(msgspec.Struct, omit_defaults=True):
    role: str
    content: str
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = []


class _Line(msgspec.Struct, omit_defaults=True):
    """One object of Ollama's stream, in Ollama's order; zero and empty fields are left out, as Ollama does."""

    model: str
    created_at: str
    message: _Message | None = None
    response: str | None = None
    thinking: str = ""
    done: bool | None = None
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    logprobs: list[_Token] = []


class _Call:
    """A tool call, put together from its pieces."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def told(self, place: int) -> dict[str, Any]:
        """The call as Ollama tells it.

        Raises:
            BackendBrokeProtocol: Its arguments are no JSON object.
        """
        text = "".join(self.arguments)
        try:
            arguments = msgspec.json.decode(text, type=dict[str, Any]) if text else {}
        except msgspec.DecodeError as error:
            message = f"the arguments of a tool call are not JSON: {error}"
            raise engine_error(ErrorCode.ENGINE_PROTOCOL, message) from error
        function = {"index": place, "name": self.name, "arguments": arguments}
        return ({"id": self.id} if self.id else {}) | {"function": function}


class NativeStream:
    """Turns the events of one OpenAI stream into the lines of an Ollama stream.

    Args:
        kind: `generate` or `chat`.
        model: The name to tell the caller.
    """

    def __init__(self, kind: RequestKind, model: str) -> None:
        self._is_chat = kind is RequestKind.CHAT
        self._model = model
        self._calls: dict[int, _Call] = {}
        self._tail: Tail | None = None
        self.finish_reason: str | None = None

    def feed(self, data: bytes, created_at: str) -> bytes | None:
        """The line for one event's data, or None when it says nothing to the caller.

        Raises:
            SollolError: The event is not what it should be, or reports an error.
        """
        event = decoded(data, _Event, "a stream")
        if event.error is not None:
            text = str(event.error.get("message", event.error)) if isinstance(event.error, dict) else str(event.error)
            raise engine_error(failure_code(text), text)
        if event.usage is not None or event.timings is not None:
            self._tail = decoded(data, Tail, "a stream")
        if not event.choices:
            return None
        choice = event.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        delta = choice.delta or _Delta(content=choice.text)
        for call in delta.tool_calls or ():
            self._collect(call)
        content, thinking = delta.content or "", delta.reasoning_content or delta.reasoning or ""
        logprobs = (choice.logprobs.content or []) if choice.logprobs is not None else []
        if not content and not thinking and not logprobs:
            return None
        line = self._line(created_at, content, thinking, is_done=False)
        line.logprobs = logprobs
        return msgspec.json.encode(line)

    def figures(self) -> Figures:
        """What the engine said about the work."""
        return self._tail.figures() if self._tail is not None else Figures()

    def final(self, created_at: str, figures: Figures, total_s: float) -> bytes:
        """The last line.

        Raises:
            BackendBrokeProtocol: The engine never said why it ended.
        """
        if self.finish_reason is None:
            raise engine_error(ErrorCode.ENGINE_PROTOCOL, "the engine's stream ended without a finish_reason")
        return msgspec.json.encode(self._final(created_at, figures, total_s, _DONE_REASONS.get(self.finish_reason)))

    def load_only(self, created_at: str) -> bytes:
        """The answer to a request without a prompt: the model is loaded already."""
        return msgspec.json.encode(self._final(created_at, Figures(), 0.0, "load"))

    def _final(self, created_at: str, figures: Figures, total_s: float, reason: str | None) -> _Line:
        line = self._line(created_at, "", "", is_done=True)
        if self._calls and line.message is not None:
            line.message.tool_calls = [
                self._calls[index].told(place) for place, index in enumerate(sorted(self._calls))
            ]
        line.done_reason = reason or self.finish_reason or "stop"
        line.total_duration = _ns(total_s)
        line.prompt_eval_count = figures.prompt_tokens or 0
        line.prompt_eval_duration = _ns(figures.prompt_s)
        line.eval_count = figures.output_tokens or 0
        line.eval_duration = _ns(figures.decode_s)
        return line

    def _line(self, created_at: str, content: str, thinking: str, *, is_done: bool) -> _Line:
        line = _Line(model=self._model, created_at=created_at, done=is_done)
        if self._is_chat:
            line.message = _Message(role="assistant", content=content, thinking=thinking)
        else:
            line.response, line.thinking = content, thinking
        return line

    def _collect(self, call: _ToolDelta) -> None:
        if len(self._calls) >= _MAX_TOOL_CALLS and call.index not in self._calls:
            raise engine_error(ErrorCode.ENGINE_PROTOCOL, f"more than {_MAX_TOOL_CALLS} tool calls in one answer")
        function = call.function or _Function()
        collected = self._calls.setdefault(call.index, _Call())
        collected.id = collected.id or call.id or ""
        collected.name = collected.name or function.name or ""
        collected.arguments.append(function.arguments or "")


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: Any = None


def embed_reply(reply: bytes, model: str, dimensions: int | None, total_s: float) -> tuple[bytes, Figures]:
    """Ollama's answer to an embedding, and the figures.

    Raises:
        BackendBrokeProtocol: The engine's answer is no list of embeddings.
    """
    embeddings = sorted(decoded(reply, _Embeddings, "embeddings").data, key=lambda one: one.index)
    figures = msgspec.structs.replace(decoded(reply, Tail, "embeddings").figures(), output_tokens=0)
    body = {
        "model": model,
        "embeddings": [shortened(one.embedding, dimensions) for one in embeddings],
        "total_duration": _ns(total_s),
        "load_duration": 0,
        "prompt_eval_count": figures.prompt_tokens or 0,
    }
    return msgspec.json.encode(body), figures


def old_embed_reply(body: bytes) -> bytes:
    """The answer of the older `/api/embeddings`, from that of `/api/embed`: one vector for one prompt."""
    embeddings = msgspec.json.decode(body)["embeddings"]
    return msgspec.json.encode({"embedding": embeddings[0] if embeddings else []})


def shortened(vector: list[float], dimensions: int | None) -> list[float]:
    """The first `dimensions` entries of a vector, brought back to length 1; all of it when it is no longer."""
    if not dimensions or dimensions >= len(vector):
        return vector
    kept = vector[:dimensions]
    norm = math.sqrt(math.fsum(x * x for x in kept))
    return [x / norm for x in kept] if norm else kept


def _ns(seconds: float | None) -> int:
    return round((seconds or 0.0) * 1e9)
