"""Calls of tools, put together from their pieces as engines send them: by index, by id, by neither, all in turn.

A call is told when it is whole. One that the limit cut is absent, and its stream says that the limit ended it; one
whose arguments are no JSON object is what the model wrote, and told as text: neither is a fault of the engine.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_agents.node.engines.refusals import engine_error
from sollol_schemas.errors import ErrorCode

MAX_CALLS: Final = 128
MAX_BYTES: Final = 16 << 20


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class ToolDelta(msgspec.Struct):
    """A piece of a call, or a whole one."""

    index: Any = None
    id: str | None = None
    function: _Function | None = None


class Call(msgspec.Struct, frozen=True):
    """A whole call."""

    id: str
    name: str
    arguments: dict[str, Any]


class _Pieces:
    """A call that is being put together."""

    __slots__ = ("arguments", "id", "index", "name")

    def __init__(self, delta: ToolDelta, name: str) -> None:
        self.index = delta.index
        self.id = delta.id or ""
        self.name = name
        self.arguments: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.arguments)

    def whole(self, *, is_cut: bool) -> Call | None:
        """The call; None when its arguments are no object, or may be the beginning of one."""
        text = self.text.strip()
        arguments = _object(text or ("" if is_cut else "{}"))
        return Call(self.id, self.name, arguments) if self.name and arguments is not None else None

    def as_text(self) -> str:
        """What the model wrote instead of a call."""
        return f'{{"name": {msgspec.json.encode(self.name).decode()}, "arguments": {self.text}}}'


class Calls:
    """The calls of one answer, in the order in which they began."""

    def __init__(self) -> None:
        self._all: list[_Pieces] = []
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, delta: ToolDelta) -> None:
        """Takes one piece.

        Raises:
            SollolError: `reply_too_large`, which is nobody's fault: a model that goes on without end.
        """
        function = delta.function or _Function()
        name, text = function.name or "", _text_of(function.arguments)
        call = self._place_of(delta, name, text)
        if call is None:
            call = _Pieces(delta, name)
            self._all.append(call)
        call.id = call.id or delta.id or ""
        call.name = call.name or name
        call.arguments.append(text)
        self._bytes += len(text)
        if len(self._all) > MAX_CALLS or self._bytes > MAX_BYTES:
            raise engine_error(ErrorCode.REPLY_TOO_LARGE, f"more than {MAX_CALLS} tool calls or {MAX_BYTES} bytes")

    def ended(self, finish_reason: str) -> tuple[list[Call], list[str]]:
        """The whole calls, and what the model wrote in place of others."""
        is_cut = finish_reason == "length"
        calls, texts = [], []
        for pieces in self._all:
            whole = pieces.whole(is_cut=is_cut)
            if whole is not None:
                calls.append(whole)
            elif not is_cut:
                texts.append(pieces.as_text())
        return calls, texts

    def _place_of(self, delta: ToolDelta, name: str, text: str) -> _Pieces | None:
        """The call that a piece belongs to; None for the first one of another call."""
        same = [call for call in self._all if delta.index is None or call.index == delta.index]
        if delta.id:
            named = [call for call in same if call.id == delta.id]
            if named or not same or same[-1].id:
                return named[-1] if named else None
        if not same:
            return None
        last = same[-1]
        is_begun_anew = bool(text) and _object(last.text) is not None
        return None if name and last.name and (name != last.name or is_begun_anew) else last


def _text_of(arguments: Any) -> str:  # noqa: ANN401 whatever an engine put there
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return msgspec.json.encode(arguments).decode()


def _object(text: str) -> dict[str, Any] | None:
    """The object that a text is; None for any other text, and for none."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None
