"""Operators' requests about one node, forwarded to the node's control subject; every reply is passed on.

What they want of the node itself (drain, weight, labels, price) is kept first, and holds also where the node is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sollol_agents.dispatcher.intents import KeptIntents
from sollol_bus.errors import BusError, DecodeFailed, SollolError
from sollol_bus.parts import Part, Spawn
from sollol_bus.sdk.questions import ask
from sollol_bus.transport.acting import tell_act
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.leave import LeaveOnSilence
from sollol_bus.transport.messages import Msg, decode, encode, error_of, is_no_responders
from sollol_bus.transport.mux import OnReply
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
from sollol_schemas.queries import NodesReply, NodesRequest

log = logging.getLogger(__name__)

_MAX_OPEN = 256
_TIMEOUT_S = 600.0
_PULL_TIMEOUT_S = 86_400.0
_NAMED_WITHIN_S = 2.0


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
            return ControlDrain(is_draining=True, lets_finish=asked.lets_finish)
        case "undrain":
            return ControlDrain(is_draining=False)
        case "load":
            return ControlLoad(model=asked.model, keep_alive_s=asked.keep_alive_s)
        case "unload":
            return ControlUnload(model=asked.model)
        case "pull":
            return ControlPull(model=asked.model)
        case "set":
            return ControlSet(weight=asked.weight, labels=asked.labels, price=asked.price)
    raise UnknownOperation(f"unknown operation {operation!r}: drain, undrain, load, unload, pull or set")


class Administration(Part):
    """Forwards operators' requests; holds an inbox open while a node answers."""

    def __init__(self, bus: Bus, spawn: Spawn) -> None:
        self._bus = bus
        self._spawn = spawn
        self._intents = KeptIntents(bus)
        self._loop = asyncio.get_running_loop()
        self._open: dict[Forwarded, asyncio.TimerHandle] = {}

    @property
    def in_flight(self) -> int:
        """Requests that a node has not answered yet."""
        return len(self._open)

    async def close(self) -> None:
        """Forgets what is still open."""
        for one in list(self._open):
            self._close(one)

    def on_request(self, msg: Msg) -> None:
        """Takes one operator's request."""
        operation = subjects.last_token(msg.subject)
        try:
            asked = decode(msg.data or b"{}", AdminRequest)
            control = control_request(operation, asked)
            refused = self._refusal()
        except (DecodeFailed, UnknownOperation) as error:
            refused = ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error))
        if refused is not None:
            self._bus.respond_error(msg.reply, refused, is_stream=operation == "pull")
            return
        self._spawn(self._take(msg, asked, control), name=f"admin.{operation}")

    async def _take(self, msg: Msg, asked: AdminRequest, control: ControlRequest) -> None:
        """Passes an order on to the node that is meant."""
        try:
            node_id = await self._id_of(asked.node_id)
        except SollolError as error:
            if self._bus.is_connected:
                self._bus.respond_error(msg.reply, error.body, is_stream=isinstance(control, ControlPull))
            return
        price = None if asked.price is None else str(asked.price) or "none"
        told = {"model": asked.model, "weight": asked.weight, "labels": asked.labels, "price": price}
        tell_act(self._bus, f"node.{subjects.last_token(msg.subject)}", node_id, told, asked=msg.headers or {})
        if isinstance(control, ControlDrain | ControlSet):
            await self._keep(msg.reply, node_id, control)
        else:
            self._forward(msg.reply, node_id, control)

    async def _id_of(self, name: str) -> str:
        """The id of the node that is called so; an id that the scorer does not know stands for itself.

        Raises:
            SollolError: No node is called so, or several are.
        """
        try:
            known = await ask(self._bus, subjects.NODES, NodesRequest(node=name), NodesReply, timeout_s=_NAMED_WITHIN_S)
        except SollolError as error:
            if is_bus_id(name) and error.body.code is not ErrorCode.BAD_REQUEST:
                return name
            raise
        return known.nodes[0].node_id

    def _refusal(self) -> ErrorBody | None:
        if len(self._open) >= _MAX_OPEN:
            return ErrorBody(code=ErrorCode.QUEUE_FULL, message="too many at once", details={"retry_after_s": 1})
        return None

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

        def on_answer(answer: Msg) -> None:
            if is_kept and is_no_responders(answer):
                self._close(forwarded)
                self._bus.publish(reply, encode(_away(node_id, control)))
                return
            forwarded.heard()
            error = _error_in(answer, node_id)
            if error is not None or not is_stream or not answer.data:
                self._close(forwarded)
            if error is None:
                self._bus.publish(reply, answer.data, reply=forwarded.refusals.subject if answer.data else "")
                return
            self._bus.respond_error(reply, error, is_stream=is_stream)

        def on_refusal(refused: Msg | BusError) -> None:
            is_unheard = isinstance(refused, Msg) and is_no_responders(refused) and not self._bus.is_settling
            if is_unheard or isinstance(refused, BusError):  # whoever asked is gone, or the connection broke:
                self._close(forwarded)  # the node notices that nobody listens

        if not self._bus.is_connected:
            log.info("%s: not forwarded, no connection", node_id, extra={"action": "admin_unforwarded"})
            return
        forwarded = Forwarded(self._bus, on_answer, on_refusal, teller=node_id if is_stream else "")
        timeout_s = _PULL_TIMEOUT_S if is_stream else _TIMEOUT_S
        self._open[forwarded] = self._loop.call_later(timeout_s, self._close, forwarded)
        self._bus.publish(subjects.NODE_CONTROL.of(node_id), encode(control), reply=forwarded.inbox)

    def _close(self, forwarded: Forwarded) -> None:
        timer = self._open.pop(forwarded, None)
        if timer is not None:
            timer.cancel()
        forwarded.close()


class Forwarded:
    """One request at a node: an inbox for its answers, and one to hear that nobody waits for them any more.

    The first is a subscription of its own, so that leaving it is visible to the node.

    Args:
        bus: The connection.
        on_answer: Called with each answer of the node.
        on_refusal: Called when what was passed on reached nobody.
        teller: The node, if it answers for so long that its leave to do that may end meanwhile.
    """

    def __init__(self, bus: Bus, on_answer: Callable[[Msg], None], on_refusal: OnReply, *, teller: str = "") -> None:
        self.inbox = bus.new_inbox()
        self._subscription = bus.subscribe(self.inbox, on_answer)
        self.refusals = bus.reply_inbox(on_refusal)
        self._leave = LeaveOnSilence(bus, teller, self.inbox) if teller else None

    def heard(self) -> None:
        """The node said something."""
        if self._leave is not None:
            self._leave.heard()

    def close(self) -> None:
        """Listens no more; safe to call twice."""
        if self._leave is not None:
            self._leave.close()
        self._subscription.unsubscribe()
        self.refusals.close()


def _away(node_id: str, control: ControlRequest) -> ControlReply:
    """The answer in the place of a node that is down, of which something is wanted from now on."""
    is_draining = isinstance(control, ControlDrain) and control.is_draining
    return ControlReply(node_id=node_id, instance="none", is_draining=is_draining, is_away=True)


def _error_in(answer: Msg, node_id: str) -> ErrorBody | None:
    if is_no_responders(answer):
        said = f"node {node_id} is not on the bus"
        return ErrorBody(code=ErrorCode.UNKNOWN_NODE, message=said, details={"node": node_id})
    return error_of(answer)
