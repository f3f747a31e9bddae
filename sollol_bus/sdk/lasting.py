"""Questions that outlast the restart of a server, and of whoever answers.

A question that did not leave, or found nobody, is asked again for a moment: who answers may be handing its office over.
One that may have been heard is asked again only where asking twice changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sollol_bus.errors import BusError, NoResponders, NotConnected, RequestTimedOut
from sollol_bus.transport.connection import SETTLING_S, Bus
from sollol_bus.transport.messages import Msg, error_of
from sollol_bus.waiting import happens
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode

HANDOVER_S: Final = 1.0
"""So long nobody may listen where an office changes hands."""
_AGAIN_S: Final = 0.1
_LOST_S: Final = 1.0
"""An answer that has not come so long after servers came or went may have been lost with one."""
_SLOW_S: Final = 4.0
"""What is left of a question's time is halved, so that it can be asked again, as long as this is more."""
_REPEATED: Final = frozenset(
    {
        subjects.NODES,
        subjects.MODELS,
        subjects.SCALE,
        subjects.STATS,
        subjects.RELIABILITY,
        subjects.RECENT,
        subjects.USAGE,
        subjects.SCORER_GROUPS,
        subjects.ADMIN_ACTS,
        subjects.ROUTE,
        subjects.JOB_ENQUEUE,  # with an id, which the client chooses
        subjects.JOB_GET,
        subjects.JOB_LIST,
        subjects.JOB_DEAD,
        subjects.BATCH_GET,
        subjects.BATCH_LIST,
    }
)
_WHY: Final = subjects.WHY.all.removesuffix("*")


def may_be_repeated(subject: str) -> bool:
    """Whether asking twice changes nothing."""
    return subject in _REPEATED or subject.startswith(_WHY)


async def reply_to(
    bus: Bus, subject: str, payload: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
) -> Msg:
    """The reply to a question.

    Args:
        bus: The connection.
        subject: Where it is asked.
        payload: What is asked.
        timeout_s: How long the answer may take, all in all.
        headers: Of the question.

    Raises:
        NoResponders: Nobody listens there, for a second, or for as long as the connection is settling.
        NotConnected: The connection did not come back in time; or broke, and who was asked may have heard it.
        RequestTimedOut: No answer came.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    is_repeated = may_be_repeated(subject)
    while True:
        left_s = began + timeout_s - loop.time()
        await _until_connected(bus, min(left_s, SETTLING_S))
        is_late = not bus.is_settling and loop.time() > began + min(timeout_s, HANDOVER_S)
        # It may also be lost with the connection of whoever answers, of which nothing is heard here.
        once_s = left_s / 2 if is_repeated and left_s > _SLOW_S else left_s
        try:
            msg = await _asked_once(bus, subject, payload, headers, once_s, is_repeated=is_repeated)
            if is_late or not is_repeated or not _has_stopped(msg):
                return msg
        except NoResponders:
            if is_late:
                raise
        except (NotConnected, RequestTimedOut):
            if not is_repeated:
                raise
        if began + timeout_s - loop.time() < _AGAIN_S:
            raise RequestTimedOut(f"no answer on {subject} within {timeout_s:g} s")
        await asyncio.sleep(_AGAIN_S)


def _has_stopped(msg: Msg) -> bool:
    """Whether whoever was asked says that it is leaving."""
    error = error_of(msg)
    return error is not None and error.code is ErrorCode.ACTOR_STOPPED


async def _until_connected(bus: Bus, within_s: float) -> None:
    if bus.is_connected:
        return
    news = asyncio.Event()
    bus.on_reconnect(news.set)
    bus.on_closed(news.set)
    try:
        if bus.closed.is_set() or not await happens(news, within_s) or not bus.is_connected:
            raise NotConnected("the connection to the bus is down")
    finally:
        bus.forget_callbacks(news.set)


async def _asked_once(
    bus: Bus, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float, *, is_repeated: bool
) -> Msg:
    """The reply; where the question may be repeated, it is given up early when servers came or went meanwhile."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Msg] = loop.create_future()

    def settle(result: Msg | BusError) -> None:
        if future.done():
            return
        if isinstance(result, BusError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def on_change() -> None:
        lost = RequestTimedOut(f"no answer on {subject}, and servers came or went")
        timers.append(loop.call_later(_LOST_S, settle, lost))

    timers: list[asyncio.TimerHandle] = []
    withdraw = bus.ask(subject, payload, settle, timeout_s=timeout_s, headers=headers)
    if is_repeated:
        bus.on_cluster_change(on_change)
    try:
        return await future
    finally:
        withdraw()
        bus.forget_callbacks(on_change)
        for timer in timers:
            timer.cancel()
