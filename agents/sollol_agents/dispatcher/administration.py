"""Operators' requests about one node, forwarded to the node's control subject; every reply is passed on.

What they want of the node itself (drain, weight, labels) is kept first, and holds also where the node is down.
"""

from __future__ import annotations

import asyncio
import logging

from sollol_agents.dispatcher.intents import KeptIntents
from sollol_bus.errors import BusError, DecodeFailed, NotConnected
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of, is_no_responders
from sollol_bus.transport.mux import ReplyInbox
from sollol_schemas import subjects
from sollol_schemas.control import (
    AdminRequest,
    ControlDrain,
    ControlLoad,
    ControlPull,
    ControlReply,
    ControlRequest,
    ControlSet,
    ControlUnload,
)
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.ids import is_bus_id

log = logging.getLogger(__name__)

_MAX_OPEN = 256
_TIMEOUT_S = 600.0
_PULL_TIMEOUT_S = 86_400.0


class UnknownOperation(ValueError):
    """There is no such operation, or a field that it needs is missing."""


def control_request(operation: str, asked: AdminRequest) -> ControlRequest:
    """What the node is told.

    Raises:
        UnknownOperation: No such operation, or the model is missing.
    """
    if operation in ("load", "unload", "pull") and not asked.model:
        raise UnknownOperation(f"{operation} needs a model")
    match operation:
        case "drain":
            return ControlDrain(is_draining=True)
        case "undrain":
            return ControlDrain(is_draining=False)
        case "load":
            return ControlLoad(model=asked.model, keep_alive_s=asked.keep_alive_s)
        case "unload":
            return ControlUnload(model=asked.model)
        case "pull":
            return ControlPull(model=asked.model)
        case "set":
            return ControlSet(weight=asked.weight, labels=asked.labels)
    raise UnknownOperation(f"unknown operation {operation!r}: drain, undrain, load, unload, pull or set")


class Administration(Part):
    """Forwards operators' requests; holds an inbox open while a node answers."""

    def __init__(self, bus: Bus, spawn: Spawn) -> None:
        self._bus = bus
        self._spawn = spawn
        self._intents = KeptIntents(bus)
        self._loop = asyncio.get_running_loop()
        self._open: dict[ReplyInbox, asyncio.TimerHandle] = {}

    @property
    def in_flight(self) -> int:
        """Requests that a node has not answered yet."""
        return len(self._open)

    async def close(self) -> None:
        """Forgets what is still open."""
        for inbox in list(self._open):
            self._close(inbox)

    def on_request(self, msg: Msg) -> None:
        """Takes one operator's request."""
        try:
            asked = decode(msg.data, AdminRequest)
            control = control_request(subjects.last_token(msg.subject), asked)
        except (DecodeFailed, UnknownOperation) as error:
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
            return
        if not is_bus_id(asked.node_id):
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message="invalid node id"))
            return
        if len(self._open) >= _MAX_OPEN:
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.QUEUE_FULL, message="too many at once"))
            return
        if isinstance(control, ControlDrain | ControlSet):
            self._spawn(self._keep(msg.reply, asked.node_id, control), name=f"intent.{asked.node_id}")
        else:
            self._forward(msg.reply, asked.node_id, control)

    async def _keep(self, reply: str, node_id: str, control: ControlDrain | ControlSet) -> None:
        """Keeps what is wanted of the node and tells it; where it cannot be kept, the node alone knows."""
        is_kept = False
        try:
            if await self._intents.is_known(node_id):
                await self._intents.keep(node_id, control)
                is_kept = True
        except BusError as error:
            log.warning(
                "what is wanted of %s is not kept: %s",
                node_id,
                error,
                extra={"action": "intent_not_kept", "node_id": node_id},
            )
        if self._bus.is_connected:
            self._forward(reply, node_id, control, is_kept=is_kept)

    def _forward(self, reply: str, node_id: str, control: ControlRequest, *, is_kept: bool = False) -> None:
        is_stream = isinstance(control, ControlPull)

        def on_reply(answer: Msg | BusError) -> None:
            if isinstance(answer, BusError):
                self._close(inbox)  # the connection broke: nobody can be told
                return
            if is_kept and is_no_responders(answer):
                self._close(inbox)
                self._bus.publish(reply, encode(_away(node_id, control)))
                return
            error = _error_in(answer, node_id)
            if error is not None or not is_stream or not answer.data:
                self._close(inbox)
            if error is None:
                self._bus.publish(reply, answer.data)
                return
            self._bus.respond_error(reply, error)
            if is_stream:
                self._bus.publish(reply, b"")

        inbox = self._bus.reply_inbox(on_reply)
        timeout_s = _PULL_TIMEOUT_S if is_stream else _TIMEOUT_S
        self._open[inbox] = self._loop.call_later(timeout_s, self._close, inbox)
        try:
            self._bus.publish(subjects.NODE_CONTROL.of(node_id), encode(control), reply=inbox.subject)
        except NotConnected:
            self._close(inbox)

    def _close(self, inbox: ReplyInbox) -> None:
        timer = self._open.pop(inbox, None)
        if timer is not None:
            timer.cancel()
        inbox.close()


def _away(node_id: str, control: ControlRequest) -> ControlReply:
    """The answer in the place of a node that is down, of which something is wanted from now on."""
    is_draining = isinstance(control, ControlDrain) and control.is_draining
    return ControlReply(node_id=node_id, instance="none", is_draining=is_draining, is_away=True)


def _error_in(answer: Msg, node_id: str) -> ErrorBody | None:
    if is_no_responders(answer):
        return ErrorBody(code=ErrorCode.UNKNOWN_NODE, message=f"node {node_id} is not on the bus")
    return error_of(answer)
