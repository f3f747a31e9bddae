"""One set of subscriptions for the whole process: every message goes into the `FleetView`, pages read from there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from sollol_agents.fleet_view.view import FleetView
from sollol_bus.errors import DecodeFailed
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode
from sollol_schemas import owners, subjects
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.events import BreakerEvent, NodeEvent, OfficeEvent, Outcome
from sollol_schemas.jobs import JobEvent
from sollol_schemas.steering import StrategyEvent
from sollol_schemas.telemetry import LoadUpdate, Telemetry

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOG_EVERY_S: Final = 10.0
_OF_NODES: Final = (subjects.TELEMETRY.all, subjects.LOAD.all, subjects.OUTCOME_EVENT.all)


def _as_called(event: JobEvent, caller: str) -> JobEvent:
    """The event with what the job is called to whoever looks on."""
    ref = owners.reference(event.user, event.job_id)
    return msgspec.structs.replace(event, job_id=owners.told(caller, ref))


class Feed:
    """Listens to the bus.

    Args:
        bus: The actor's connection.
        view: What is told.
        on_change_of_rule: Called when a scorer takes office or a breaker changed: some things must be asked again.
    """

    def __init__(self, bus: Bus, view: FleetView, on_change_of_rule: Callable[[], None]) -> None:
        self._bus = bus
        self._view = view
        self._on_change_of_rule = on_change_of_rule
        self._complained_at = -_LOG_EVERY_S

    def start(self) -> None:
        """Subscribes."""
        view = self._view
        self._listen(subjects.TELEMETRY.all, Telemetry, lambda told: view.on_telemetry(told, time.monotonic()))
        self._listen(subjects.LOAD.all, LoadUpdate, lambda told: view.on_load(told, time.monotonic()))
        self._listen(subjects.NODE_EVENT.all, NodeEvent, lambda e: view.on_node(e, time.monotonic(), wall_s()))
        self._listen(
            subjects.ROUTING_EVENT.all, DecisionEvent, lambda d: view.on_decision(d, time.monotonic(), wall_s())
        )
        self._listen(subjects.OUTCOME_EVENT.all, Outcome, lambda o: view.on_outcome(o, time.monotonic(), wall_s()))
        self._listen(subjects.BREAKER_EVENT.all, BreakerEvent, self._on_breaker)
        self._listen(subjects.OFFICE_EVENT.all, OfficeEvent, self._on_office)
        self._listen(subjects.STRATEGY_EVENT, StrategyEvent, lambda e: view.on_strategy_event(e, wall_s()))
        caller = self._bus.caller
        events = subjects.OWN_JOB_EVENT.of(caller, "*", "*") if caller else subjects.JOB_EVENTS
        self._listen(events, JobEvent, lambda e: view.on_job(_as_called(e, caller)))
        self._bus.on_disconnect(self._on_disconnect)
        self._bus.on_reconnect(self._on_reconnect)

    def _listen(self, subject: str, kind: type[T], tell: Callable[[T], Any]) -> None:
        def on_message(msg: Msg) -> None:
            try:
                told = decode(msg.data, kind)
            except DecodeFailed as error:
                self._complain(msg.subject, error.message)
                return
            if subject in _OF_NODES and getattr(told, "node_id", "") != subjects.last_token(msg.subject):
                self._complain(msg.subject, "it speaks for another node")
                return
            tell(told)

        self._bus.subscribe(subject, on_message)

    def _on_breaker(self, event: BreakerEvent) -> None:
        self._view.on_breaker(event, wall_s())
        self._on_change_of_rule()

    def _on_office(self, event: OfficeEvent) -> None:
        self._view.on_office(event, wall_s())
        self._on_change_of_rule()

    def _on_disconnect(self) -> None:
        self._view.is_connected = False

    def _on_reconnect(self) -> None:
        self._view.is_connected = True
        self._on_change_of_rule()

    def _complain(self, subject: str, why: str) -> None:
        now = time.monotonic()
        if now - self._complained_at >= _LOG_EVERY_S:
            self._complained_at = now
            log.warning("%s: not understood: %s", subject, why, extra={"action": "event_not_understood"})
