"""The bytes of an answer on Ollama's own paths, and what every dialect has to offer.

A dialect is made for one request. It turns pieces into stream messages and
figures into the last ones, and never waits or writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from sollol_agents.lab.emulator import codes, http, logprobs, stamps
from sollol_agents.lab.emulator.refusals import UNEXPECTED_EOF
from sollol_agents.lab.emulator.text import ToolCall
from sollol_agents.requests.ollama import gojson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sollol_agents.lab.emulator.text import Piece

_encode = msgspec.json.Encoder().encode


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What the last message of an answer tells; seconds are those of the emulated machine."""

    done_reason: str
    total_s: float = 0.0
    load_s: float = 0.0
    prompt_tokens: int = 0
    prompt_s: float = 0.0
    output_tokens: int = 0
    output_s: float = 0.0
    tool_calls: tuple[ToolCall, ...] = ()


class Dialect(Protocol):
    """How one kind of request is answered."""

    content_type: bytes
    is_cached: bool
    """False for streams that say themselves that they must not be."""

    def piece(self, piece: Piece) -> bytes:
        """Returns the message that carries one token; empty for a hidden one."""

    def closing(self, figures: Figures) -> bytes:
        """Returns the last messages of a stream."""

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the answer to a request that does not stream."""

    def rendered(self, prompt: str) -> bytes:
        """Returns the answer to a request that wants to see its prompt alone."""

    def broken(self) -> bytes:
        """Returns what a stream ends with when the engine dies."""


def native_error(text: str) -> bytes:
    """Returns the body of an error on a native path."""
    return gojson.write({"error": text})


def joined(pieces: Iterable[Piece], channel: str) -> str:
    """Returns the text of one channel."""
    return "".join(piece.text for piece in pieces if piece.channel == channel)


def _durations(figures: Figures) -> dict[str, int]:
    """Returns the figures as nanoseconds and counts; zero is left out, as in Go."""
    counted = {
        "total_duration": int(figures.total_s * 1e9),
        "load_duration": int(figures.load_s * 1e9),
        "prompt_eval_count": figures.prompt_tokens,
        "prompt_eval_duration": int(figures.prompt_s * 1e9),
        "eval_count": figures.output_tokens,
        "eval_duration": int(figures.output_s * 1e9),
    }
    return {name: value for name, value in counted.items() if value}


class _Native:
    """What /api/generate and /api/chat have in common."""

    content_type = http.NDJSON
    is_cached = True

    def __init__(
        self, model: str, *, alternatives: int | None = None, stamp: Callable[[], str] = stamps.timestamp
    ) -> None:
        self._model = model
        self._stamp = stamp
        self._alternatives = alternatives
        self._start = b'{"model":%b,"created_at":"' % _encode(model)

    def broken(self) -> bytes:
        """Returns the error line of a stream."""
        return native_error(UNEXPECTED_EOF) + b"\n"

    def rendered(self, prompt: str) -> bytes:
        """Returns the prompt where the answer would be."""
        return gojson.write(
            {"model": self._model, "created_at": self._stamp()}
            | self._unsaid()
            | {"done": False, "_debug_info": {"rendered_template": prompt}}
        )

    def _unsaid(self) -> dict[str, Any]:
        """Returns an empty answer."""
        raise NotImplementedError

    def _odds(self, piece: Piece) -> list[dict[str, Any]] | None:
        return logprobs.entries(piece, self._alternatives)

    def _line(self, payload: dict[str, Any], odds: list[dict[str, Any]]) -> bytes:
        head = {"model": self._model, "created_at": self._stamp()}
        return gojson.write(head | payload | {"done": False, "logprobs": odds}) + b"\n"

    def _last(self, payload: dict[str, Any], figures: Figures, odds: Sequence[dict[str, Any]] = ()) -> bytes:
        return gojson.write(
            {"model": self._model, "created_at": self._stamp()}
            | payload
            | {"done": True, "done_reason": figures.done_reason}
            | self._history(figures)
            | ({"logprobs": odds} if odds else {})
            | _durations(figures)
        )

    def _all_odds(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        if self._alternatives is None:
            return []
        return [entry for piece in pieces for entry in self._odds(piece) or ()]

    def _history(self, figures: Figures) -> dict[str, Any]:
        """Returns what the answer tells of the conversation so far."""
        del figures
        return {}


class NativeGenerate(_Native):
    """/api/generate.

    Args:
        model: the name under which the model was asked for.
        context: every token of the prompt and the answer, told by number at the end; empty: not told.
        alternatives: tokens told with the probability of each; None for no probabilities.
        stamp: tells the present instant.
    """

    def __init__(
        self,
        model: str,
        context: Sequence[str] = (),
        *,
        alternatives: int | None = None,
        stamp: Callable[[], str] = stamps.timestamp,
    ) -> None:
        super().__init__(model, alternatives=alternatives, stamp=stamp)
        self._context = context

    def piece(self, piece: Piece) -> bytes:
        """Returns one line."""
        if self._alternatives is not None and (odds := self._odds(piece)) is not None:
            return self._line({"response": piece.text}, odds)
        if piece.channel == "hidden":
            return b""
        line = b'%b%b","response":%b,"done":false}\n' % (self._start, self._stamp().encode(), _encode(piece.text))
        return gojson.for_html(line) if b"<" in line or b"&" in line else line

    def closing(self, figures: Figures) -> bytes:
        """Returns the last line."""
        return self._last({"response": ""}, figures) + b"\n"

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        return self._last({"response": joined(pieces, "content")}, figures, self._all_odds(pieces))

    def _unsaid(self) -> dict[str, Any]:
        return {"response": ""}

    def _history(self, figures: Figures) -> dict[str, Any]:
        if not self._context or not figures.output_tokens:
            return {}
        return {"context": [codes.token_id(token) for token in self._context]}


class NativeChat(_Native):
    """/api/chat."""

    def piece(self, piece: Piece) -> bytes:
        """Returns one line."""
        if self._alternatives is not None and (odds := self._odds(piece)) is not None:
            field = "thinking" if piece.channel == "thinking" else "content"
            return self._line({"message": {"role": "assistant", "content": ""} | {field: piece.text}}, odds)
        if piece.channel == "hidden":
            return b""
        key = b'"content":' if piece.channel == "content" else b'"content":"","thinking":'
        line = b'%b%b","message":{"role":"assistant",%b%b},"done":false}\n' % (
            self._start,
            self._stamp().encode(),
            key,
            _encode(piece.text),
        )
        return gojson.for_html(line) if b"<" in line or b"&" in line else line

    def closing(self, figures: Figures) -> bytes:
        """Returns the last line, with the tool calls."""
        return self._last({"message": self._message("", "", figures)}, figures) + b"\n"

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        message = self._message(joined(pieces, "content"), joined(pieces, "thinking"), figures)
        return self._last({"message": message}, figures, self._all_odds(pieces))

    def _unsaid(self) -> dict[str, Any]:
        return {"message": {"role": "", "content": ""}}

    @staticmethod
    def _message(content: str, thinking: str, figures: Figures) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thinking:
            message["thinking"] = thinking
        if figures.tool_calls:
            message["tool_calls"] = [
                {
                    "id": stamps.call_id(),
                    "function": {"index": place, "name": call.name, "arguments": call.arguments},
                }
                for place, call in enumerate(figures.tool_calls)
            ]
        return message
