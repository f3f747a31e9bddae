"""Listens to an answer that has begun, and ends it when its end was lost on the way."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from sollol_bus.errors import BusError, SollolError
from sollol_bus.sdk.silence import Silence, end_told, question_about
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import subjects

LAST_WORDS_S: Final = 1.0
"""What was said to the caller itself may come so long after somebody else tells that it was said."""
_ANSWER_WITHIN_S: Final = 3.0


class Listener:
    """Asks about one stream while nothing comes from it; costs nothing between two looks.

    Args:
        bus: The caller's connection.
        stream: The answer.
    """

    def __init__(self, bus: Bus, stream: ReplyStream) -> None:
        self._bus = bus
        self._stream = stream
        self._silence = Silence()

    def look(self) -> float | None:
        """Looks whether anything has come since the last look.

        Returns:
            Seconds until the next look; None: the stream has ended.
        """
        stream = self._stream
        if stream.has_ended:
            return None
        look = self._silence.look(stream.messages)
        question = question_about(stream.first) if look.is_silent and self._bus.is_connected else None
        if question is not None:
            on_reply = partial(self._on_state, (stream.inbox, stream.messages))
            self._bus.ask(subjects.STATE, encode(question), on_reply, timeout_s=_ANSWER_WITHIN_S)
        return look.again_in_s

    def _on_state(self, place: tuple[str, int], reply: Msg | BusError) -> None:
        end = None if isinstance(reply, BusError) else end_told(reply)
        if end is not None:
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self._on_end_lost, place, end)

    def _on_end_lost(self, place: tuple[str, int], end: SollolError | int) -> None:
        """The attempt has ended, and its end has not come: the answer is whole only if nothing else is missing."""
        if self._stream.has_ended or (self._stream.inbox, self._stream.messages) != place:
            return
        if isinstance(end, SollolError):
            self._stream.fail(end)
        else:
            self._stream.conclude(end)
