"""What is kept of an answer while it streams: references to what was handed out, packed now and then.

Nothing is read while nothing breaks: 128 KiB of pieces are packed into some 10, which takes a microsecond a piece where
reading them takes up to thirty. They are read when the answer breaks off, or when more is packed than text may be kept;
then the text alone is kept. So one answer keeps 128 KiB and at most twice the bound, and nothing once it cannot go on.
"""

from __future__ import annotations

import zlib
from typing import Final

from sollol_bus.sdk.resume.dialects import shape_of, telling_of
from sollol_bus.sdk.resume.interface import Mute, Said, Shape, Telling
from sollol_schemas.context import RequestKind

RESUME_BYTES: Final = 1 << 20
"""Text kept of one answer, unless somebody says otherwise."""
_UNREAD_BYTES: Final = 128 << 10
_BETWEEN: Final = b"\0"
"""Stands in no piece: neither JSON nor an event stream has it."""


class Transcript:
    """What was handed out of one answer.

    Args:
        kind: What the request is on the bus.
        path: The engine's path of a passthrough request, in origin form.
        body: The engine's body.
        limit_bytes: So much text is kept at most; 0: nothing is, and the answer does not go on.
    """

    def __init__(self, kind: RequestKind, path: str, body: bytes, *, limit_bytes: int) -> None:
        self._kind = kind
        self._path = path
        self._body = body
        self._limit_bytes = limit_bytes
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._packed: list[bytes] = []
        self._packed_bytes = 0
        self._telling: Telling | None = None
        self.content_type = ""
        """Of a passthrough's answer; to be told before anything is read."""
        self.messages = 0
        """So many pieces were handed out."""
        self.keeps = limit_bytes > 0
        """Whether anything more is kept."""
        shape = shape_of(kind, path, body) if self.keeps else Shape("answers are not kept here")
        self.may_be_moved = shape.may_be_moved
        """Whether whatever may be said can go on, so that the attempt may be stopped on purpose."""
        if shape.refusal:
            self.give_up(shape.refusal)

    @property
    def telling(self) -> Telling:
        """Has read all that was handed out."""
        telling = self._telling
        if telling is None:
            telling = self._telling = telling_of(self._kind, self._path, self._body, self.content_type, [])
        for block in self._packed:
            for data in zlib.decompress(block).split(_BETWEEN):
                telling.read(data)
        for data in self._unread:
            telling.read(data)
        self._forget()
        return telling

    def add(self, data: bytes) -> None:
        """Notes what is handed out."""
        self.messages += 1
        if self.keeps:
            self._unread.append(data)
            self._unread_bytes += len(data)
            if self._unread_bytes > _UNREAD_BYTES:
                self._pack()

    def give_up(self, refusal: str) -> None:
        """Keeps nothing any more.

        Args:
            refusal: Why, as in `Said`.
        """
        self.keeps = False
        self._telling = Mute(refusal)
        self._forget()

    def said(self) -> Said:
        """All that was handed out."""
        if not self.messages:
            return Said()
        self._read()
        return self.telling.said()

    @property
    def kept_bytes(self) -> int:
        """Of pieces and packed pieces."""
        return self._unread_bytes + self._packed_bytes

    def _pack(self) -> None:
        block = zlib.compress(_BETWEEN.join(self._unread), zlib.Z_BEST_SPEED)
        self._packed.append(block)
        self._packed_bytes += len(block)
        self._unread.clear()
        self._unread_bytes = 0
        if self._packed_bytes > self._limit_bytes:
            self._read()

    def _forget(self) -> None:
        self._unread.clear()
        self._packed.clear()
        self._unread_bytes = self._packed_bytes = 0

    def _read(self) -> None:
        if not self.keeps:
            return
        said = self.telling.said()
        if said.refusal:
            self.give_up(said.refusal)
        elif len(said.text.encode()) + len(said.thinking.encode()) > self._limit_bytes:
            self.give_up(f"more than {self._limit_bytes} bytes of it were said, which is all that is kept")
