"""A request goes to another dispatcher as it came: for the same inbox, with its age and its next attempt's number.

Its caller notices nothing but that another dispatcher tells it so; one that is no more than an inbox, not even that.
"""

from __future__ import annotations

import logging

from sollol_agents.dispatcher.requests.intake import SUBJECT_OF, Request
from sollol_bus.transport.connection import Bus
from sollol_schemas import headers as h
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)


def hand_on(bus: Bus, request: Request, *, number: int, waited_s: float) -> None:
    """Publishes a request for another dispatcher; this one must not listen to its subject any more.

    Raises:
        NotConnected: The connection is down; nothing was sent.
        PayloadTooLarge: Its caller's headers leave no room for ours.
    """
    headers = handed_on(request, number=number, waited_s=waited_s)
    bus.publish(SUBJECT_OF[request.kind], request.payload, reply=request.reply_to, headers=headers)
    extra = {"action": "request_handed_on", "request_id": request.request_id}
    log.info("request %s goes to another dispatcher", request.request_id, extra=extra)


def handed_on(request: Request, *, number: int, waited_s: float) -> dict[str, str]:
    """The headers with which another dispatcher takes a request as its caller sent it.

    Args:
        request: The request.
        number: Of its next attempt.
        waited_s: Its age.
    """
    ours = {h.REQUEST_ID: request.request_id, h.NUMBER: str(number), h.WAITED: f"{waited_s:.3f}"}
    return {**request.headers, **ours}


def nobody_left(gone_within_s: float) -> ErrorBody:
    """What a caller is told whose request nobody takes over: within so many seconds another dispatcher may start."""
    return ErrorBody(
        code=ErrorCode.ACTOR_STOPPED,
        message="its dispatcher is shutting down, and there is no other one",
        details={"gone_within_s": gone_within_s},
    )
