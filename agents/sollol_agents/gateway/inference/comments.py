"""Event streams that wait long begin with comments, so that nobody between takes the connection for dead."""

from __future__ import annotations

import asyncio
import logging

from sollol_agents.gateway.http.errors import EVENT_HEADERS, Header, waiting_event
from sollol_agents.gateway.http.reply import Reply
from sollol_agents.gateway.inference.request import HttpRequest
from sollol_bus.errors import SollolError
from sollol_bus.parts import Spawn

log = logging.getLogger(__name__)


class Comments:
    """The comments of one request; a stream alone gets some.

    Args:
        request: The request.
        reply: Its answer.
        told: The headers of an answer of which nothing is decided yet.
        after_s: Seconds of waiting before the first comment, and between two.
        spawn: Runs a coroutine as a task of the gateway.
    """

    __slots__ = ("_after_s", "_reply", "_request", "_spawn", "_task", "_timer", "_told")

    def __init__(self, request: HttpRequest, reply: Reply, told: list[Header], *, after_s: float, spawn: Spawn) -> None:
        self._request = request
        self._reply = reply
        self._told = told
        self._after_s = after_s
        self._spawn = spawn
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(after_s, self._begin)

    async def end(self) -> None:
        """Says no more; to be awaited before anything else is sent."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _begin(self) -> None:
        if self._request.wants_stream:
            self._task = self._spawn(self._comment(), name="waiting")

    async def _comment(self) -> None:
        try:
            if not self._reply.status:
                self._reply.start(200, [*EVENT_HEADERS, *self._told])
            while True:
                await self._reply.write(waiting_event(self._request.dialect))
                await asyncio.sleep(self._after_s)
        except SollolError as error:
            log.info("a client that waits does not read: %s", error, extra={"action": "reader_cut"})
