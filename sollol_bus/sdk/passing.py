"""Chunks that are handed on in the very call that brings them, while nothing else has to be thought of.

A chunk that waits for its reader costs a future, a turn of the loop and the reader's way down to where it waited; and
of many streams that speak at the same moment the first one's leaves only when all have been read. So whoever passes an
answer on may take chunks as they come. All that is not a plain next chunk comes by the iteration: the first message of
an attempt, the end, errors, and whatever stands behind one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from sollol_bus.errors import SollolError
from sollol_bus.transport.joined import chunks_in
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.streaming import ReplyStream

_TOGETHER_S: Final = 0.0005
"""What comes so soon behind another chunk comes by the iteration, which joins it with what is behind it."""
_BY_ITERATION_S: Final = 1.0
"""So often a chunk comes by the iteration all the same, which then begins to wait anew."""


class Taker(Protocol):
    """Takes chunks of an answer."""

    @property
    def has_room(self) -> bool:
        """Whether it takes one now."""

    def take(self, data: bytes) -> None:
        """Takes one; only called while it has room."""


class PassingStream(ReplyStream):
    """A stream of replies of which somebody may take what comes while the iteration waits."""

    take: Callable[[Msg], bool] | None = None
    """Takes a chunk, or does not (False); an error that it raises ends the stream."""
    _alone_from = _iterates_at = 0.0

    def _put(self, item: Msg | SollolError) -> None:
        take, arrived = self.take, self._arrived
        is_waiting = arrived is not None and not arrived.done() and not self._waiting
        if take is None or not is_waiting or isinstance(item, SollolError) or not self._may_pass(item):
            super()._put(item)
            return
        try:
            is_taken = take(item)
        except SollolError as error:
            super()._put(error)
            return
        if is_taken:
            self.messages += 1
            self.chunks += chunks_in(item.data) if self.is_joined else 1
        else:
            super()._put(item)

    def _may_pass(self, item: Msg) -> bool:
        """Whether a message is a chunk behind the first, and its time is none of those for the iteration."""
        now = time.monotonic()
        if now < self._alone_from or not item.data or self.first is None:
            return False
        self._alone_from = now + _TOGETHER_S
        if now < self._iterates_at:
            return True
        self._iterates_at = now + _BY_ITERATION_S
        return False
