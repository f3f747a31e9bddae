"""Answers requests on the node's control subject."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from sollol_agents.node.attempts import moving
from sollol_agents.node.attempts.executor import Executor
from sollol_agents.node.control.asker import Asker
from sollol_agents.node.control.blob_source import BlobSource
from sollol_agents.node.control.telemetry import Standing
from sollol_agents.node.control.wakes import Wakes
from sollol_agents.node.engines.base import LoadRequest
from sollol_agents.requests.names import canonical
from sollol_bus.errors import DecodeFailed, NotConnected, SollolError, error_from
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import INBOX_ROOT, Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas.control import (
    AttemptState,
    ControlAttempt,
    ControlBlob,
    ControlCut,
    ControlDrain,
    ControlEngine,
    ControlLoad,
    ControlPing,
    ControlPull,
    ControlReply,
    ControlRequest,
    ControlSet,
    ControlSleep,
    ControlUnload,
    ControlWake,
    EngineOperation,
)
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)

_MAX_OPERATIONS = 16
_SILENCE_S = 300.0
_SILENCE_OF_A_WHOLE_ANSWER_S = 3_600.0
_LOOK_S = 10.0
_SUCCESS = b'"status":"success"'
_PROGRESS_EVERY_S = 0.5
_PING = encode(ControlPing())
_READING = frozenset(
    {
        EngineOperation.TAGS,
        EngineOperation.PS,
        EngineOperation.SHOW,
        EngineOperation.BLOB,
        EngineOperation.RECOMMENDATIONS,
    }
)
_Operation = ControlLoad | ControlUnload | ControlPull | ControlEngine | ControlBlob


class NodeHost(Protocol):
    """What the controls change of the node."""

    def set_draining(self, *, is_draining: bool, lets_finish: bool = False) -> None:
        """Takes no new work, or takes it again; answers that can go on elsewhere do, unless they are to finish."""

    def tell_soon(self) -> None:
        """Publishes the node's state soon."""

    async def look_and_tell(self) -> None:
        """Looks at all that the engine has, and publishes the node's state."""


