"""When requests came into being, on one time line, whoever's clock tells it.

A job is born when the server stored it, any other request when its dispatcher received it. Such an instant stands still
while a question for a slot waits, is asked again, or comes by another dispatcher; an age in seconds would not, and in a
burst the last of a thousand would look younger than it is. Clocks are compared once, when the first request of a clock
comes; after that only the order on that clock counts.
"""

from __future__ import annotations

from collections import OrderedDict

from sollol_schemas.grant import GrantRequest

_CLOCKS_MAX = 4096
_LONGEST_WAIT_S = 30 * 86_400.0
_NEAR_S = 60.0  # an instant farther than this from the told age is not believed: a clock was set, or somebody lies
_SILENT_S = 600.0  # a clock that nobody followed for so long is compared anew


class Births:
    """Translates instants of other clocks to the scorer's."""

    def __init__(self) -> None:
        self._clocks: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def of(self, request: GrantRequest, now: float) -> float:
        """The instant of birth on the scorer's clock; it may lie a moment ahead."""
        by_age = now - min(request.waited_s, _LONGEST_WAIT_S)
        birth = request.birth
        if birth is None:
            return by_age
        offset, followed_at = self._clocks.get(birth.clock, (by_age - birth.at_s, -_SILENT_S))
        if abs(birth.at_s + offset - by_age) > _NEAR_S:
            if now - followed_at < _SILENT_S:
                return by_age
            offset = by_age - birth.at_s
        self._clocks[birth.clock] = (offset, now)
        self._clocks.move_to_end(birth.clock)
        if len(self._clocks) > _CLOCKS_MAX:
            self._clocks.popitem(last=False)
        return birth.at_s + offset
