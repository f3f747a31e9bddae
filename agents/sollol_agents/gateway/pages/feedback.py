"""Feedback over HTTP: whoever asked says how good the answer was."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sollol_agents.gateway.http.access import guest_of
from sollol_agents.gateway.http.bodies import body_of, json_response
from sollol_bus.errors import BadRequest
from sollol_bus.sdk.questions import ask_actor
from sollol_bus.transport.connection import Bus
from sollol_schemas import subjects
from sollol_schemas.callers import ANONYMOUS
from sollol_schemas.feedback import FeedbackReply, FeedbackRequest
from sollol_schemas.headers import CALLER
from sollol_schemas.plain_words import in_plain_words

PATH: Final = "/api/feedback"
_BODY_BYTES: Final = 64 << 10
_FIELDS: Final = frozenset(FeedbackRequest.__struct_fields__)


class FeedbackPages:
    """The handlers.

    Args:
        bus: The gateway's connection.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def routes(self) -> list[Route]:
        """The path of feedback."""
        return [Route(PATH, self.take, methods=["POST"])]

    async def take(self, request: Request) -> Response:
        """Takes one feedback: on a request of whoever gives it; administrators rate everybody's, and models."""
        guest = guest_of(request)
        body = await body_of(request, _BODY_BYTES)
        unknown = sorted(body.keys() - _FIELDS)
        if unknown:
            raise BadRequest(f"unknown field {unknown[0][:40]!r}; known are {', '.join(sorted(_FIELDS))}")
        try:
            asked = msgspec.convert(body, FeedbackRequest)
        except msgspec.ValidationError as error:
            raise BadRequest(in_plain_words(str(error))) from error
        headers = None if guest.is_admin else {CALLER: guest.caller or ANONYMOUS}
        reply = await ask_actor(self._bus, subjects.FEEDBACK, asked, FeedbackReply, headers=headers)
        return json_response(reply, status=202 if reply.is_waiting else 200)
