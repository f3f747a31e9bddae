"""Reads and tells an answer that is a stream of events: what all dialects have in common.

A dialect reads the data of one event, and says which events come next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from sollol_bus.sdk.resume.anew import Anew
from sollol_bus.sdk.resume.events import DONE, Cutter, spelled
from sollol_bus.sdk.resume.interface import Said
from sollol_bus.sdk.resume.request_shape import Asked
from sollol_bus.sdk.resume.rest import Rest, rest_of

Kind = Literal["text", "thinking"]
Fields = dict[str, Any]
_INVALID: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_UNREADABLE: Final = "an event of it cannot be read"
_OPENINGS_MAX: Final = 256
CALL_BEGUN: Final = "a call of tools has begun"


class EventTelling(ABC):
    """Reads and tells a stream of events; see `Telling`.

    Args:
        asked: What the request asks for.
    """

    _is_named: bool
    """Whether each event says its type above its data too."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._cutter = Cutter()
        self._own_bytes = 0
        """Told by `feed` and taken in there; they come back through `read`."""
        self._texts: dict[Kind, list[str]] = {"text": [], "thinking": []}
        self._patterns: dict[Kind, bytes] = {}
        """The data of the last event with a piece of each kind."""
        self._pieces = 0
        self._said_before = 0
        self._refusal = ""
        self._is_over = False
        self._openings: list[bytes] = []
        """The data of the events before the first piece."""
        self._anew: Anew | None = None

    def read(self, data: bytes) -> None:
        """Takes in what was handed out."""
        own = min(self._own_bytes, len(data))
        self._own_bytes -= own
        for event in self._cutter.feed(data[own:]):
            self._read(event.data)

    def said(self) -> Said:
        """All that was taken in."""
        text, thinking = self._joined("text"), self._joined("thinking")
        refusal = self._refusal or (self._asked.shape.refusal if text or thinking else "")
        return Said(text, thinking, self._pieces, refusal, self._is_over)

    def break_off(self) -> None:
        """The next attempt's answer follows."""
        self._said_before = self._pieces
        self._anew = Anew(self._openings) if self._openings else None

    def feed(self, piece: bytes) -> bytes:
        """The events that carry a piece of the rest; after the last one those that end the answer."""
        one = rest_of(piece)
        told = [self._put(fields) for kind, text in _pieces_of(one) for fields in self._tell(kind, text)]
        if one.done:
            told += [self._put(fields) for fields in self._end(one)]
        self._own_bytes += sum(map(len, told))
        return b"".join(told)

    def again(self, data: bytes) -> bytes:
        """Without the openings that were handed out, with their ids."""
        if self._anew is None:
            return data
        return self._anew.feed(data, self._is_opening)

    @abstractmethod
    def _take(self, data: bytes) -> tuple[Kind, str] | None:
        """Takes in the data of one event; returns the piece that it carries.

        Raises:
            msgspec.DecodeError: It is not what it should be.
        """

    @abstractmethod
    def _tell(self, kind: Kind, text: str) -> Iterator[Fields]:
        """The data of the events that carry a piece; each is taken in before the next is asked for."""

    @abstractmethod
    def _end(self, rest: Rest) -> Iterator[Fields | None]:
        """The data of the events that end the answer and were not handed out yet; None is OpenAI's end mark."""

    @abstractmethod
    def _is_go(self) -> bool:
        """Whether Go wrote it, which escapes what HTML knows."""

    @abstractmethod
    def _is_opening(self, data: bytes) -> bool:
        """Whether an event says nothing of the answer yet."""

    def _read(self, data: bytes) -> None:
        if data == DONE:
            self._is_over = True
        if not data or data == DONE:
            return
        try:
            said = self._take(data)
        except _INVALID:
            self._refusal = self._refusal or _UNREADABLE
            return
        if said is not None:
            kind, text = said
            self._texts[kind].append(text)
            self._patterns[kind] = data
            self._pieces += 1
            self._openings = []
        elif not self._pieces and len(self._openings) < _OPENINGS_MAX:
            self._openings.append(data)

    def _put(self, fields: Fields | None) -> bytes:
        """An event as the engine writes it, taken in."""
        data = DONE if fields is None else spelled(fields, is_go=self._is_go(), is_sorted=self._is_sorted())
        self._read(data)
        if fields is None or not self._is_named:
            return b"data: %b\n\n" % data
        return b"event: %b\ndata: %b\n\n" % (fields["type"].encode(), data)

    def _is_sorted(self) -> bool:
        """Whether fields stand in the order of their names."""
        return False

    def _joined(self, kind: Kind) -> str:
        self._texts[kind] = ["".join(self._texts[kind])]
        return self._texts[kind][0]


def _pieces_of(one: Rest) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = [("thinking", one.thinking), ("text", one.response)]
    return [(kind, text) for kind, text in found if text]
