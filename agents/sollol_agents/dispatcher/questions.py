"""Questions of callers that are passed on: where a request would go, and how an attempt stands."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sollol_agents.dispatcher.requests.intake import Rejected, Request
from sollol_bus.errors import BusError, DecodeFailed, NoResponders, NotConnected, RequestTimedOut
from sollol_bus.jetstream.vacancy import nobody
from sollol_bus.sdk.silence import MUTE
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, decoded, encode
from sollol_schemas import stores, subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.control import ControlAttempt, ControlReply, StateAnswer, StateQuestion
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.grant import RouteRequest
from sollol_schemas.inboxes import is_client_inbox

_ROUTE_TIMEOUT_S = 5.0
_STATE_TIMEOUT_S = 2.0


def ask_where(bus: Bus, taken_in: Callable[[RequestKind, Msg], Request], msg: Msg) -> None:
    """Answers a dry run with what the scorer says.

    Args:
        bus: The dispatcher's connection.
        taken_in: The request in a message.
        msg: The body of a request, with its headers.
    """
    if not is_client_inbox(msg.reply):
        return
    try:
        request = taken_in(_kind_of(msg.data), msg)
    except Rejected as rejected:
        bus.respond_error(msg.reply, rejected.error)
        return
    question = RouteRequest(request_id=request.request_id, context=request.context, routing=request.routing)

    def on_answer(reply: Msg | BusError) -> None:
        if isinstance(reply, NotConnected):
            return  # nobody can be told
        if isinstance(reply, BusError):
            error = ErrorBody(code=ErrorCode.NO_NODES, message=nobody(stores.SCORER_LEASE))
            bus.respond_error(msg.reply, error)
        else:
            bus.publish(msg.reply, reply.data, headers=dict(reply.headers) if reply.headers else None)

    bus.ask(subjects.SCORER_ROUTE, encode(question), on_answer, timeout_s=_ROUTE_TIMEOUT_S)


def ask_state(bus: Bus, msg: Msg) -> None:
    """A caller asks about an attempt that any dispatcher may have sent: its node knows."""
    if not is_client_inbox(msg.reply):
        return
    try:
        asked = decode(msg.data or b"{}", StateQuestion)
    except DecodeFailed as error:
        bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
        return

    def on_answer(is_last: bool, reply: Msg | BusError) -> None:
        told = None if isinstance(reply, BusError) else decoded(reply, ControlReply)
        if told is not None and told.attempt_state is not None:
            bus.respond(msg, StateAnswer(state=told.attempt_state, chunks=told.chunks))
        elif isinstance(reply, NoResponders) and not bus.is_settling:
            lost(f"the node {asked.node_id} is gone")
        elif isinstance(reply, RequestTimedOut) and asked.within_s > 0 and not bus.is_settling:
            if is_last:
                lost(f"the node {asked.node_id} does not answer", is_mute=True)
            else:  # this process may have been the one that was late
                ask(is_last=True)

    def lost(why: str, *, is_mute: bool = False) -> None:
        details = {MUTE: True} if is_mute else {}
        bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.NODE_LOST, message=why, details=details))

    def ask(*, is_last: bool) -> None:
        timeout_s = min(_STATE_TIMEOUT_S, asked.within_s) if asked.within_s > 0 else _STATE_TIMEOUT_S
        question = encode(ControlAttempt(attempt_id=asked.attempt_id))
        with suppress(NotConnected):  # nobody can be told
            bus.ask(subjects.NODE_CONTROL.of(asked.node_id), question, partial(on_answer, is_last), timeout_s=timeout_s)

    ask(is_last=False)


def _kind_of(body: bytes) -> RequestKind:
    """Which kind a body without a subject is; what is not clear is taken as `generate`."""
    if b'"messages"' in body:
        return RequestKind.CHAT
    if b'"input"' in body and b'"prompt"' not in body:
        return RequestKind.EMBED
    return RequestKind.GENERATE
