"""Answers whoever sends this node to sleep or wakes it, or has it wake others.

What is run to wake another node is what the operator of this machine configured for it; the bus names nodes, never
commands.
"""

from __future__ import annotations

import logging
from typing import Final

from sollol_agents.node.config import NodeConfig
from sollol_agents.node.control.sleeping import Sleeping
from sollol_agents.waking import NotWoken, run_command, send_magic_packet
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_schemas.control import ControlReply, ControlSleep, ControlWake
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)

_AT_A_TIME: Final = 16


class Wakes:
    """Sleeping and waking, as it is asked for over the bus.

    Args:
        bus: The node's connection.
        config: What wakes others.
        sleeping: This node's own sleep.
        spawn: Runs a coroutine as a task of the actor.
        node_id: The node's id.
        instance: Of this process.
    """

    def __init__(
        self, bus: Bus, config: NodeConfig, sleeping: Sleeping, spawn: Spawn, *, node_id: str, instance: str
    ) -> None:
        self._bus = bus
        self._config = config
        self._sleeping = sleeping
        self._spawn = spawn
        self._reply = ControlReply(node_id=node_id, instance=instance)
        self._running = 0

    def on_request(self, request: ControlSleep | ControlWake, msg: Msg) -> None:
        """Begins what was asked for, and answers when it is done."""
        if self._running >= _AT_A_TIME:
            error = ErrorBody(code=ErrorCode.QUEUE_FULL, message=f"{_AT_A_TIME} of these run already")
            self._bus.respond_error(msg.reply, error)
            return
        self._running += 1
        self._spawn(self._answer(request, msg), name="wake" if isinstance(request, ControlWake) else "sleep.now")

    async def _answer(self, request: ControlSleep | ControlWake, msg: Msg) -> None:
        try:
            if isinstance(request, ControlSleep):
                why, code = await self._sleeping.sleep_now(), ErrorCode.CONFLICT
            else:
                why, code = await self._wake(request), ErrorCode.BAD_REQUEST
        finally:
            self._running -= 1
        if not msg.reply or not self._bus.is_connected:
            return
        if why:
            self._bus.respond_error(msg.reply, ErrorBody(code=code, message=why))
        else:
            self._bus.respond(msg, self._reply)

    async def _wake(self, request: ControlWake) -> str:
        """What went wrong; empty: it was tried."""
        if not request.node_id or request.node_id == self._reply.node_id:
            self._sleeping.wake()
            return ""
        command = self._config.wake_commands.get(request.node_id)
        if command is not None:
            error = await run_command(command)
        elif not self._config.waker:
            error = f"this node wakes nobody called {request.node_id}: it is no waker, and has no command for it"
        else:
            error = ""
            try:
                send_magic_packet(request.mac, request.broadcast)
            except NotWoken as refused:
                error = str(refused)
        # one that failed is what an operator looks for when a machine stays asleep
        level = logging.WARNING if error else logging.INFO
        extra = {"action": "wake", "node_id": request.node_id}
        log.log(level, "wakes %s: %s", request.node_id, error or "tried", extra=extra)
        return error
