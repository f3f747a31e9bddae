"""Runs the operations of one page and sends it what they tell, a few times a second at most."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from sollol_agents.dashboard.operations import Operation, OperationContext, operation
from sollol_bus.errors import BadRequest, SollolError
from sollol_bus.parts import Spawn
from sollol_bus.transport.acting import ACTING
from sollol_schemas.acts import Operator
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)

_AT_ONCE: Final = 16
_TELL_EVERY_S: Final = 0.06
_NOBODY: Final = Operator()
_encode = msgspec.json.Encoder().encode


class OperationCall(msgspec.Struct, frozen=True):
    """A page asks for something."""

    id: int
    op: str
    args: dict[str, Any] = {}


class OperationRunner:
    """Serves one page.

    Args:
        context: What operations work with.
        send: Sends one text to the page's `told`.
        may_operate: Whether the person at the page is (still) an administrator.
        spawn: Starts a task that the actor owns.
        operator: For whom the page acts.
    """

    def __init__(
        self,
        context: OperationContext,
        send: Callable[[str], None],
        may_operate: Callable[[], bool],
        spawn: Spawn,
        *,
        operator: Operator = _NOBODY,
    ) -> None:
        self._context = context
        self._send = send
        self._may_operate = may_operate
        self._spawn = spawn
        self._operator = operator
        self._running: dict[int, asyncio.Task[None]] = {}

    def ask(self, call: OperationCall) -> None:
        """Does what the page asks for; `stop` with the id of another question ends that one."""
        if call.op == "stop":
            task = self._running.get(call.args.get("id", -1))
            if task is not None:
                task.cancel("the page stopped it")
            return
        if len(self._running) >= _AT_ONCE:
            busy = ErrorBody(code=ErrorCode.QUEUE_FULL, message="too many things at a time; wait for one to end")
            self._answer(call.id, error=busy)
            return
        task = self._spawn(self._run(call), name=f"page asks {call.op}"[:60])
        self._running[call.id] = task
        task.add_done_callback(lambda _: self._running.pop(call.id, None))

    def close(self) -> None:
        """Ends everything that still runs: the page is gone."""
        for task in list(self._running.values()):
            task.cancel("the page was closed")

    async def _run(self, call: OperationCall) -> None:
        ACTING.set(self._operator)
        told: list[Any] = []
        flusher: asyncio.TimerHandle | None = None

        def flush() -> None:
            nonlocal flusher
            flusher = None
            if told:
                self._answer(call.id, told=list(told))
                told.clear()

        def tell(news: Any) -> None:  # noqa: ANN401 whatever an operation tells
            nonlocal flusher
            told.append(news)
            if flusher is None:
                flusher = asyncio.get_running_loop().call_later(_TELL_EVERY_S, flush)

        result: Any = None
        error: ErrorBody | None = None
        try:
            wanted = self._checked(call)
            result = await wanted.run(self._context, tell)
        except SollolError as failure:
            error = failure.body
        except asyncio.CancelledError:
            flush()
            self._answer(call.id, error=ErrorBody(code=ErrorCode.CANCELLED, message="stopped"))
            raise
        except Exception:
            log.exception("%s failed", call.op[:40], extra={"action": "operation_failed"})
            error = ErrorBody(code=ErrorCode.INTERNAL, message="something went wrong here; the log says what")
        finally:
            if flusher is not None:
                flusher.cancel()
        flush()
        self._answer(call.id, result=result, error=error)

    def _checked(self, call: OperationCall) -> Operation:
        wanted = operation(call.op, call.args)
        if wanted.needs_admin:
            if not self._may_operate():
                raise BadRequest("this needs an administrator's key: `sollol keys create NAME --admin`")
            node_id, job_id = getattr(wanted, "node_id", None), getattr(wanted, "job_id", None)
            extra = {"action": "operator_asked", "node_id": node_id, "job_id": job_id}
            log.info("an operator asks for %s", call.op, extra=extra)
        return wanted

    def _answer(self, call_id: int, **answer: Any) -> None:  # noqa: ANN401 encoded at once
        self._send(_encode({"id": call_id, **answer}).decode())
