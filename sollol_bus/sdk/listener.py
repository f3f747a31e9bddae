"""Listens to an answer that has begun, and ends it when its end was lost on the way."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final

from sollol_bus.errors import BusError, SollolError
from sollol_bus.sdk.silence import MUTE, Pace, Silence, end_told, question_about
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import subjects
from sollol_schemas.execution import HELD_S

LAST_WORDS_S: Final = 1.0
"""What was said to the caller itself may come so long after somebody else tells that it was said."""
SUDDEN_WITHIN_S: Final = 1.0
"""A node whose stream has stopped suddenly is asked twice, and has so long for each answer: processes of a machine with
far too much to do stand still for nearly two seconds."""
_MUTE_WORDS_S: Final = 0.05
"""What such a node said before it stopped may wait here for so long."""
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
        self._pace = Pace()
        self._inbox = ""
        """Of the sending that is listened to."""
        self._look_at = 0.0

    def look(self) -> float | None:
        """Looks whether anything has come since the last look.

        Returns:
            Seconds until the next look; None: the stream has ended.
        """
        stream, now = self._stream, time.monotonic()
        if stream.has_ended:
            return None
        if stream.inbox != self._inbox:
            self._inbox, self._pace = stream.inbox, Pace(stream.first_mono_s, HELD_S if stream.is_joined else 0.0)
        pace = self._pace.look(stream.chunks, now)
        is_silent = False
        if now >= self._look_at:
            look = self._silence.look(stream.messages)
            is_silent, self._look_at = look.is_silent, now + look.again_in_s
        if (is_silent or pace.is_silent) and self._bus.is_connected:
            self._ask(SUDDEN_WITHIN_S if pace.is_silent else 0.0)
        return min(pace.again_in_s, max(0.0, self._look_at - now))

    def _ask(self, within_s: float) -> None:
        stream = self._stream
        question = question_about(stream.first, within_s)
        if question is not None:
            on_reply = partial(self._on_state, (stream.inbox, stream.messages))
            self._bus.ask(subjects.STATE, encode(question), on_reply, timeout_s=_ANSWER_WITHIN_S)

    def _on_state(self, place: tuple[str, int], reply: Msg | BusError) -> None:
        end = None if isinstance(reply, BusError) else end_told(reply)
        if end is not None:
            is_mute = isinstance(end, SollolError) and end.details.get(MUTE) is True
            delay_s = _MUTE_WORDS_S if is_mute else LAST_WORDS_S
            asyncio.get_running_loop().call_later(delay_s, self._on_end_lost, place, end)

    def _on_end_lost(self, place: tuple[str, int], end: SollolError | int) -> None:
        """The attempt has ended, and its end has not come: the answer is whole only if nothing else is missing."""
        if self._stream.has_ended or (self._stream.inbox, self._stream.messages) != place:
            return
        if isinstance(end, SollolError):
            self._stream.fail(end)
        else:
            self._stream.conclude(end)