class Controls:
    """The control subject of one node.

    Args:
        bus: The connection.
        executor: The node's attempts.
        standing: Weight, labels and price.
        host: The node.
        spawn: Runs a coroutine as a task of the actor.
        node_id: The node's id.
        wakes: Sleeps, and wakes others.
    """

    def __init__(
        self,
        bus: Bus,
        executor: Executor,
        standing: Standing,
        host: NodeHost,
        *,
        spawn: Spawn,
        node_id: str,
        wakes: Wakes,
    ) -> None:
        self._bus = bus
        self._executor = executor
        self._standing = standing
        self._host = host
        self._spawn = spawn
        self._operations = 0
        self._node_id = node_id
        self._wakes = wakes
        self._pong = encode(ControlReply(node_id=node_id, instance=executor.instance, host=socket.gethostname()))

    def on_message(self, msg: Msg) -> None:
        """Answers a request; probes, which come four times a second, with a constant."""
        if msg.data == _PING or not msg.data:
            self._bus.answer(msg, self._pong)
            return
        try:
            request: ControlRequest = decode(msg.data, ControlRequest)  # type: ignore[arg-type]  # a union decodes too
        except DecodeFailed as error:
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
            return
        match request:
            case ControlPing():
                self._bus.respond(msg, self._reply())
            case ControlAttempt(attempt_id=attempt_id):
                chunks = self._executor.told_again(attempt_id)
                self._bus.respond(msg, self._reply(self._executor.state_of(attempt_id), chunks=chunks))
            case ControlDrain(is_draining=is_draining, lets_finish=lets_finish):
                self._host.set_draining(is_draining=is_draining, lets_finish=lets_finish)
                self._bus.respond(msg, self._reply())
            case ControlCut():
                self._cut(request, msg)
            case ControlSet(weight=weight, labels=labels, price=price):
                self._standing.change(weight, labels, price)
                self._host.tell_soon()
                self._bus.respond(msg, self._reply())
            case ControlSleep() | ControlWake():
                self._wakes.on_request(request, msg)
            case ControlLoad() | ControlUnload() | ControlPull() | ControlEngine() | ControlBlob():
                self._begin(request, msg.reply)

    def _cut(self, asked: ControlCut, msg: Msg) -> None:
        """Stops an attempt in its middle, for a scorer that has a better place for it or for another one."""
        now, executor = time.monotonic(), self._executor
        running, state = executor.attempts.get(asked.attempt_id), executor.state_of(asked.attempt_id)
        meant = moving.to_cut(asked, running, state, highest_term=executor.terms.highest(now))
        executor.terms.heard(asked.term, now)
        if isinstance(meant, ErrorBody):
            self._bus.respond_error(msg.reply, meant)
        else:
            moving.cut(meant, asked.reason, asked.cause)
            self._bus.respond(msg, self._reply(state))

    def _reply(
        self, state: AttemptState | None = None, error: ErrorBody | None = None, *, chunks: int | None = None
    ) -> ControlReply:
        return ControlReply(
            node_id=self._node_id,
            instance=self._executor.instance,
            is_draining=self._executor.is_draining,
            in_flight=len(self._executor.attempts),
            attempt_state=state,
            chunks=chunks,
            error=error,
        )

    def _begin(self, request: _Operation, reply: str) -> None:
        if self._operations >= _MAX_OPERATIONS:
            error = ErrorBody(code=ErrorCode.QUEUE_FULL, message=f"{_MAX_OPERATIONS} operations run already")
            self._bus.respond_error(reply, error)
            return
        self._operations += 1
        reply = reply if reply.startswith(INBOX_ROOT) else ""  # whoever asks may not make us speak elsewhere
        self._spawn(self._operate(request, reply), name=f"control.{type(request).__name__}")

    async def _operate(self, request: _Operation, reply: str) -> None:
        """Does it; the fleet knows what changed before whoever asked hears that it is done."""
        is_stream = isinstance(request, (ControlPull, ControlEngine, ControlBlob))
        asker = Asker(self._bus, reply, is_stream=is_stream)
        try:
            last_words, failure = await self._outcome(request, asker)
            if not _is_reading(request):
                await self._look_and_tell()
            if failure is not None:
                raise failure
            end = b"" if is_stream else encode(self._reply())
            await asker.tell_end(*((last_words, end) if last_words else (end,)))
        except NotConnected as error:
            name = type(request).__name__
            log.info("%s: nobody can be told how it ended: %s", name, error, extra={"action": "control_untold"})
        except SollolError as error:
            await self._tell_failure(asker, error.body)
        finally:
            asker.close()
            self._operations -= 1

    async def _outcome(self, request: _Operation, asker: Asker) -> tuple[bytes, SollolError | None]:
        """What is to be said at the very end, or what went wrong."""
        try:
            return await self._perform(request, asker), None
        except SollolError as error:
            return b"", error

    async def _look_and_tell(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._host.look_and_tell()

    async def _perform(self, request: _Operation, asker: Asker) -> bytes:
        """Does it and returns what is to be said at its very end."""
        engine = self._executor.engine
        if engine is None:
            raise _refused(ErrorCode.ENGINE_UNAVAILABLE, "the node has not found its engine yet")
        match request:
            case ControlLoad(model=model, keep_alive_s=keep_alive_s):
                load = LoadRequest(model=model, keep_alive_s=keep_alive_s)
                await self._executor.preparation.load(engine, load, self._executor.load_limit_s(model))
            case ControlUnload(model=model):
                if any(canonical(one.model) == canonical(model) for one in self._executor.in_flight(0.0)):
                    raise _refused(ErrorCode.CONFLICT, f"{model} is busy")
                await engine.unload(model)
                self._executor.view.note_unloaded(model)
            case ControlPull(model=model):
                objects = engine.operate(EngineOperation.PULL, {"model": model})
                return await self._progress(objects, asker, _SILENCE_S)
            case ControlBlob(digest=digest, source=source):
                async with aclosing(BlobSource(self._bus, source, digest).pieces()) as pieces:
                    status = await engine.upload(digest.replace("-", ":", 1), pieces)
                return b'{"status":%d}' % status
            case ControlEngine(operation=operation, body=body):
                silence_s = _SILENCE_OF_A_WHOLE_ANSWER_S if body.get("stream") is False else _SILENCE_S
                return await self._progress(engine.operate(operation, body), asker, silence_s)
        return b""

    async def _progress(self, objects: AsyncGenerator[bytes, None], asker: Asker, silence_s: float) -> bytes:
        """Tells the progress: every object that differs in more than its counters, others twice a second.

        Returns the word of success, which is for the end. The engine is left when whoever asked is gone.
        """
        loop = asyncio.get_running_loop()
        last_status, last_at = b"", 0.0
        try:
            async with aclosing(objects), asyncio.timeout(silence_s) as limit:
                asker.on_left = lambda: limit.reschedule(loop.time())
                async for progress in objects:
                    if asker.has_left:
                        break
                    limit.reschedule(loop.time() + silence_s)
                    if _SUCCESS in progress:
                        return progress
                    status = progress.partition(b',"completed"')[0]
                    if status != last_status or loop.time() - last_at >= _PROGRESS_EVERY_S:
                        last_status, last_at = status, loop.time()
                        asker.tell(progress)
        except TimeoutError as error:
            if not asker.has_left:
                raise _refused(ErrorCode.STALLED, f"the engine was silent for {silence_s:g} s") from error
        finally:
            asker.on_left = None
        if asker.has_left:
            log.info("whoever asked for it is gone: stopped", extra={"action": "control_left"})
        return b""

    async def _tell_failure(self, asker: Asker, error: ErrorBody) -> None:
        try:
            await asker.tell_failure(error)
        except NotConnected:
            extra = {"action": "control_untold"}
            log.info("a control request failed, and nobody can be told: %s", error.message, extra=extra)


def _is_reading(request: _Operation) -> bool:
    """Whether the engine has the same models after it as before."""
    return isinstance(request, ControlBlob) or (isinstance(request, ControlEngine) and request.operation in _READING)


def _refused(code: ErrorCode, message: str) -> SollolError:
    return error_from(ErrorBody(code=code, message=message))
