"""How much each caller may ask for: requests open at a time, and requests a minute. Pure.

Every request passes here, whichever gateway and dispatcher it came by, so what is counted here holds over all of them.
A request that was let in is never refused later: asking again, failing over, going to another dispatcher and going on
with an answer that broke off are free. Jobs are not counted, and neither are callers without ceilings.

What is open is asked of the queue and the grants, never counted up and down: nothing can be lost on the way. A scorer
that takes office begins without counts. It learns what waits when dispatchers ask again; what runs already is not
counted any more, and the minute begins anew.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from sollol_agents.scorer.queue.refusals import Refusal
from sollol_bus.trust.callers import Roster, title_of
from sollol_schemas.callers import Standing
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus
from sollol_schemas.grant import GrantRequest

T = TypeVar("T", int, float)

_MINUTE_S = 60.0
_LOOK_AGAIN_S = 1.0  # an open request ends within seconds
_HANDED_ON_S = 10.0  # so long a request may take from one dispatcher to another
_LEFT_MAX = 10_000
_GOES_ON_MAX = 8
"""So often a request that was let in may go on; who says so without having been let in is counted."""


class _Account:
    """What one caller has open, and what is left of its minute."""

    __slots__ = ("at", "left", "open")

    def __init__(self, size: float, now: float) -> None:
        self.open: set[str] = set()
        self.left = size
        self.at = now


class Ceilings:
    """Lets requests in, or says which ceiling of their caller is reached.

    Args:
        is_open: Whether a request waits or has a slot.
    """

    def __init__(self, is_open: Callable[[str], bool]) -> None:
        self._is_open = is_open
        self._roster = Roster()
        self._accounts: dict[str, _Account] = {}
        self._left: OrderedDict[str, float] = OrderedDict()
        self._goes_on: OrderedDict[str, int] = OrderedDict()
        """How often requests that were let in went on, as long as no node has told that they are answered."""

    def know(self, roster: Roster) -> None:
        """The callers as they are now; counts go on."""
        self._roster = roster
        self._accounts = {word: one for word, one in self._accounts.items() if roster.name_of(word)}

    def refusal(self, request: GrantRequest, now: float, *, is_again: bool) -> Refusal | None:
        """Counts a request in, or says why it may not come in now.

        Args:
            request: The request.
            now: Monotonic seconds.
            is_again: Whether it waits here already.
        """
        name = self._roster.name_of(request.caller)
        standing = self._roster.of(name)
        if request.context.job_id or not (standing.max_concurrent or standing.requests_per_minute):
            return None
        account = self._accounts.setdefault(request.caller, _Account(_size(standing), now))
        was_handed_on = now - self._left.pop(request.request_id, -_HANDED_ON_S) < _HANDED_ON_S
        if not (is_again or request.is_admitted or was_handed_on or self._is_going_on(request)):
            refused = self._too_many_open(account, name, standing) or _too_often(account, name, standing, now)
            if refused is not None:
                return refused
            account.left -= 1.0
            if request.is_resumable:
                self._note(self._goes_on, request.request_id, 0)
        if standing.max_concurrent:
            account.open.add(request.request_id)
        return None

    def left(self, request_id: str, now: float) -> None:
        """A dispatcher wants no slot for a request any more; it may have given it to another one."""
        self._note(self._left, request_id, now)

    def take(self, outcome: Outcome) -> None:
        """A request that has its whole answer goes on no more."""
        if outcome.status is OutcomeStatus.SUCCESS:
            self._goes_on.pop(outcome.request_id, None)

    def clear(self) -> None:
        """Out of office."""
        self._accounts.clear()
        self._left.clear()
        self._goes_on.clear()

    def _is_going_on(self, request: GrantRequest) -> bool:
        """Whether a request that was let in goes on with its answer, once more."""
        times = self._goes_on.get(request.request_id)
        if request.continuation is None or times is None or times >= _GOES_ON_MAX:
            return False
        self._note(self._goes_on, request.request_id, times + 1)
        return True

    @staticmethod
    def _note(kept: OrderedDict[str, T], request_id: str, value: T) -> None:
        kept[request_id] = value
        if len(kept) > _LEFT_MAX:
            kept.popitem(last=False)

    def _too_many_open(self, account: _Account, name: str, standing: Standing) -> Refusal | None:
        most = standing.max_concurrent
        if not most or len(account.open) < most:
            return None
        account.open = {one for one in account.open if self._is_open(one)}
        if len(account.open) < most:
            return None
        said = f"{title_of(name, standing)} may have {most} requests open at a time"
        return _refused(name, said, "concurrent", most, _LOOK_AGAIN_S)


def _too_often(account: _Account, name: str, standing: Standing, now: float) -> Refusal | None:
    """A burst may use a whole minute's share."""
    if not standing.requests_per_minute:
        account.left = 1.0
        return None
    rate = standing.requests_per_minute / _MINUTE_S
    account.left = min(_size(standing), account.left + max(0.0, now - account.at) * rate)
    account.at = now
    if account.left >= 1.0:
        return None
    said = f"{title_of(name, standing)} may make {standing.requests_per_minute:g} requests a minute"
    return _refused(name, said, "per-minute", standing.requests_per_minute, (1.0 - account.left) / rate)


def _size(standing: Standing) -> float:
    return max(1.0, standing.requests_per_minute)


def _refused(name: str, said: str, flag: str, limit: float, retry_after_s: float) -> Refusal:
    again = f"ask again in {max(1, math.ceil(retry_after_s))} s"
    message = f"{said}: {again}; `sollol fleet limit {name} --{flag} NUMBER` changes that"
    return Refusal(
        ErrorBody(
            code=ErrorCode.QUEUE_FULL, message=message, details={"caller": name, "ceiling": flag, "limit": limit}
        ),
        retry_after_s,
    )
