"""A dispatcher that shuts down leaves nothing undone.

What waits goes to another dispatcher at once, and so does whatever comes to wait while this one drains. What a node
works on is finished here within the drain's time; what takes longer begins anew elsewhere when it has not spoken and
cannot any more, and is left to its node otherwise, which needs no dispatcher to finish. So an end is never worse than
that of a process that is killed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from sollol_agents.dispatcher.requests.active import ActiveRequest
from sollol_agents.dispatcher.requests.scorer_watch import ScorerWatch
from sollol_bus.errors import BusError, NoResponders, NotConnected
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode

log = logging.getLogger(__name__)

_WHY = "its dispatcher is shutting down"


class Leaving:
    """The end of a dispatcher's requests.

    Args:
        bus: The connection; nobody listens there to the subjects of requests any more.
        active: What it holds, by request id.
        scorer: Through which its requests ask for slots.
        gone_within_s: How long the dispatcher stays at most.
        spawn: Runs a coroutine as a task of the dispatcher.
    """

    def __init__(
        self,
        bus: Bus,
        active: Mapping[str, ActiveRequest],
        scorer: ScorerWatch,
        *,
        gone_within_s: float,
        spawn: Spawn,
    ) -> None:
        self._bus = bus
        self._active = active
        self._scorer = scorer
        self._gone_within_s = gone_within_s
        self._spawn = spawn
        self._ours: Collection[str] = ()
        self._moving: asyncio.Task[None] | None = None

    async def begin(self, ours: Collection[str], hand_on_others: Callable[[], None]) -> None:
        """Moves what waits; whatever asks for a slot from now on is moved instead.

        Args:
            ours: Jobs whose runner is here, and gives them back itself.
            hand_on_others: Called where another dispatcher takes requests, before they are moved.
        """
        self._ours = ours
        with suppress(NotConnected):
            if await self._has_others():
                hand_on_others()
        self._scorer.divert(self._move_soon)
        await asyncio.wait((self._move_soon(),))

    async def end(self, ours: Collection[str]) -> None:
        """Parts from everything that is left.

        Raises:
            NotConnected: The bus is gone, and with it whatever could be said to anybody.
        """
        has_others = await self._has_others()
        for request in list(self._active.values()):
            if request.request.context.job_id in ours:
                request.cancel(ErrorCode.ACTOR_STOPPED, _WHY, comes_again=True)
            else:
                request.part(has_others=has_others)

    def _move_soon(self) -> asyncio.Task[None]:
        if self._moving is None or self._moving.done():
            self._moving = self._spawn(self._move_waiting(), name="requests.leave")
        return self._moving

    async def _move_waiting(self) -> None:
        try:
            while any(request.is_waiting for request in self._active.values()):
                has_others = await self._has_others()
                for request in [one for one in self._active.values() if one.is_waiting]:
                    if request.request.context.job_id in self._ours:
                        request.cancel(ErrorCode.ACTOR_STOPPED, _WHY, comes_again=True)
                    else:
                        request.move(self._gone_within_s, has_others=has_others)
        except NotConnected as error:
            log.info("not moved yet: %s", error, extra={"action": "requests_not_moved"})

    async def _has_others(self) -> bool:
        """Whether another dispatcher takes requests; the server says at once when nobody does.

        Raises:
            NotConnected: The server does not answer.
        """
        refused = asyncio.Event()

        def on_reply(reply: Msg | BusError) -> None:
            if isinstance(reply, NoResponders):
                refused.set()

        withdraw = self._bus.ask(subjects.ROUTE, b"", on_reply)
        try:
            await self._bus.flush()
        finally:
            withdraw()
        return not refused.is_set()
