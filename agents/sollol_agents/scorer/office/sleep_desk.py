"""Where nodes ask whether they may sleep, and operators send them to sleep or wake them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.sleeper import Phase
from sollol_agents.scorer.office.node_called import node_called
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.parts import Spawn
from sollol_bus.transport.acting import tell_act
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_bus.transport.subscription import Subscription
from sollol_schemas import subjects
from sollol_schemas.control import ControlSleep
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.scaling import (
    ScaleReply,
    ScaleVerdict,
    SleepersReply,
    SleepersRequest,
    SleeperView,
    SleepNews,
    SleepRequest,
)

_NODE_S: Final = 8.0
_NEWS: Final = {
    Phase.AWAKE: SleepNews.AWAKE,
    Phase.LEAVING: SleepNews.AWAKE,
    Phase.ASLEEP: SleepNews.ASLEEP,
    Phase.WAKING: SleepNews.WAKING,
}
_ORDER: Final = (ScaleVerdict.TOO_FEW, ScaleVerdict.TOO_MANY, ScaleVerdict.ENOUGH)


class SleepDesk:
    """Answers for the scorer in office.

    Args:
        bus: The connection.
        core: Whose nodes sleep.
        spawn: Runs a coroutine as a task of the actor.
        carry_out: Sends the effects of a wake.
    """

    def __init__(
        self, bus: Bus, core: SchedulerCore, spawn: Spawn, carry_out: Callable[[Iterable[Effect]], None]
    ) -> None:
        self._bus = bus
        self._core = core
        self._spawn = spawn
        self._carry_out = carry_out

    def open(self) -> list[Subscription]:
        """Takes questions; for the scorer in office."""
        return [
            *self._bus.serve(subjects.SLEEP.all, self._on_sleep),
            *self._bus.serve(subjects.ADMIN_SLEEPERS, self._on_operator),
            *self._bus.serve(subjects.SCALE, self._on_scale),
        ]

    def _on_sleep(self, msg: Msg) -> None:
        try:
            asked = decode(msg.data, SleepRequest)
        except DecodeFailed as error:
            self._refuse(msg, str(error))
            return
        node_id, now = subjects.last_token(msg.subject), time.monotonic()
        wanted = asked.is_wanted
        self._bus.respond(msg, self._core.sleepers.asked_to_sleep(node_id, asked.instance, now, is_wanted=wanted))

    def _on_scale(self, msg: Msg) -> None:
        now = time.monotonic()
        views = [scale.view(now) for scale in self._core.sleepers.scale.models.values()]
        views.sort(key=lambda view: (_ORDER.index(view.verdict), -view.saved_s, view.model))
        self._bus.respond(msg, ScaleReply(models=tuple(views)))

    def _on_operator(self, msg: Msg) -> None:
        try:
            asked = decode(msg.data or b"{}", SleepersRequest)
        except DecodeFailed as error:
            self._refuse(msg, str(error))
            return
        node_id = asked.wake or asked.sleep
        if not node_id:
            self._bus.respond(msg, self._reply())
            return
        node = node_called(self._core, node_id)
        if isinstance(node, ErrorBody):
            self._bus.respond_error(msg.reply, node)
        elif node.sleeper is None:
            why = f"{node.node_id} is no sleeper: set sleep_command on it, the command that sends its machine to sleep"
            self._refuse(msg, why)
        elif asked.wake:
            self._wake(node, msg)
        else:
            self._spawn(self._send_to_sleep(node, msg), name=f"sleep.{node_id}")

    def _wake(self, node: Node, msg: Msg) -> None:
        event = self._core.sleepers.wake_by_hand(node, time.monotonic())
        if event is not None:
            self._carry_out([event])
            tell_act(self._bus, "node.wake", node.node_id, {}, asked=msg.headers or {})
        self._bus.respond(msg, self._reply())

    async def _send_to_sleep(self, node: Node, msg: Msg) -> None:
        tell_act(self._bus, "node.sleep", node.node_id, {}, asked=msg.headers or {})
        if not node.is_asleep:
            try:
                subject = subjects.NODE_CONTROL.of(node.node_id)
                told = await self._bus.request(subject, encode(ControlSleep()), timeout_s=_NODE_S)
            except BusError as error:
                if self._bus.is_connected:
                    self._refuse(msg, f"{node.node_id} did not answer: {error}", ErrorCode.CONFLICT)
                return
            refused = error_of(told)
            if refused is not None:
                self._bus.respond_error(msg.reply, refused)
                return
        self._bus.respond(msg, self._reply())

    def _refuse(self, msg: Msg, why: str, code: ErrorCode = ErrorCode.BAD_REQUEST) -> None:
        self._bus.respond_error(msg.reply, ErrorBody(code=code, message=why))

    def _reply(self) -> SleepersReply:
        now = time.monotonic()
        nodes = sorted(self._core.fleet.nodes.values(), key=lambda n: n.node_id)
        views = [
            SleeperView(
                node_id=node.node_id,
                news=SleepNews.FAILED if node.sleeper.retry_in_s(now) else _NEWS[node.sleeper.phase],
                for_s=round(max(0.0, now - node.sleeper.since), 1),
                wake_s=round(node.sleeper.wake_s, 1),
                failures=node.sleeper.failures,
                retry_in_s=round(node.sleeper.retry_in_s(now), 1),
                reason=node.sleeper.reason,
            )
            for node in nodes
            if node.sleeper is not None
        ]
        return SleepersReply(sleepers=tuple(views))
