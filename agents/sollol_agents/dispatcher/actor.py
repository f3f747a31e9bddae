"""The dispatcher at the bus: requests in, execs out, and an answer for everybody."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Collection
from functools import partial
from typing import ClassVar

import msgspec

from sollol_agents.dispatcher.administration import Administration
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.jobs.runner import JobCrew
from sollol_agents.dispatcher.requests.active import ActiveRequest
from sollol_agents.dispatcher.requests.attempt import Attempt
from sollol_agents.dispatcher.requests.intake import Rejected, Request, take_in
from sollol_agents.dispatcher.requests.node_probes import NodeProbes
from sollol_agents.requests.detector import Detector, UnknownDetector, detector_named
from sollol_bus.actor import Actor, ActorState
from sollol_bus.errors import BusError, ConfigError, NotConnected
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.observe.request_log import log_prompt
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.discovery import Discovery
from sollol_bus.transport.messages import Msg, decoded, encode
from sollol_bus.version import VERSION
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import NodeEvent, OfficeEvent, Outcome
from sollol_schemas.execution import CancelReply, CancelRequest
from sollol_schemas.grant import RouteRequest
from sollol_schemas.inboxes import is_client_inbox
from sollol_schemas.telemetry import NodeState

log = logging.getLogger(__name__)

_KEEP_ANSWERING = 4096
"""Abandoned attempts that are still told `no`; beyond it the oldest is forgotten."""
_KEEP_ANSWERING_S = 600.0
_ROUTE_TIMEOUT_S = 5.0


class DispatcherStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a dispatcher can say about itself."""

    name: str
    instance: str
    state: ActorState
    in_flight: int
    taken: int
    rejected: int
    abandoned: int
    jobs_in_hand: int
    jobs_settled: int


