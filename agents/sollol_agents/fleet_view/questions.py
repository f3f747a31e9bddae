"""What must be asked for because no event tells it: the state of things at the start, and after a change of office.

Nothing is asked in a loop but two things: the groups of models while a page shows them, and the queue, while a page
shows it, or while one is open, no slot is free and nothing is decided.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from sollol_agents.fleet_view.jobs import LISTED
from sollol_agents.fleet_view.view import FleetView
from sollol_bus.errors import NoResponders, NotPermitted, SollolError
from sollol_bus.sdk.batches import Batches
from sollol_bus.sdk.client import Client
from sollol_bus.transport.clock import wall_s
from sollol_schemas.batch_progress import BatchView

log = logging.getLogger(__name__)

_RECENT: Final = 500
_LETTERS: Final = 200
_BATCHES: Final = 20
_SETTLE_S: Final = 0.3
_RETRY_S: Final = 2.0
_STALE_S: Final = 3.0
_JOBS_EVERY_S: Final = 1.0
_QUEUE_EVERY_S: Final = 1.0
_GROUPS_EVERY_S: Final = 3.0


def instant_s(text: str) -> float:
    """An instant in seconds since 1970; one that cannot be read, or that another clock has in the future, is now."""
    now = wall_s()
    try:
        return min(now, dt.datetime.fromisoformat(text).timestamp())
    except ValueError:
        return now


class Questions:
    """Asks scorer, recorder and dispatchers.

    Args:
        client: The dashboard's client.
        view: What is told.
        shows: Whether a page shows a view.
        has_pages: Whether any page is open.
    """

    def __init__(
        self, client: Client, view: FleetView, shows: Callable[[str], bool], has_pages: Callable[[], bool]
    ) -> None:
        self._client = client
        self._view = view
        self._shows = shows
        self._has_pages = has_pages
        self._changed = asyncio.Event()
        self._changed.set()
        self._knows_past = False
        self._jobs_at = -_JOBS_EVERY_S
        self._queue_at = -_QUEUE_EVERY_S
        self._groups_at = -_GROUPS_EVERY_S

    def ask_again(self) -> None:
        """Something changed that is known only by questions."""
        self._changed.set()

    async def run(self) -> None:
        """Asks whenever it is needed, for ever."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_SETTLE_S)  # several breakers change at a time
            self._changed.clear()
            if not await self._ask():
                await asyncio.sleep(_RETRY_S)
                self._changed.set()

    async def run_jobs(self) -> None:
        """Renews the list of jobs after events, while somebody looks at it; and the queue when nothing tells it."""
        while True:
            await asyncio.sleep(_SETTLE_S)
            now = time.monotonic()
            if self._shows("jobs") and self._view.jobs.is_stale and now - self._jobs_at >= _JOBS_EVERY_S:
                self._jobs_at = now
                await self.jobs()
            if self._is_queue_untold(now):
                self._view.last_decision_s = now
                await self._attempt("the queue", self._queue())
            elif self._shows_groups() and now - self._groups_at >= _GROUPS_EVERY_S:
                await self._attempt("the groups", self._groups())
            elif self._shows("queue") and now - self._queue_at >= _QUEUE_EVERY_S:
                await self._attempt("the queue", self._queue())

    def _shows_groups(self) -> bool:
        return self._shows("settings") or self._shows("playground")

    async def _groups(self) -> None:
        self._groups_at = time.monotonic()
        self._view.on_groups(await self._client.groups())

    async def _queue(self) -> None:
        self._queue_at = time.monotonic()
        self._view.on_queue(await self._client.nodes(is_queue_only=True), wall_s())

    def _is_queue_untold(self, now: float) -> bool:
        """Whether requests may wait without a decision that would tell how many."""
        view = self._view
        if not self._has_pages() or now - view.last_decision_s < _STALE_S:
            return False
        fleet = view.nodes.fleet(now)
        return view.timeline.queued > 0 or fleet.busy >= fleet.slots

    async def jobs(self) -> None:
        """Renews the list of jobs."""
        self._view.jobs.is_stale = False

        async def ask() -> None:
            latest, dead = await self._client.jobs.latest(limit=LISTED), await self._client.jobs.dead(_LETTERS)
            self._view.on_jobs(latest, dead, await self._batches())

        if not await self._attempt("the jobs", ask()):
            self._view.jobs.is_stale = True

    async def _batches(self) -> tuple[BatchView, ...]:
        try:
            return (await Batches(self._client.jobs).latest(_BATCHES)).batches
        except (NoResponders, NotPermitted):  # a dispatcher that knows no batches, or none that may be seen
            return ()

    async def _ask(self) -> bool:
        scorer = await self._attempt("the scorer", self._ask_scorer())
        if scorer and not self._knows_past:
            self._knows_past = await self._attempt("the recorder", self._ask_recorder())
        return scorer and self._knows_past

    async def _ask_scorer(self) -> None:
        await self._nodes()
        try:
            self._view.on_strategy(await self._client.strategy())
            self._view.on_breakers(await self._client.breakers())
        except NotPermitted as error:  # an observer may look at the fleet, and not at how it is steered
            log.debug("the strategy is not shown: %s", error)

    async def _nodes(self) -> None:
        self._view.on_nodes(await self._client.nodes(), time.monotonic(), wall_s())

    async def _ask_recorder(self) -> None:
        recent = await self._client.recent(_RECENT)
        reliability = await self._client.reliability()
        self._view.on_recent(recent, instant_s)
        self._view.on_reliability(reliability)

    async def _attempt(self, whom: str, question: Coroutine[Any, Any, None]) -> bool:
        try:
            await question
            self._view.has_asked = True
        except SollolError as error:
            if whom == "the scorer":
                self._view.scorer = ""
                self._view.has_asked = True
            log.info("%s did not answer: %s", whom, error, extra={"action": "question_unanswered"})
            return False
        return True
