"""Answers in Ollama's own objects: the rest comes as such objects too, and is handed out almost as it is.

The last object's counts are those of the whole answer already. Its durations are its attempt's; what the attempts
before spent on pieces that were handed out is added, as far as the instants in their objects tell it.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from sollol_bus.errors import BackendBrokeProtocol
from sollol_bus.sdk.resume.interface import PENALTIES, Said, Shape
from sollol_bus.transport.joined import objects_in
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import CONTINUE_FROM

_INVALID: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DURATIONS: Final = ("total_duration", "eval_duration")
_NS: Final = 1_000_000_000
_EMPTY: Final = (b"null", b'""', b"false", b"[]", b"0")
_REFUSALS: Final = {
    "format": "its text follows a form, which cannot be entered in its middle",
    "logprobs": "it tells log probabilities, which a rest alone has not",
    "top_logprobs": "it tells log probabilities, which a rest alone has not",
    "images": "it is about images",
    "suffix": "it goes between a prompt and a suffix",
    "_debug_render_only": "it is a rendered prompt",
    CONTINUE_FROM: "its caller goes on by itself",
}
_REFUSED: Final = frozenset(_REFUSALS)
_UNREADABLE: Final = "its body cannot be read"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_messages = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_whole = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Object(msgspec.Struct):
    """What is read of an object."""

    model: str = ""
    response: str | None = None
    thinking: str | None = None
    message: _Message | None = None
    tool_calls: list[msgspec.Raw] | None = None
    created_at: str = ""
    done: bool = False

    @property
    def text(self) -> str:
        """Its piece of text."""
        return self.response or (self.message.content if self.message is not None else "") or ""

    @property
    def thought(self) -> str:
        """Its piece of thinking."""
        return self.thinking or (self.message.thinking if self.message is not None else "") or ""

    @property
    def has_calls(self) -> bool:
        """Whether tools are called in it."""
        return bool(self.tool_calls or (self.message is not None and self.message.tool_calls))


_object = msgspec.json.Decoder(_Object)


def native_shape(kind: RequestKind, body: bytes) -> Shape:
    """What the body of a native request says of going on."""
    if kind is RequestKind.EMBED:
        return Shape("vectors are made at once")
    try:
        fields = {name.lower(): value for name, value in _fields.decode(body).items()}
        refusal = ""
        if not _REFUSED.isdisjoint(fields):
            refusal = next((why for name, why in _REFUSALS.items() if _is_set(fields, name)), "")
        if (
            not refusal
            and "messages" in fields
            and any("images" in one for one in _messages.decode(fields["messages"]))
        ):
            refusal = _REFUSALS["images"]
        has_penalty = "options" in fields and _has_penalty(fields["options"])
    except _INVALID:
        return Shape(_UNREADABLE)
    return Shape(refusal, may_be_moved=not (refusal or _is_set(fields, "tools") or has_penalty))


def _is_set(fields: dict[str, msgspec.Raw], name: str) -> bool:
    return name in fields and bytes(fields[name]).strip() not in _EMPTY


def _has_penalty(options: msgspec.Raw) -> bool:
    given = msgspec.json.decode(options)
    return isinstance(given, dict) and any(given.get(name) for name in PENALTIES)


class NativeTelling:
    """The answer to a generate or a chat.

    Args:
        shape: Of the request.
    """

    def __init__(self, shape: Shape) -> None:
        self._refusal = shape.refusal
        self._fault = ""
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._pieces = 0
        self._objects = 0
        self._openings = 0
        self._is_over = False
        self._since = self._until = ""
        self._before_s = 0.0
        self._model = ""
        """The name in the first object: a node tells the rest by its own."""

    def read(self, data: bytes) -> None:
        """Takes in one object, or one on each line."""
        for one in objects_in(data):
            self._read(one)

    def _read(self, data: bytes) -> None:
        try:
            one = _object.decode(data)
        except _INVALID:
            self._fault = "a piece of it cannot be read"
            return
        self._objects += 1
        self._model = self._model or one.model
        self._fault = self._fault or ("a call of tools has begun" if one.has_calls else "")
        self._is_over = one.done
        self._since, self._until = self._since or one.created_at, one.created_at
        if one.text or one.thought:
            self._pieces += 1
            self._texts.append(one.text)
            self._thoughts.append(one.thought)

    def said(self) -> Said:
        """All that was taken in."""
        self._texts, self._thoughts = ["".join(self._texts)], ["".join(self._thoughts)]
        text, thinking = self._texts[0], self._thoughts[0]
        refusal = self._fault or (self._refusal if text or thinking else "")
        return Said(text, thinking, self._pieces, refusal, self._is_over)

    def break_off(self) -> None:
        """Counts the time of the attempt that broke off."""
        self._before_s += _span_s(self._since, self._until)
        self._since = self._until = ""
        self._openings = self._objects

    def feed(self, piece: bytes) -> bytes:
        """The object under the model's name of the first; the last one with the durations of all attempts."""
        try:
            one = _object.decode(piece)
            told = {} if one.model == self._model or not self._model else {"model": self._model}
            return _encode(_whole.decode(piece) | told | self._durations(piece)) if told or one.done else piece
        except _INVALID as error:
            raise BackendBrokeProtocol("a piece of the rest is no native object") from error

    def again(self, data: bytes) -> bytes:
        """The object under the model's name of the first; one that only opens is left out for each handed out."""
        try:
            one = _object.decode(data)
        except _INVALID:
            return data
        if self._openings and not (one.text or one.thought or one.has_calls or one.done):
            self._openings -= 1
            return b""
        self._openings = 0
        if one.model == self._model or not self._model:
            return data
        return _encode(_whole.decode(data) | {"model": self._model})

    def _durations(self, piece: bytes) -> dict[str, int]:
        fields = _whole.decode(piece)
        before_ns = round(self._before_s * _NS)
        return {name: fields[name] + before_ns for name in _DURATIONS if isinstance(fields.get(name), int)}


def _span_s(since: str, until: str) -> float:
    """Seconds between two instants of an engine; 0 where they are none."""
    try:
        began, ended = dt.datetime.fromisoformat(since), dt.datetime.fromisoformat(until)
        return max(0.0, (ended - began).total_seconds())
    except (ValueError, TypeError):
        return 0.0
