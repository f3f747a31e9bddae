"""Inference over HTTP: one request becomes one call on the bus.

A client that does not stream sees nothing before its answer is whole. When a node dies while it makes one, the request
is therefore sent again, with its age and under its id, and the client sees the answer alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.gateway.http.reply import Reply
from sollol_agents.gateway.inference import tracing
from sollol_agents.gateway.inference.checked import Escalated
from sollol_agents.gateway.inference.exchange import Exchange
from sollol_agents.gateway.inference.request import HttpRequest
from sollol_agents.http_server import ClientLimits, Connection
from sollol_bus.errors import (
    ActorStopped,
    Cancelled,
    Conflict,
    QueueFull,
    SollolError,
    error_from,
)
from sollol_bus.parts import Spawn
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.sending import MAX_RESENDS
from sollol_bus.transport.connection import Bus
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)

_SUBJECTS: Final = {
    RequestKind.GENERATE: subjects.GENERATE,
    RequestKind.CHAT: subjects.CHAT,
    RequestKind.EMBED: subjects.EMBED,
    RequestKind.PASSTHROUGH: subjects.PASSTHROUGH,
}
_RESENDS: Final = 2


class Inference:
    """Serves inference requests.

    Args:
        bus: The gateway's connection.
        config: Settings.
        limits: What clients may do.
        metrics: Counters.
        spawn: Runs a coroutine as a task of the gateway.
        on_end: Called when a request has ended.
    """

    def __init__(
        self,
        bus: Bus,
        config: GatewayConfig,
        limits: ClientLimits,
        metrics: Metrics,
        *,
        spawn: Spawn,
        on_end: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._config = config
        self._limits = limits
        self._metrics = metrics
        self._spawn = spawn
        self._on_end = on_end
        self._left = ""
        self.active: dict[str, Call] = {}
        """Calls that are not answered yet, by request id."""

    def hand_back(self, reason: str) -> None:
        """Ends what is still running, and takes nothing more."""
        self._left = reason
        for call in list(self.active.values()):
            call.leave(ActorStopped(reason) if call.first is None else _left_in_middle(reason))

    async def serve(self, request: HttpRequest, reply: Reply, connection: Connection) -> None:
        """Answers one request, whatever becomes of it."""
        began = time.perf_counter()
        exchange = Exchange(request, reply, self._metrics, keep_alive_s=self._config.keep_alive_s, spawn=self._spawn)
        exchange.span = tracing.begin(self._bus.tracer, request)
        try:
            call = self._admitted(request)
        except SollolError as error:
            await exchange.fail(error)
            self._metrics.refused(request.label, reply.status)
            tracing.finish(exchange.span, reply.status, error=error.body.code)
            return
        self.active[call.request_id] = exchange.call = call
        self._metrics.began()
        try:
            await self._run(exchange, request, call, connection)
        except SollolError as error:
            await exchange.fail(error)
        finally:
            connection.on_gone = None
            del self.active[call.request_id]
            exchange.observe(time.perf_counter() - began)
            self._on_end()

    async def _run(self, exchange: Exchange, request: HttpRequest, call: Call, connection: Connection) -> None:
        """Relays the answer, of another call when the first broke off unseen.

        Raises:
            SollolError: What ended the request.
        """
        left = _RESENDS
        while True:
            connection.on_gone = partial(call.leave, Cancelled("the client left"))
            try:
                async with call:
                    await exchange.run(call)
            except Escalated:
                assert exchange.checked is not None
                log.info(
                    "request %s is asked of another model",
                    call.request_id,
                    extra={"action": "request_escalated", "request_id": call.request_id},
                )
                call = self._call(request, call, exchange.checked.headers())
                left = _RESENDS
            except SollolError as error:
                if not left or call.age_s >= request.deadline_s or not exchange.may_try_again(error):
                    if await exchange.run_kept(error):
                        return
                    raise
                log.info(
                    "request %s begins anew: %s",
                    call.request_id,
                    error.body.code,
                    extra={"action": "request_renewed", "request_id": call.request_id},
                )
                left -= 1
                call = self._call(request, call, exchange.checked.headers() if exchange.checked is not None else None)
            else:
                return
            self.active[call.request_id] = call

    def _admitted(self, request: HttpRequest) -> Call:
        """The call for a request.

        Raises:
            SollolError: The gateway leaves, too many are open already, or the client chose an id that is in use.
        """
        if self._left:
            raise ActorStopped(self._left)
        if len(self.active) >= self._config.max_active:
            raise QueueFull(f"this gateway serves {len(self.active)} requests already; try again later")
        if request.request_id is not None and request.request_id in self.active:
            raise Conflict(f"request id {request.request_id} is in use")
        return self._call(request)

    def _call(self, request: HttpRequest, broken: Call | None = None, headers: dict[str, str] | None = None) -> Call:
        """A call, in place of one that broke off under its id and with its age if there was one.

        Args:
            request: The request.
            broken: The call before.
            headers: What goes with it; None: the request's own.
        """
        waited_s = broken.age_s if broken is not None else 0.0
        return Call(
            self._bus,
            _SUBJECTS[request.kind],
            request.body,
            headers=request.headers if headers is None else headers,
            deadline_s=request.deadline_s - waited_s,
            request_id=broken.request_id if broken is not None else request.request_id,
            max_unread_bytes=self._limits.unread_bytes,
            resends=broken.resends + 1 if broken is not None else 0,
            max_resends=MAX_RESENDS + (broken.resends + 1 if broken is not None else 0),
            waited_s=waited_s,
            secret=broken.secret if broken is not None else "",
            resume_bytes=self._config.resume_bytes if request.resumes else 0,
            is_joined=request.is_whole,
        )


def _left_in_middle(reason: str) -> SollolError:
    details = {"not_resumed": "the gateway through which it came is leaving"}
    return error_from(ErrorBody(code=ErrorCode.ACTOR_STOPPED, message=reason, details=details))
