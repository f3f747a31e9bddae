"""When a stream that says nothing is asked about. Pure.

The end of an answer may be lost on its way to a caller whose own connection lives. So the stream is looked at now and
then, and when nothing has come since the last look somebody is asked whether it still runs. A token costs nothing.

A machine that lost its power or its cable says nothing either, and no server says that it is gone. So a stream that
spoke at some pace and stops is asked about within a second, and its node is lost when it does not answer.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sollol_bus.errors import DecodeFailed, SollolError, error_from
from sollol_bus.transport.messages import Msg, decode, error_of
from sollol_bus.transport.streaming import PathBroken
from sollol_schemas import headers as h
from sollol_schemas.control import AttemptState, DispatcherPong, StateAnswer, StateQuestion
from sollol_schemas.decision import Decision

LOOK_EVERY_S: Final = 3.0
LOOK_RARELY_S: Final = 12.0
"""Between two questions about an engine that is silent for long, at most."""
MUTE: Final = "does_not_answer"
"""In the details of the error that says so of a node."""
SUDDEN_S: Final = 0.4
"""No silence is sudden that is shorter."""
_SUDDEN_GAPS: Final = 8.0
_PATIENCE_MAX_S: Final = 3.0
_SOON_S: Final = 0.01
_PACE_KNOWN: Final = 8
_LATELY: Final = 0.3
"""What the messages since the last look count of the pace: the stream may have stopped soon after it."""
_SUDDEN_MAX: Final = 2
"""Questions about one sudden silence: whoever got the first may hang itself."""


class Look(NamedTuple):
    """What to do now."""

    is_silent: bool
    """Whether nothing has come since the last look, so that somebody is asked."""
    again_in_s: float


class Silence:
    """Watches one stream by the number of its messages."""

    __slots__ = ("_every_s", "_messages")

    def __init__(self) -> None:
        self._messages = -1
        self._every_s = LOOK_EVERY_S

    def look(self, messages: int) -> Look:
        """Looks at a stream.

        Args:
            messages: How many messages have come until now.

        Returns:
            3 s until the next look while messages come, up to 12 s in a long silence.
        """
        is_silent = messages == self._messages
        self._messages = messages
        self._every_s = min(LOOK_RARELY_S, 2.0 * self._every_s) if is_silent else LOOK_EVERY_S
        return Look(is_silent, self._every_s)


class Pace:
    """How fast one stream speaks, by the number of its chunks; tells when it falls silent all of a sudden.

    A stream that never had a pace, because its engine still reads the prompt or says a word every few seconds, is never
    suddenly silent.

    Args:
        began_mono_s: When its first message came.
        held_s: How long its node may hold chunks that leave together.
    """

    __slots__ = ("_asked", "_at", "_chunks", "_held_s", "_known", "_rate", "_spoke_at")

    def __init__(self, began_mono_s: float = 0.0, held_s: float = 0.0) -> None:
        self._chunks = 0
        self._held_s = held_s
        self._at = self._spoke_at = began_mono_s
        """Of the last look, and of the last one at which something had come."""
        self._rate = 0.0
        """Chunks a second, lately."""
        self._known = 0
        """Chunks by which it is known."""
        self._asked = 0
        """So often this silence was called sudden."""

    def look(self, chunks: int, now: float) -> Look:
        """Looks at a stream.

        Args:
            chunks: How many chunks have come until now.
            now: Monotonic.

        Returns:
            Whether it is silent for as long as it took for 8 chunks before, .4 s at least and 3 s at most; and when
            to look again, within 3 s.
        """
        came, elapsed_s = chunks - self._chunks, now - self._at
        self._chunks, self._at = chunks, now
        if came > 0:
            self._spoke_at, self._asked = now, 0
            rate = came / max(_SOON_S, elapsed_s)
            self._rate = _LATELY * rate + (1.0 - _LATELY) * self._rate if self._known else rate
            self._known += came
            return Look(False, self._patience_s())
        if self._known < _PACE_KNOWN or self._asked == _SUDDEN_MAX:
            return Look(False, LOOK_EVERY_S)
        left_s = self._spoke_at + (1 + self._asked) * self._patience_s() - now
        if left_s > _SOON_S:
            return Look(False, left_s)
        self._asked += 1
        return Look(True, self._patience_s())

    def _patience_s(self) -> float:
        gaps_s = _SUDDEN_GAPS / self._rate if self._rate > 0 else 0.0
        return min(_PATIENCE_MAX_S, max(SUDDEN_S, gaps_s) + self._held_s)


def question_about(first: Msg | None, within_s: float = 0.0) -> StateQuestion | None:
    """What to ask about the answer that began with this message; None: it does not say who makes it.

    Args:
        first: The message.
        within_s: A node that does not answer for so long is to be called lost; 0: its silence tells nothing.
    """
    told = (first.headers or {}).get(h.DECISION) if first is not None else None
    if told is None:
        return None
    decision = decode(told.encode(), Decision)
    return StateQuestion(node_id=decision.node_id, attempt_id=decision.attempt_id, within_s=within_s)


def end_told(reply: Msg) -> SollolError | int | None:
    """What the answer to that question means.

    Returns:
        None while the attempt runs, or when the answer cannot be read; once it has ended, how many messages there
        were before the last one, or the error that takes the place of the end.
    """
    failure = error_of(reply)
    if failure is not None:
        return error_from(failure)
    try:
        answer = decode(reply.data, StateAnswer)
    except DecodeFailed:
        return None
    if answer.state in (AttemptState.RUNNING, AttemptState.STREAMING):
        return None
    return PathBroken("the end of the answer was lost on the way") if answer.chunks is None else answer.chunks


def is_held(pong: Msg) -> bool:
    """Whether a dispatcher says that it holds a request, or nothing about it, as earlier ones do."""
    try:
        return decode(pong.data, DispatcherPong).is_held
    except DecodeFailed:
        return True
