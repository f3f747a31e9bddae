"""What time it is for everything that more than one machine must agree on: the NATS server's.

The server stamps every stored message, so ages, due times and what is kept by age are told on its clock. Once it was
compared, ours is a steady clock with an offset: a step of the machine's own clock, by an operator, by NTP or by a
flat battery, moves nothing. Until then, and where nobody compares (nodes, the command line), it is the machine's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sollol_bus.steady import steady_s
from sollol_schemas.instants import instant

OFF_S: Final = 2.0
"""A machine's clock that is off by more is said to be wrong."""


def wall_s() -> float:
    """Seconds since 1970 by the machine's own clock, which anybody may set: to be shown, or to be compared."""
    return time.time()  # noqa: TID251 the one look at it


def far(ahead_s: float) -> str:
    """How a clock stands to another, in words."""
    return f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'}"


class Clock:
    """Seconds since 1970 as the NATS server tells them.

    Args:
        steady: Seconds from anywhere; never set, and not standing still while the machine sleeps.
        wall: The machine's own idea of the seconds since 1970.
    """

    def __init__(self, steady: Callable[[], float] = steady_s, wall: Callable[[], float] = wall_s) -> None:
        self._steady = steady
        self._wall = wall
        self._offset_s: float | None = None

    @property
    def is_compared(self) -> bool:
        """Whether the server has told its time."""
        return self._offset_s is not None

    def now_unix(self) -> float:
        """Seconds since 1970."""
        return self._wall() if self._offset_s is None else self._steady() + self._offset_s

    def instant(self) -> str:
        """The present instant, as it stands in messages."""
        return instant(self.now_unix())

    def steady(self) -> float:
        """The steady clock, to time a question to the server with."""
        return self._steady()

    @property
    def ahead_s(self) -> float:
        """Seconds that the machine's own clock is ahead of the server's; 0 until they were compared."""
        return 0.0 if self._offset_s is None else self._wall() - self.now_unix()

    @property
    def is_off(self) -> bool:
        """Whether the machine's own clock is wrong by more than `OFF_S`."""
        return abs(self.ahead_s) > OFF_S

    def heard(self, server_unix_s: float, *, asked_at: float, answered_at: float) -> float:
        """Takes over what the server told; returns by how many seconds its clock went wrong against ours since.

        The server read its clock at some moment between `asked_at` and `answered_at` on the steady clock. At first
        the middle is believed; later only what cannot be right is corrected, so that a slow answer moves nothing.
        """
        least, most = server_unix_s - answered_at, server_unix_s - asked_at
        before = self._offset_s
        if before is None:
            self._offset_s = (least + most) / 2
            return 0.0
        self._offset_s = min(max(before, least), most)
        return self._offset_s - before
