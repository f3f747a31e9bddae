"""How many jobs of a caller wait or run, and whether one more may.

The queue itself is asked, and only while a caller with such a ceiling submits: nothing is kept, and what ended makes
room whoever saw it end. Between two looks what was let in here is added. Several dispatchers and gateways that let jobs
in between their looks do not know of each other's, so that a caller may have a few more for a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from sollol_bus.errors import QueueFull
from sollol_bus.jetstream.api import api
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode
from sollol_bus.trust.callers import Roster, title_of
from sollol_schemas import stores, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.owners import owner_of

LOOK_AGAIN_S: Final = 2.0
_SHARE: Final = 20
"""A look that takes long is repeated only after so many times its own duration."""
_STREAMS: Final = (stores.JOBS_STREAM, stores.DELAYED_STREAM)
_ANSWER_S: Final = 5.0


def count_by_owner(stored: Iterable[str]) -> Counter[str]:
    """How many jobs each owner has; one that lies in two places is one.

    Args:
        stored: The subjects of jobs that wait, run or are not due yet.
    """
    return Counter(owner_of(ref) for ref in {subjects.last_token(subject) for subject in stored})


def refusal_of_job(name: str, roster: Roster, count: int) -> ErrorBody | None:
    """Why a caller may submit no job now; None when it may.

    Args:
        name: The caller; empty: nobody in particular, whom no ceiling holds.
        roster: The callers.
        count: How many of its jobs wait or run.
    """
    standing = roster.of(name)
    most = standing.max_jobs
    if not name or not most or count < most:
        return None
    message = (
        f"{title_of(name, standing)} may have {most} jobs that wait or run; "
        f"`sollol fleet limit {name} --jobs NUMBER` changes that"
    )
    details = {"caller": name, "ceiling": "jobs", "limit": most, "retry_after_s": LOOK_AGAIN_S}
    return ErrorBody(code=ErrorCode.QUEUE_FULL, message=message, details=details)


class JobRoom:
    """Lets jobs in as far as their callers' ceilings of jobs permit.

    Args:
        bus: A connection of the control role.
        roster: Tells the callers, as they are known now.
        look_again_s: How old the counts may be, in seconds.
    """

    def __init__(self, bus: Bus, roster: Callable[[], Roster], look_again_s: float = LOOK_AGAIN_S) -> None:
        self._bus = bus
        self._roster = roster
        self._look_again_s = look_again_s
        self._counts: Counter[str] = Counter()
        self._asking: Counter[str] = Counter()
        self._fresh_until = 0.0
        self._looking = asyncio.Lock()

    def most(self, name: str) -> int:
        """How many jobs of a caller may wait or run; 0: no ceiling."""
        return self._roster().of(name).max_jobs if name else 0

    async def enter(self, name: str) -> None:
        """Counts a job of a caller in.

        Raises:
            QueueFull: It may have no more now.
            BusError: The queue does not answer.
        """
        if not self.most(name):
            return
        self._check(name, self._asking[name])
        self._asking[name] += 1
        try:
            await self._look()
        finally:
            self._asking[name] -= 1
        self._check(name, self._counts[name])
        self._counts[name] += 1

    def _check(self, name: str, count: int) -> None:
        refused = refusal_of_job(name, self._roster(), count)
        if refused is not None:
            raise QueueFull(body=refused)

    async def _look(self) -> None:
        """Asks the queue, unless what is known is fresh."""
        if time.monotonic() < self._fresh_until:
            return
        async with self._looking:
            began = time.monotonic()
            if began < self._fresh_until:
                return
            stored: set[str] = set()
            for stream in _STREAMS:
                stored |= await stored_subjects(self._bus, stream)
            self._counts = count_by_owner(stored)
            now = time.monotonic()
            self._fresh_until = now + max(self._look_again_s, _SHARE * (now - began))


class _Subjects(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _Page(msgspec.Struct):
    state: _Subjects
    total: int = 0


async def stored_subjects(bus: Bus, stream: str) -> set[str]:
    """The subjects of all messages in a stream, page by page as the server tells them.

    Raises:
        BusError: There is no such stream, or the server does not answer.
    """
    found: set[str] = set()
    offset = 0
    while True:
        asked = {"subjects_filter": ">", "offset": offset}
        page = decode(await api(bus, f"STREAM.INFO.{stream}", asked, timeout_s=_ANSWER_S), _Page)
        told = page.state.subjects or {}
        found.update(told)
        offset += len(told)
        if not told or offset >= page.total:
            return found
