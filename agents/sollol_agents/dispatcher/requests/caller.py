"""Whoever sent a request: told who has it, where it stands and what went wrong, and missed when it is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sollol_agents.dispatcher.requests.intake import Request
from sollol_bus.alarms import Stoppable
from sollol_bus.errors import BusError, NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode, is_no_responders
from sollol_bus.transport.mux import ReplyInbox
from sollol_schemas.errors import ErrorBody
from sollol_schemas.execution import RequestGranted, RequestNews, Taken

log = logging.getLogger(__name__)

NEWS_AFTER_S = 0.05
"""A request that is quicker needs no watching."""


def _over() -> None:
    """The request has ended."""


class Caller:
    """Tells the caller of one request, and hears from the server when nobody listens to its news any more.

    Args:
        bus: The connection.
        request: What it sent.
        instance: Who has it.
        on_gone: Called when news reached nobody: whoever waited for the answer is gone.
    """

    def __init__(self, bus: Bus, request: Request, instance: str, on_gone: Callable[[], None]) -> None:
        self._bus = bus
        self._request = request
        self._instance = instance
        self._on_gone = on_gone
        self._news: RequestNews | None = None
        self._refusals: ReplyInbox | None = None
        self._timer: Stoppable | None = None
        if request.control_inbox:
            self._timer = bus.alarms.after(NEWS_AFTER_S, self._begin)

    def tell(self, news: RequestNews) -> None:
        """Tells where the request stands."""
        self._news = news
        if self._refusals is not None:
            self._publish(news, self._refusals)

    def tell_granted(self, node_id: str) -> None:
        """Tells that it runs now, and where: whoever heard that it waits, and the runner of a job, who tells others."""
        has_heard = self._refusals is not None and self._news is not None
        if has_heard or self._request.context.job_id:
            self.tell(RequestGranted(request_id=self._request.request_id, node_id=node_id))
        else:
            self._news = None  # that it waited is no news any more

    def refuse(self, error: ErrorBody) -> None:
        """Tells what went wrong, as the end of the answer."""
        try:
            self._bus.respond_error(self._request.reply_to, error, is_stream=self._request.wants_stream)
        except NotConnected:
            log.info(
                "request %s: the caller could not be told: %s",
                self._request.request_id,
                error.code,
                extra={"action": "caller_untold", "request_id": self._request.request_id, "code": error.code.value},
            )

    def close(self) -> None:
        """Tells no more, and keeps nothing of the request, which else only the collector of garbage would free."""
        self._on_gone = _over
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._refusals is not None:
            self._refusals.close()

    def _begin(self) -> None:
        self._refusals = self._bus.reply_inbox(self._on_refusal)
        taken = Taken(request_id=self._request.request_id, dispatcher="dispatcher", instance=self._instance)
        self._publish(taken, self._refusals)
        if self._news is not None:
            self._publish(self._news, self._refusals)

    def _publish(self, news: RequestNews, refusals: ReplyInbox) -> None:
        try:
            self._bus.publish(self._request.control_inbox, encode(news), reply=refusals.subject)
        except NotConnected:
            log.debug("request %s: its caller will send it again", self._request.request_id)

    def _on_refusal(self, reply: Msg | BusError) -> None:
        if isinstance(reply, Msg) and is_no_responders(reply) and not self._bus.is_settling:
            self._on_gone()
