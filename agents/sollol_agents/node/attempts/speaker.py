"""Speaks to one caller: chunks with an interest probe each, the end with its figures, or the one reply."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from sollol_agents.node.attempts.joining import HELD_BYTES, Joining, between
from sollol_agents.node.attempts.leave import Leave
from sollol_bus.errors import NotConnected, error_from
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode, error_headers
from sollol_bus.transport.pieces import Piece, pieces
from sollol_schemas import headers as h
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Exec, Figures

_AT_ONCE_BYTES: Final = 16 << 10
"""So much leaves in one write: no socket is so small."""
_HEADER_BYTES: Final = 32
"""A name and what stands around it."""
_REPLY_KEPT_BYTES: Final = 1 << 20
"""A longer reply is not said again when it was lost: then its caller is told so."""


class Words(NamedTuple):
    """One message at the end of an answer, which may have to be said again."""

    data: bytes
    headers: dict[str, str]

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return len(self.data) + sum(map(len, self.headers.values())) + _HEADER_BYTES * len(self.headers)


class Speaker:
    """Publishes what one attempt has to say; every method raises `NotConnected` when the bus is gone.

    Args:
        bus: The connection.
        leave: To speak into the caller's inbox.
        probe: Prefix of the reply subjects of chunks. The server answers there with 503 when nobody listens on
            the inbox any more; the last token counts the messages from 1.
        exec_: Its decision is told with the first message; whether chunks may leave together.
        is_rest: Whether the answer goes on.
    """

    __slots__ = ("_bus", "_decision", "_inbox", "_joining", "_reply", "content_type", "leave", "messages", "probe")

    def __init__(self, bus: Bus, leave: Leave, probe: str, exec_: Exec, *, is_rest: bool) -> None:
        self._bus = bus
        self.leave = leave
        self._inbox = leave.inbox
        self.probe = probe
        self._decision = exec_.decision
        self._reply: Words | None = None
        joint = between(exec_, is_rest=is_rest)
        self._joining: Joining | None = None
        if joint is not None:
            self._joining = Joining(joint, min(HELD_BYTES, bus.max_payload), self._say_held)
        self.content_type = ""
        """The engine's Content-Type, told with the first message when it is set."""
        self.messages = 0

    def says_at_once(self, batch: list[bytes]) -> bool:
        """Whether all of these, and an end behind them, leave in one write."""
        bus = self._bus
        return bus.nats.pending_data_size + sum(map(len, batch)) <= _AT_ONCE_BYTES and not bus.is_settling

    @property
    def has_room(self) -> bool:
        """Whether another message may leave without a wait."""
        bus = self._bus
        return bus.is_connected and not bus.is_crowded and not self.leave.is_ending(time.monotonic())

    def keeps(self, batch: list[bytes]) -> bool:
        """Holds the chunks of a whole answer, of which nothing was said, for the message that ends it, where it can."""
        if self._joining is None or self._bus.is_settling or not self._joining.has_room(batch):
            return False
        self._joining.hold(batch)
        return True

    @property
    def count(self) -> int:
        """Messages with chunks, the one that is yet to be said included."""
        return self.messages + (self._joining is not None and self._joining.is_holding)

    def together(self, batch: list[bytes]) -> list[bytes]:
        """Chunks that came together, as they leave."""
        return batch if self._joining is None else self._joining.together(batch)

    def due(self, batch: list[bytes], *, is_held: bool) -> list[bytes]:
        """What is to be said now that these came too.

        Args:
            batch: Chunks.
            is_held: Whether a part of it may be held for a while, where that is done.
        """
        if self._joining is None:
            return batch
        return [] if not self._joining.hold(batch) and is_held else self._joining.take()

    async def say_all(self, said: Iterable[Piece]) -> None:
        """Publishes messages, as fast as they leave."""
        for piece in said:
            self.say(piece)
            if self._bus.is_crowded:
                await self._bus.make_room()

    def over(self, *, is_whole: bool) -> None:
        """Publishes what is held of an answer that broke off, where it can; of a whole one the end tells it."""
        if self._joining is not None and not is_whole:
            self._say_held()
            self._joining.take()

    def _say_held(self) -> None:
        if self._joining is None or self.leave.is_ending(time.monotonic()):
            return  # it is said behind the next chunk, once there is leave
        with suppress(NotConnected):
            for chunk in self._joining.take():
                for piece in self.pieces(chunk):
                    self.say(piece)

    def pieces(self, chunk: bytes) -> list[Piece]:
        """A chunk as messages: itself, or parts of a large one, so that others on this connection get their turn.

        Raises:
            SollolError: It exceeds what anybody puts together.
        """
        return pieces(chunk, self._bus.max_payload)

    def say(self, piece: Piece) -> None:
        """Publishes one message."""
        data, part = piece
        headers = None if self.messages else self._first_headers()
        if part:
            headers = (headers or {}) | {h.PART: part}
        self._publish(data, headers)

    def last_words(self, error: ErrorBody | None, figures: Figures) -> tuple[Words, ...]:
        """What ends a stream: the error if there is one, then a message with what is held; of one reply, that reply."""
        if self._reply is not None:
            return (self._reply,)
        said = () if error is None else (Words(encode(error), error_headers(error)),)
        headers = {h.CHUNKS: str(self.count + len(said)), h.FIGURES: encode(figures).decode()}
        if error is not None or self._joining is None or not self._joining.is_holding:
            return (*said, Words(b"", headers))
        if not self.messages:
            headers |= self._first_headers()
        return (Words(self._joining.take()[0], headers),)

    def reply(self, body: bytes, figures: Figures) -> None:
        """Publishes the one reply of a caller who did not ask for a stream.

        Raises:
            BadRequest: With code `reply_too_large`, naming the remedy.
        """
        if len(body) > self._bus.max_payload:
            raise error_from(
                ErrorBody(
                    code=ErrorCode.REPLY_TOO_LARGE,
                    message=f"the reply has {len(body)} bytes, more than the {self._bus.max_payload} of one message: "
                    "ask for a stream, or for less",
                    details={"size_bytes": len(body), "limit_bytes": self._bus.max_payload},
                )
            )
        self.messages = 0
        headers = self._first_headers() | {h.FIGURES: encode(figures).decode()}
        self._publish(body, headers)
        self._reply = Words(body, headers) if len(body) <= _REPLY_KEPT_BYTES else _lost_reply()

    def _publish(self, data: bytes, headers: dict[str, str] | None) -> None:
        number = self.messages + 1
        self._bus.publish(self._inbox, data, reply=f"{self.probe}.{number}", headers=headers)
        self.messages = number

    def _first_headers(self) -> dict[str, str]:
        headers = {h.DECISION: encode(self._decision).decode()}
        if self.content_type:
            headers[h.CONTENT_TYPE] = self.content_type
        return headers


class Passing:
    """Says chunks in the very call in which they came from the engine.

    Args:
        speaker: The way to the caller.
        may_speak: Whether the attempt is in the middle of a stream, so that nothing is to be thought of first.
        on_heard: Called when the engine said something.
    """

    __slots__ = ("_may_speak", "_on_heard", "_speaker")

    def __init__(self, speaker: Speaker, may_speak: Callable[[], bool], on_heard: Callable[[], None]) -> None:
        self._speaker = speaker
        self._may_speak = may_speak
        self._on_heard = on_heard

    @property
    def has_room(self) -> bool:
        """Whether a chunk may be said now."""
        return self._may_speak() and self._speaker.has_room

    def take(self, chunks: list[bytes]) -> None:
        """Says chunks, or holds them as the others of the answer."""
        speaker = self._speaker
        self._on_heard()
        for chunk in speaker.due(chunks, is_held=True):
            for piece in speaker.pieces(chunk):
                speaker.say(piece)


def _lost_reply() -> Words:
    error = ErrorBody(code=ErrorCode.CONNECTION_LOST, message="the answer was lost on the way")
    return Words(encode(error), error_headers(error))
