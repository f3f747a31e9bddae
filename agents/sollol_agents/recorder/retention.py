"""How far time has gone, for what is deleted by age: no clock that is set makes history old at once. Pure.

The line is the instant up to which time is believed to have gone. It follows the server's clock, but goes forward no
more than twice as fast as the steady clock, and is kept in the database over restarts. So whatever clocks say,
nothing is deleted before half its time has truly passed here, and a clock that was wrong for a while has cost
nothing. A recorder that stood still catches up in as long as it stood; until then old records stay longer.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_PACE: Final = 2.0
_LAG_S: Final = 3600.0
"""A line that lags by more is worth telling."""


class Line(NamedTuple):
    """Up to when time is believed to have gone."""

    at_unix_s: float
    lag_s: float = 0.0
    """By how much the server's clock is farther."""

    def moved(self, now_unix_s: float, passed_s: float) -> Line:
        """The line when the server's clock says `now_unix_s`, and `passed_s` went by since this one."""
        at = min(now_unix_s, self.at_unix_s + _PACE * passed_s)
        return Line(at, now_unix_s - at)

    @property
    def is_behind(self) -> bool:
        """Whether the clock was set, or the recorder stood still, by more than is usual."""
        return self.lag_s > _LAG_S

    def oldest_kept(self, newest_unix_s: float, keep_s: float) -> float:
        """The instant before which records may be deleted, counted from the newest record at most."""
        return min(self.at_unix_s, newest_unix_s) - keep_s
