"""Watching over those who asked: dispatchers that died, and attempts that nobody is left to report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_bus.errors import BusError, NoResponders, NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_schemas import subjects
from sollol_schemas.decision import Decision, Forecast
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.ids import is_bus_id
from sollol_schemas.telemetry import NodeState

log = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 2.0
_UNKNOWN = "unknown"


class Watch:
    """Probes dispatchers and says who is gone.

    Args:
        bus: The connection to probe over.
        on_dispatcher_gone: Called with the instance of a dispatcher that waits for slots and is dead.
        on_orphan: Called with an attempt whose node and dispatcher are both gone.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        on_dispatcher_gone: Callable[[str], None],
        on_orphan: Callable[[Attempt], None],
    ) -> None:
        self._bus = bus
        self._on_dispatcher_gone = on_dispatcher_gone
        self._on_orphan = on_orphan
        self._asked: set[str] = set()

    def look(self, core: SchedulerCore) -> None:
        """Probes every dispatcher whose requests wait, or whose attempts lost their node."""
        waiting = {w.request.dispatcher for w in core.waiting} - {_UNKNOWN}
        for instance in waiting:
            self._probe(instance, self._on_dispatcher_gone)
        for attempt in self._stranded(core):
            if attempt.dispatcher in ("", _UNKNOWN) or not is_bus_id(attempt.dispatcher):
                self._on_orphan(attempt)
            else:
                self._probe(attempt.dispatcher, partial(self._give_up, attempt), key=attempt.attempt_id)

    def _give_up(self, attempt: Attempt, _dispatcher: str) -> None:
        self._on_orphan(attempt)

    @staticmethod
    def _stranded(core: SchedulerCore) -> list[Attempt]:
        stranded, core.lost = core.lost, []
        for node in core.fleet.nodes.values():
            if node.state is NodeState.DOWN:
                stranded += [a for a in node.attempts.values() if a.is_confirmed]
        return stranded

    def _probe(self, instance: str, when_gone: Callable[[str], None], *, key: str = "") -> None:
        key = key or instance
        if key in self._asked or not is_bus_id(instance):
            return

        def on_reply(reply: Msg | BusError) -> None:
            self._asked.discard(key)
            if isinstance(reply, NoResponders) and not self._bus.is_settling:
                when_gone(instance)

        self._asked.add(key)
        try:
            self._bus.ask(subjects.DISPATCHER_PROBE.of(instance), b"", on_reply, timeout_s=_PROBE_TIMEOUT_S)
        except NotConnected:
            self._asked.discard(key)


def presumed_lost(attempt: Attempt) -> Outcome:
    """The outcome of an attempt that nobody else will report."""
    known = attempt.grant.decision if attempt.grant is not None else _seen(attempt)
    error = ErrorBody(code=ErrorCode.NODE_LOST, message="the node and the dispatcher of this attempt are gone")
    return Outcome.ended(known, OutcomeStatus.PRESUMED_LOST, ReportedBy.SCORER, error=error)


def _seen(attempt: Attempt) -> Decision:
    """What is known of an attempt that another scorer granted."""
    return Decision(
        attempt_id=attempt.attempt_id,
        request_id=attempt.request_id,
        node_id=attempt.node_id,
        instance=attempt.instance,
        model=attempt.wire_model,
        forecast=Forecast(total_s=attempt.predicted_s),
    )
