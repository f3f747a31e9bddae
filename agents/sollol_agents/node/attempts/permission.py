"""The permission of an attempt to speak: asks the dispatcher by the rules of the fence, and waits for its answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sollol_agents.node.attempts.fence import Fence, Verdict
from sollol_agents.node.attempts.leave import Leave
from sollol_bus.errors import BusError, Cancelled, DecodeFailed, NoResponders
from sollol_bus.steady import steady_s
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import subjects
from sollol_schemas.decision import Decision
from sollol_schemas.execution import AttemptAccepted, AttemptStart, StartAnswer

log = logging.getLogger(__name__)

_START_ANSWER_S: Final = 2.0
_SETTLING_S: Final = 0.1
"""Within seconds of a reconnect, a question that met nobody is asked again after so long."""


def _over() -> None:
    """The attempt has ended."""


class Permission:
    """What one attempt may do with its first chunk.

    Args:
        bus: The connection.
        decision: The attempt.
        go_s: How long a `go` given to `accepted` holds, in seconds.
        leave: To speak to the caller; it comes before the first `go`.
        on_refused: Called when the attempt belongs to somebody else from now on.
    """

    def __init__(self, bus: Bus, decision: Decision, go_s: float, leave: Leave, on_refused: Callable[[], None]) -> None:
        self.fence = Fence(go_s)
        self._bus = bus
        self._decision = decision
        self._go_s = go_s
        self._leave = leave
        self._on_refused = on_refused
        self._subject = subjects.ATTEMPT.of(decision.node_id, decision.attempt_id)
        self._changed: asyncio.Future[None] | None = None
        """Done when something has changed; None: nobody waits for that."""
        self._withdraw: Callable[[], None] | None = None

    @property
    def is_given(self) -> bool:
        """Whether the first chunk may leave now."""
        return self.fence.verdict(steady_s()) is Verdict.SPEAK

    def accept(self) -> None:
        """Tells the dispatcher that the attempt has a slot, and asks for its first `go`."""
        decision = self._decision
        message = AttemptAccepted(
            attempt_id=decision.attempt_id, instance=decision.instance, is_open=self._leave.is_given
        )
        self.fence.accepted_sent(steady_s())
        self._withdraw = self._bus.ask(self._subject, encode(message), self._on_accepted, timeout_s=self._go_s)
        self._bus.hasten()

    async def wait(self) -> None:
        """Returns when the first chunk may be published.

        Raises:
            Cancelled: The dispatcher gave the attempt up.
        """
        while True:
            match self.fence.verdict(steady_s()):
                case Verdict.SPEAK:
                    return
                case Verdict.STOP:
                    raise Cancelled("the dispatcher gave the attempt up")
                case Verdict.ASK:
                    if self._bus.is_settling:
                        await asyncio.sleep(_SETTLING_S)
                    self._ask_start()
                case Verdict.WAIT:
                    self._changed = asyncio.get_running_loop().create_future()
                    await self._changed

    def close(self) -> None:
        """Asks nothing more, and keeps nothing of the attempt, which else only the collector of garbage would free."""
        if self._withdraw is not None:
            self._withdraw()
            self._withdraw = None
        self._on_refused = _over

    def _ask_start(self) -> None:
        self.fence.start_sent()
        message = AttemptStart(attempt_id=self._decision.attempt_id)
        self._withdraw = self._bus.ask(self._subject, encode(message), self._on_start, timeout_s=_START_ANSWER_S)

    def _on_accepted(self, answer: Msg | BusError) -> None:
        go = self._go_in(answer)
        if go is not None:
            self.fence.accepted_answered(go=go)
        self._tell_change()

    def _on_start(self, answer: Msg | BusError) -> None:
        go = self._go_in(answer)
        if go is not None:
            self.fence.start_answered(go=go)
        self._tell_change()

    def _go_in(self, answer: Msg | BusError) -> bool | None:
        """The answer, or None when there is none (which the fence is told)."""
        if isinstance(answer, NoResponders):
            self.fence.nobody_listens(is_settling=self._bus.is_settling)
            return None
        try:
            if not isinstance(answer, BusError):
                go = decode(answer.data, StartAnswer).go
                if go:
                    self._leave.given()
                return go
        except DecodeFailed as error:
            extra = {"action": "bad_answer", "request_id": self._decision.request_id}
            log.warning("attempt %s: %s", self._decision.attempt_id, error, extra=extra)
        self.fence.unanswered()
        return None

    def _tell_change(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
        if self.fence.verdict(steady_s()) is Verdict.STOP:
            self._on_refused()
