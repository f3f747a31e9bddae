"""Typed results of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from sollol_bus.errors import BackendBrokeProtocol, DecodeFailed
from sollol_bus.sdk.answers import so_far
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.routing_told import escalation_told, resumed_told, routing_told
from sollol_bus.transport.joined import objects_in
from sollol_bus.transport.messages import Msg, decode
from sollol_bus.transport.streaming import grown
from sollol_schemas import headers as h
from sollol_schemas.decision import Decision
from sollol_schemas.escalation import Tried
from sollol_schemas.execution import Figures

_SHOWN: Final = 60


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of an answer as it streams in."""

    text: str
    thinking: str
    raw: bytes
    """The engine's own JSON object."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A complete answer, and where and why it was made."""

    text: str
    model: str
    request_id: str
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = []
    done_reason: str = ""
    decision: Decision | None = None
    """Of the attempt that completed it."""
    decisions: tuple[Decision, ...] = ()
    """Of every attempt that spoke, in order: several where the answer went on after a break."""
    figures: Figures | None = None
    final: dict[str, Any] = {}
    """The engine's last object, with its own counts and durations, and the log probabilities of every chunk."""
    tried: tuple[Tried, ...] = ()
    """Models of the group whose answers failed the check before."""
    check_failure: str = ""
    """Why this answer fails the check too, when no model was left; empty: it passed, or was not checked."""

    @property
    def escalated(self) -> int:
        """How many models were asked before this one."""
        return len(self.tried)

    @property
    def resumed(self) -> int:
        """How often it broke off and went on."""
        return max(0, len(self.decisions) - 1)

    @property
    def routing(self) -> dict[str, Any]:
        """Where and why it was made, as it stands under `_sollol_routing` over HTTP."""
        told = routing_told(self.decision, self.figures, self.request_id) | resumed_told(self.decisions)
        return told | escalation_told(self.tried, self.check_failure)

    def __repr__(self) -> str:
        """The beginning of the text, and where it was made."""
        node = self.decision.node_id if self.decision is not None else "?"
        return f"Answer({_beginning(self.text)!r}, model={self.model!r}, node={node!r}, request_id={self.request_id!r})"


class Embeddings(msgspec.Struct, frozen=True, kw_only=True):
    """Embedded texts: one vector per input, in order."""

    embeddings: list[list[float]]
    model: str
    request_id: str
    decision: Decision | None = None
    figures: Figures | None = None

    @property
    def routing(self) -> dict[str, Any]:
        """Where and why they were made, as it stands under `_sollol_routing` over HTTP."""
        return routing_told(self.decision, self.figures, self.request_id)

    def __repr__(self) -> str:
        """How many vectors of which size, and where they were made."""
        node = self.decision.node_id if self.decision is not None else "?"
        size = len(self.embeddings[0]) if self.embeddings else 0
        return f"Embeddings({len(self.embeddings)} x {size}, model={self.model!r}, node={node!r})"


class _Message(msgspec.Struct, frozen=True):
    content: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = []


class NativeChunk(msgspec.Struct, frozen=True):
    """The fields of an Ollama object that the client reads."""

    model: str = ""
    response: str = ""
    thinking: str = ""
    message: _Message = _Message()
    tool_calls: list[dict[str, Any]] | None = None
    """Of a generate."""
    logprobs: list[Any] | None = None
    embeddings: list[list[float]] = []
    done: bool = False
    done_reason: str = ""


def _beginning(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def decision_of(msg: Msg | None) -> Decision | None:
    """The decision in a message's headers, if it carries one."""
    text = (msg.headers or {}).get(h.DECISION) if msg is not None else None
    return decode(text.encode(), Decision) if text else None


def figures_of(msg: Msg | None) -> Figures | None:
    """The figures in a message's headers, if it carries them."""
    text = (msg.headers or {}).get(h.FIGURES) if msg is not None else None
    return decode(text.encode(), Figures) if text else None


async def embedded(call: Call) -> Embeddings:
    """The vectors that a call brings.

    Raises:
        SollolError: What ended the request; see `sollol_bus.errors`.
    """
    data: list[bytes] = []
    size = 0
    async with call:
        async for msg in call:
            size = grown(size, msg.data)
            data.append(msg.data)
    if not data:
        raise BackendBrokeProtocol("no embeddings came")
    native = decode(b"".join(data), NativeChunk)
    return Embeddings(
        embeddings=native.embeddings,
        model=native.model,
        request_id=call.request_id,
        decision=decision_of(call.first),
        figures=figures_of(call.last),
    )


class AnswerStream:
    """An answer as it streams in: iterate for its chunks, then read `answer`.

    Leaving the context early cancels the request. Only for use as `async with`.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._chunks: list[bytes] = []
        self._size_bytes = 0
        self._final: bytes = b""

    def __repr__(self) -> str:
        """Its id and how far it is."""
        state = "complete" if self._final else f"{len(self._chunks)} chunks so far"
        return f"AnswerStream({self.request_id!r}, {state})"

    @property
    def request_id(self) -> str:
        """The request's id, for `why` and `cancel`."""
        return self._call.request_id

    @property
    def call(self) -> Call:
        """The request behind it."""
        return self._call

    @property
    def decision(self) -> Decision | None:
        """Where it runs and why; known from the first chunk on, and another one each time that it goes on."""
        return next(reversed(self._call.decisions), None)

    @property
    def resumed(self) -> int:
        """How often it broke off and went on until now."""
        return self._call.resumed

    @property
    def answer(self) -> Answer:
        """What has arrived so far as one answer; complete once the iteration has ended."""
        native = decode(so_far(self._chunks), NativeChunk)
        final = msgspec.json.decode(self._final) if self._final else {}
        decisions = self._call.decisions
        return Answer(
            text=native.response or native.message.content,
            thinking=native.thinking or native.message.thinking,
            tool_calls=native.tool_calls or native.message.tool_calls,
            model=native.model,
            request_id=self.request_id,
            done_reason=native.done_reason,
            decision=decisions[-1] if decisions else None,
            decisions=decisions,
            figures=figures_of(self._call.last),
            final=final | {"logprobs": native.logprobs} if native.logprobs and final else final,
        )

    async def whole(self) -> Answer:
        """The complete answer of a stream that was not entered.

        Raises:
            SollolError: What ended the request; see `sollol_bus.errors`.
        """
        async with self:
            async for msg in self._call:
                for one in (msg, *self._call.take_ready()):
                    for data in objects_in(one.data):
                        self._note(data)
            self._check_end()
        return self.answer

    def cancel(self) -> None:
        """Stops the request; the iteration then raises `Cancelled`."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        await self._call.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._call.__aexit__(kind, error, trace)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async for msg in self._call:
            native = self._note(msg.data)
            yield Chunk(
                text=native.response or native.message.content,
                thinking=native.thinking or native.message.thinking,
                raw=msg.data,
            )
        self._check_end()

    def _check_end(self) -> None:
        if not self._final:
            raise BackendBrokeProtocol("the stream ended without the engine's last object")

    def _note(self, data: bytes) -> NativeChunk:
        try:
            native = decode(data, NativeChunk)
        except DecodeFailed as error:
            raise BackendBrokeProtocol(f"not an engine's chunk: {error}") from error
        self._size_bytes = grown(self._size_bytes, data)
        self._chunks.append(data)
        if native.done:
            self._final = data
        return native