class Dispatcher(Actor[DispatcherConfig]):
    """One of any number of dispatchers; the queue group spreads requests over them."""

    name: ClassVar[str] = "dispatcher"

    def __init__(self, config: DispatcherConfig, bus_config: BusConfig) -> None:
        super().__init__(config, bus_config)
        self.drain_timeout_s = config.drain_timeout_s
        self._active: dict[str, ActiveRequest] = {}
        self._on_node: dict[str, set[ActiveRequest]] = {}
        self._answering: OrderedDict[Attempt, float] = OrderedDict()
        self._taken = 0
        self._rejected = 0

    # -- life ---------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Subscribes to requests and to the events that move them."""
        self._detector = self._load_detector()
        self._outcomes = OutcomePublisher(self.bus)
        self._probes = NodeProbes(
            self.bus,
            interval_s=self.config.probe_interval_s,
            silence_limit_s=self.config.silence_limit_s,
            on_dead=self._on_node_dead,
            on_silent=self._on_node_silent,
        )
        self.bus.on_reconnect(self._on_reconnect)
        self.bus.subscribe(subjects.OFFICE_EVENT.all, self._on_office)
        self.bus.subscribe(subjects.NODE_EVENT.all, self._on_node_event)
        self.bus.subscribe(subjects.DISPATCHER_PROBE.of(self.instance), lambda m: self.bus.answer(m, b"ok"))
        self.bus.subscribe(subjects.CANCEL, self._on_cancel)
        for kind, subject in _SUBJECT_OF.items():
            self.take(subject, partial(self._on_request, kind), queue=subjects.DISPATCHERS)
        self.take(subjects.ROUTE, self._on_route, queue=subjects.DISPATCHERS)
        self._jobs = JobCrew(self, self._detector, lambda coroutine, name: self.spawn(coroutine, name=name))
        self._jobs.start()
        for subject, handler in self._jobs.desk.subjects.items():
            self.take(subject, handler, queue=subjects.DISPATCHERS)
        self._administration = Administration(self.bus)
        self.take(subjects.ADMIN_NODE.all, self._administration.on_request, queue=subjects.DISPATCHERS)
        self._discovery = Discovery(
            self.bus,
            name=f"sollol-{self.name}",
            instance=self.instance,
            description="Takes requests and hands them to nodes.",
            version=VERSION,
            queue_group=subjects.DISPATCHERS,
            endpoints={kind.value: subject for kind, subject in _SUBJECT_OF.items()},
        )
        self._discovery.start()

    def _load_detector(self) -> Detector:
        try:
            return detector_named(self.config.detector)
        except UnknownDetector as error:
            raise ConfigError(f"setting `detector`: {error}") from error

    def stop_intake(self) -> None:
        """Takes no more requests and jobs; jobs that no node works on go back at once."""
        super().stop_intake()
        self._jobs.stop_intake()

    def in_flight(self) -> Collection[str]:
        """Ids of the requests and jobs that are not answered yet."""
        return self._active.keys() | self._jobs.in_flight()

    def hand_back(self, reason: str) -> None:
        """Answers what could not finish in time, and gives its jobs back."""
        self._jobs.hand_back()
        for request in list(self._active.values()):
            request.cancel(ErrorCode.ACTOR_STOPPED, reason)

    async def on_stop(self) -> None:
        """Ends probing and sends the last outcomes."""
        await self._jobs.close()
        self._probes.close()
        self._administration.close()
        self._discovery.stop()
        await self._outcomes.flush(timeout_s=3.0)
        await self._outcomes.close()
        for attempt in self._answering:
            attempt.close()

    def statistics(self) -> DispatcherStatistics:
        """Requests held, taken and refused since the start."""
        return DispatcherStatistics(
            name=self.name,
            instance=self.instance,
            state=self.state,
            in_flight=len(self._active),
            taken=self._taken,
            rejected=self._rejected,
            abandoned=len(self._answering),
            jobs_in_hand=len(self._jobs.in_flight()),
            jobs_settled=self._jobs.done,
        )

    # -- requests -----------------------------------------------------------------------------------------

    def _on_request(self, kind: RequestKind, msg: Msg) -> None:
        if not is_client_inbox(msg.reply):
            self._rejected += 1
            log.warning(
                "refused a request whose reply subject is not a client's inbox: %.80r",
                msg.reply,
                extra={"action": "bad_reply_subject"},
            )
            return
        try:
            request = self._take_in(kind, msg)
        except Rejected as rejected:
            self._rejected += 1
            self._refuse(msg.reply, rejected.error)
            return
        self._taken += 1
        log_prompt(request.request_id, request.context.model, request.body)
        active = self._active[request.request_id] = ActiveRequest(self, request)
        active.ask_for_slot()

    def _take_in(self, kind: RequestKind, msg: Msg) -> Request:
        if len(msg.data) > self.bus.max_payload:
            message = f"the body's {len(msg.data)} bytes exceed the limit of {self.bus.max_payload} bytes"
            raise Rejected(ErrorBody(code=ErrorCode.REQUEST_TOO_LARGE, message=message))
        request = take_in(
            kind,
            msg.data,
            msg.headers,
            msg.reply,
            default_deadline_s=self.config.default_deadline_s,
            detector=self._detector,
        )
        held = self._active.get(request.request_id)
        if held is not None:
            if request.resend <= held.request.resend or not _same_secret(request.secret, held.request.secret):
                message = f"request id {request.request_id} is in use"
                raise Rejected(ErrorBody(code=ErrorCode.CONFLICT, message=message))
            held.drop()
        if len(self._active) >= self.config.max_active:
            message = f"this dispatcher holds {len(self._active)} requests already; try again later"
            raise Rejected(ErrorBody(code=ErrorCode.QUEUE_FULL, message=message, details={"retry_after_s": 1}))
        return request

    def _refuse(self, reply: str, error: ErrorBody) -> None:
        self.bus.respond_error(reply, error)
        self.bus.publish(reply, b"")

    def _on_cancel(self, msg: Msg) -> None:
        asked = decoded(msg, CancelRequest)
        active = self._active.get(asked.request_id) if asked is not None else None
        if asked is None or active is None:
            return  # another dispatcher may hold it
        if not active.request.secret or not _same_secret(asked.secret, active.request.secret):
            return
        if asked.resend is not None and active.request.resend > asked.resend:
            return  # its caller has sent it again since
        active.cancel(ErrorCode.CANCELLED, "cancelled by its caller")
        self.bus.respond(msg, CancelReply(request_id=asked.request_id, is_cancelled=True))

    def _on_route(self, msg: Msg) -> None:
        if not is_client_inbox(msg.reply):
            return
        try:
            request = take_in(
                _kind_of_route(msg.data),
                msg.data,
                msg.headers,
                msg.reply,
                default_deadline_s=self.config.default_deadline_s,
                detector=self._detector,
            )
        except Rejected as rejected:
            self.bus.respond_error(msg.reply, rejected.error)
            return
        question = RouteRequest(request_id=request.request_id, context=request.context, routing=request.routing)

        def on_answer(reply: Msg | BusError) -> None:
            if isinstance(reply, NotConnected):
                return  # nobody can be told
            if isinstance(reply, BusError):
                error = ErrorBody(code=ErrorCode.NO_NODES, message="no scorer is in office; start `sollol scorer`")
                self.bus.respond_error(msg.reply, error)
            else:
                self.bus.publish(msg.reply, reply.data, headers=dict(reply.headers) if reply.headers else None)

        self.bus.ask(subjects.SCORER_ROUTE, encode(question), on_answer, timeout_s=_ROUTE_TIMEOUT_S)

    # -- what moves requests ------------------------------------------------------------------------------

    def _on_office(self, msg: Msg) -> None:
        event = decoded(msg, OfficeEvent)
        if event is not None and event.is_leader:
            for request in list(self._active.values()):
                request.ask_for_slot()

    def _on_reconnect(self) -> None:
        for request in list(self._active.values()):
            request.on_reconnect()

    def _on_node_event(self, msg: Msg) -> None:
        event = decoded(msg, NodeEvent)
        if event is not None and event.state is NodeState.DOWN and not self.bus.is_settling:
            self._on_node_silent(event.node_id)

    def _on_node_dead(self, node_id: str) -> None:
        for request in list(self._on_node.get(node_id, ())):
            request.on_node_dead()

    def _on_node_silent(self, node_id: str) -> None:
        for request in list(self._on_node.get(node_id, ())):
            request.on_node_silent()

    # -- the host of active requests ----------------------------------------------------------------------

    def hold(self, request: ActiveRequest) -> bool:
        """Takes responsibility for the request of a job and asks for its slot; False when its id is in use."""
        if request.request.request_id in self._active:
            return False
        self._active[request.request.request_id] = request
        log_prompt(request.request.request_id, request.request.context.model, request.request.body)
        request.ask_for_slot()
        return True

    def on_over(self, request: ActiveRequest) -> None:
        """The request is answered."""
        if self._active.get(request.request.request_id) is request:
            del self._active[request.request.request_id]
        self.drain_progress()

    def on_attempt_opened(self, attempt: Attempt, request: ActiveRequest) -> None:
        """Starts probing the attempt's node."""
        self._on_node.setdefault(attempt.node_id, set()).add(request)
        self._probes.watch(attempt.node_id)

    def on_attempt_closed(self, attempt: Attempt, request: ActiveRequest) -> None:
        """Stops probing the node when nothing else runs there."""
        there = self._on_node.get(attempt.node_id)
        if there is not None:
            there.discard(request)
            if not there:
                del self._on_node[attempt.node_id]
        self._probes.unwatch(attempt.node_id)

    def keep_answering(self, attempt: Attempt) -> None:
        """Goes on answering `no` to an abandoned attempt, for a bounded number and time."""
        self._answering[attempt] = time.monotonic()
        asyncio.get_running_loop().call_later(_KEEP_ANSWERING_S, self.stop_answering, attempt)
        while len(self._answering) > _KEEP_ANSWERING:
            self.stop_answering(next(iter(self._answering)))

    def stop_answering(self, attempt: Attempt) -> None:
        """The abandoned attempt is over, or was answered long enough."""
        if self._answering.pop(attempt, None) is not None:
            attempt.close()

    def report_outcome(self, outcome: Outcome) -> None:
        """Publishes an outcome that no node will publish."""
        self._outcomes.publish(outcome)


_SUBJECT_OF = {
    RequestKind.GENERATE: subjects.GENERATE,
    RequestKind.CHAT: subjects.CHAT,
    RequestKind.EMBED: subjects.EMBED,
    RequestKind.PASSTHROUGH: subjects.PASSTHROUGH,
}


def _kind_of_route(body: bytes) -> RequestKind:
    """Which kind a body without a subject is; what is not clear is taken as `generate`."""
    if b'"messages"' in body:
        return RequestKind.CHAT
    if b'"input"' in body and b'"prompt"' not in body:
        return RequestKind.EMBED
    return RequestKind.GENERATE


def _same_secret(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())
