"""When a stream that says nothing is asked about. Pure.

The end of an answer may be lost on its way to a caller whose own connection lives. So the stream is looked at now and
then, and when nothing has come since the last look somebody is asked whether it still runs. A token costs nothing.
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


def question_about(first: Msg | None) -> StateQuestion | None:
    """What to ask about the answer that began with this message; None: it does not say who makes it."""
    told = (first.headers or {}).get(h.DECISION) if first is not None else None
    if told is None:
        return None
    decision = decode(told.encode(), Decision)
    return StateQuestion(node_id=decision.node_id, attempt_id=decision.attempt_id)


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
