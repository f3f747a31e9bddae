"""The requests that one dispatcher holds: taken in, found again, moved by what happens to scorers and nodes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

import msgspec

from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.leaves import Leaves
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.dispatcher.requests.active import ActiveRequest
from sollol_agents.dispatcher.requests.attempt import AbandonedAttempts
from sollol_agents.dispatcher.requests.continuing import Resumer
from sollol_agents.dispatcher.requests.embedding_batches import EmbeddingBatches
from sollol_agents.dispatcher.requests.intake import SUBJECT_OF, Rejected, Request, in_use, seems_to_stream, take_in
from sollol_agents.dispatcher.requests.leaving import Leaving
from sollol_agents.dispatcher.requests.node_probes import NodeProbes
from sollol_agents.dispatcher.requests.relaying import Relays, cancelled
from sollol_agents.dispatcher.requests.scorer_watch import ScorerWatch
from sollol_agents.dispatcher.requests.shared import SharedRequest
from sollol_agents.dispatcher.requests.tools import Tools
from sollol_agents.requests.detector import Detector
from sollol_bus.errors import DecodeFailed, NotConnected
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.observe.request_log import log_prompt
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, decoded, encode
from sollol_bus.transport.naming import of_members
from sollol_bus.trust.callers import Roster
from sollol_bus.trust.standings import follow_roster
from sollol_schemas import subjects
from sollol_schemas.callers import word_of
from sollol_schemas.context import RequestKind
from sollol_schemas.control import DispatcherPing, DispatcherPong
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import NodeEvent, OfficeEvent
from sollol_schemas.execution import CancelReply, CancelRequest
from sollol_schemas.inboxes import is_client_inbox
from sollol_schemas.owners import caller_of
from sollol_schemas.telemetry import NodeState

log = logging.getLogger(__name__)

_BY_CALLER = "cancelled by its caller"
_PONG = encode(DispatcherPong())
_HELD_NOWHERE_S = 0.5
"""Whoever holds a request that is cancelled says so within this time."""
_HELD_BYTES_MAX = 512 << 20
"""Bodies that one dispatcher holds."""
_CALLERS_BYTES_MAX = _HELD_BYTES_MAX // 4
"""Those of one caller, where callers are known: none crowds out the others."""
_NOT_HELD = encode(DispatcherPong(is_held=False))


class RequestTable(Part):
    """Takes requests, and holds each until it is answered.

    Args:
        bus: The dispatcher's connection.
        config: Its settings.
        pace: How long it waits for what.
        instance: Who holds the requests.
        detector: Finds the task in a prompt.
        leaves: Lets nodes speak to callers.
        outcomes: Takes the outcomes that no node will publish.
        spawn: Runs a coroutine as a task of the dispatcher.
        on_over: Called whenever a request is answered, or left.
        calls: The connection of requests that stand for several.
    """

    def __init__(
        self,
        bus: Bus,
        config: DispatcherConfig,
        pace: Pace,
        *,
        instance: str,
        detector: Detector,
        leaves: Leaves,
        outcomes: OutcomePublisher,
        spawn: Spawn,
        on_over: Callable[[], None],
        calls: Callable[[], Bus],
    ) -> None:
        self.taken = 0
        """Requests taken since the start."""
        self.rejected = 0
        """Requests that could not be taken."""
        self._bus = bus
        self._config = config
        self._detector = detector
        self._on_over = on_over
        self._active: dict[str, ActiveRequest] = {}
        self._held_bytes = 0
        """Of the bodies of all requests."""
        self._callers_bytes: dict[str, int] = {}
        """Of those of each caller."""
        self._told: set[str] = set()
        """Who has been told of late that its request is cancelled; none is there that was not held here before."""
        self._roster = Roster()
        self._spawn = spawn
        self._batches = EmbeddingBatches(calls, spawn, window_s=config.embed_window_s)
        self._down: set[str] = set()
        """Nodes that the scorer does not hear."""
        self.tools = Tools(
            bus=bus,
            instance=instance,
            max_attempts=config.max_attempts,
            pace=pace,
            scorer=ScorerWatch(bus, patience_s=pace.scorer_absence_s),
            nodes=NodeProbes(
                bus,
                interval_s=pace.probe_interval_s,
                silence_limit_s=pace.node_silence_s,
                on_dead=lambda node_id: self._each_on(node_id, ActiveRequest.on_node_dead),
                on_silent=self._on_silent,
            ),
            abandoned=AbandonedAttempts(),
            leaves=leaves,
            outcomes=outcomes,
        )
        self._relays = Relays(
            bus, calls, spawn, instance=instance, limit_bytes=config.resume_bytes, on_over=self._let_go
        )
        self._leaving = Leaving(bus, self._active, self.tools.scorer, gone_within_s=config.drain_timeout_s, spawn=spawn)

    # -- life ---------------------------------------------------------------------------------------------

    @property
    def subjects(self) -> dict[str, Callable[[Msg], None]]:
        """Where requests come in, and who takes them."""
        return {subject: partial(self._on_request, kind) for kind, subject in SUBJECT_OF.items()}

    async def start(self) -> None:
        """Listens to what moves requests."""
        self._spawn(follow_roster(self._bus, self._know), name="callers")
        self._bus.on_reconnect(self._on_reconnect)
        self._bus.on_cluster_change(self._let_waiting_ask)  # a server may have taken a question or its answer along
        self._bus.subscribe(subjects.OFFICE_EVENT.all, self._on_office)
        self._bus.subscribe(subjects.NODE_EVENT.all, self._on_node_event)
        self._bus.serve(subjects.DISPATCHER_PROBE.of(self.tools.instance), self._on_ping)
        self._bus.serve(subjects.CANCEL, self._on_cancel)
        own, members = self._on_any_cancel, subjects.by_members(subjects.CANCEL)  # not served: it has been counted
        self._bus.subscribe(subjects.CANCEL, own, queue=subjects.DISPATCHERS)
        self._bus.subscribe(members, of_members(own), queue=subjects.DISPATCHERS)

    @property
    def roster(self) -> Roster:
        """The callers, as they are known now."""
        return self._roster

    def in_flight(self) -> Collection[str]:
        """Ids of the requests that are not answered yet."""
        return self._active.keys() | self._relays.in_flight()

    async def leave(self, ours: Collection[str]) -> None:
        """Gives what no node works on to other dispatchers, now and whenever something comes to wait; see `Leaving`."""
        await self._leaving.begin(ours, self._relays.leave)

    async def hand_back(self, ours: Collection[str]) -> None:
        """Leaves what could not finish in time to other dispatchers, or to the nodes that work on it."""
        await self._relays.end()
        await self._leaving.end(ours)

    async def close(self) -> None:
        """Ends all asking and answering."""
        for part in (self.tools.scorer, self.tools.nodes, self.tools.abandoned):
            await part.close()

    def _know(self, roster: Roster) -> None:
        self._roster = roster

    # -- taking requests ----------------------------------------------------------------------------------

    def _on_request(self, kind: RequestKind, msg: Msg) -> None:
        if not is_client_inbox(msg.reply):
            self.rejected += 1
            log.warning(
                "refused a request whose reply subject is not a client's inbox: %.80r",
                msg.reply,
                extra={"action": "bad_reply_subject"},
            )
            return
        try:
            request = self.taken_in(kind, msg)
            self._check_room(request)
        except Rejected as rejected:
            self.rejected += 1
            self._bus.respond_error(msg.reply, rejected.error, is_stream=seems_to_stream(msg.data, msg.headers or {}))
            return
        if request.control_inbox and not self._bus.is_connected:
            return  # it lay here until the connection had broken: who watches over it has sent it again
        self.taken += 1
        self._hold(request)

    def taken_in(self, kind: RequestKind, msg: Msg) -> Request:
        """The request in a message; it is not held yet.

        Raises:
            Rejected: It is not usable, or too large.
        """
        if len(msg.data) > self._bus.max_payload:
            message = f"the body's {len(msg.data)} bytes exceed the limit of {self._bus.max_payload} bytes"
            raise Rejected(ErrorBody(code=ErrorCode.REQUEST_TOO_LARGE, message=message))
        request = take_in(
            kind,
            msg.data,
            msg.headers,
            msg.reply,
            default_deadline_s=self._config.default_deadline_s,
            detector=self._detector,
            roster=self._roster,
        )
        if request.resumer is Resumer.DISPATCHER and not self._relays.has_room:
            return msgspec.structs.replace(request, resumer=Resumer.NOBODY)
        return request

    def _check_room(self, request: Request) -> None:
        """Lets a request that was sent again take the place of what was sent before.

        Raises:
            Rejected: Its id is another request's, or the dispatcher is full.
        """
        held = self._active.get(request.request_id)
        if request.resumer is Resumer.DISPATCHER:
            self._relays.check(request)  # what it asks itself has the same id
        elif held is not None:
            if not request.is_again(held.request):
                raise Rejected(in_use(request.request_id))
            held.drop()
        count = len(self._active) + len(self._relays)
        if count >= self._config.max_active:
            message = f"this dispatcher holds {count} requests already; try again later"
            raise Rejected(ErrorBody(code=ErrorCode.QUEUE_FULL, message=message, details={"retry_after_s": 1}))
        if not request.context.job_id:  # of jobs only so many are taken
            self._check_bytes(request)

    def _check_bytes(self, request: Request) -> None:
        size, held = len(request.payload), self._held_bytes
        callers = self._callers_bytes.get(request.caller, 0)
        callers_max = _CALLERS_BYTES_MAX if request.caller else _HELD_BYTES_MAX
        if callers + size <= callers_max and held + size <= _HELD_BYTES_MAX:
            return
        message = f"this dispatcher holds {held >> 20} MiB of requests already; try again later"
        raise Rejected(ErrorBody(code=ErrorCode.QUEUE_FULL, message=message, details={"retry_after_s": 1}))

    def _hold(self, request: Request) -> None:
        self._count(request, len(request.payload))
        if request.resumer is Resumer.DISPATCHER:
            self._relays.begin(request)
            return
        log_prompt(request.request_id, request.context.model, request.body)
        kind = self._batches.part_of(request, self._roster)
        made = ActiveRequest if kind is None else SharedRequest
        active = self._active[request.request_id] = made(self.tools, request, self._forget)
        if kind is None or not isinstance(active, SharedRequest) or not self._batches.take(active, *kind):
            self.tools.scorer.ask(active)

    def _forget(self, active: ActiveRequest) -> None:
        request = active.request
        if self._active.get(request.request_id) is active:
            del self._active[request.request_id]
        if isinstance(active, SharedRequest):
            self._batches.over(active)
        self._let_go(request)

    def _let_go(self, request: Request) -> None:
        self._count(request, -len(request.payload))
        self._on_over()

    def _count(self, request: Request, size: int) -> None:
        """So many bytes more are held, or fewer."""
        self._held_bytes += size
        callers = self._callers_bytes.get(request.caller, 0) + size
        if callers:
            self._callers_bytes[request.caller] = callers
        else:
            self._callers_bytes.pop(request.caller, None)

    def _on_cancel(self, msg: Msg) -> None:
        asked = decoded(msg, CancelRequest)
        if asked is None:
            return
        caller = word_of(caller_of(msg.headers))
        relay, active = self._relays.held(asked.request_id), self._active.get(asked.request_id)
        both = (one for one in (relay, active) if one is not None)  # of one id, each with a secret of its own
        held = next((one for one in both if one.request.may_be_cancelled(asked.secret, caller)), None)
        if held is None:
            return  # another dispatcher may hold it
        if asked.resend is not None and held.request.resend > asked.resend:
            return  # its caller has sent it again since
        comes_again = asked.comes_again and not caller_of(msg.headers)  # a slot stays free for it: dispatchers say so
        if comes_again and not held.is_waiting:
            return  # it goes on
        if isinstance(held, ActiveRequest):
            held.cancel(ErrorCode.CANCELLED, _BY_CALLER, comes_again=comes_again)
        else:
            held.leave(cancelled(_BY_CALLER))
        self._bus.respond(msg, CancelReply(request_id=asked.request_id, is_cancelled=True))
        if msg.reply:
            self._told.add(msg.reply)
            asyncio.get_running_loop().call_later(2 * _HELD_NOWHERE_S, self._told.discard, msg.reply)

    def _on_any_cancel(self, msg: Msg) -> None:
        """One dispatcher answers for all when none says that it holds such a request."""
        if not msg.reply:
            return
        try:
            asked = decode(msg.data or b"{}", CancelRequest)
        except DecodeFailed as error:
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
            return
        unknown = CancelReply(request_id=asked.request_id, is_cancelled=False)
        asyncio.get_running_loop().call_later(_HELD_NOWHERE_S, self._tell_unknown, msg, unknown)

    def _tell_unknown(self, msg: Msg, unknown: CancelReply) -> None:
        if msg.reply in self._told:
            return
        with suppress(NotConnected):
            self._bus.respond(msg, unknown)

    def _on_ping(self, msg: Msg) -> None:
        asked = decoded(msg, DispatcherPing) if msg.data else None
        is_held = asked is None or asked.request_id is None or asked.request_id in self.in_flight()
        self._bus.answer(msg, _PONG if is_held else _NOT_HELD)

    # -- what moves requests ------------------------------------------------------------------------------

    def _on_office(self, msg: Msg) -> None:
        event = decoded(msg, OfficeEvent)
        if event is not None and event.is_leader:
            self.tools.scorer.heard()
            self._let_waiting_ask()

    def _on_reconnect(self) -> None:
        self._let_waiting_ask()
        for request in list(self._active.values()):
            request.on_reconnect()

    def _let_waiting_ask(self) -> None:
        self.tools.scorer.ask_all(r for r in self._active.values() if r.is_waiting)

    def _on_node_event(self, msg: Msg) -> None:
        event = decoded(msg, NodeEvent)
        if event is not None and event.state is NodeState.DOWN:
            self._down.add(event.node_id)  # to the scorer: here it may be heard, over another way
        elif event is not None:
            self._down.discard(event.node_id)
        if event is not None and self.tools.nodes.is_silent(event.node_id):
            self._on_silent(event.node_id)

    def _on_silent(self, node_id: str) -> None:
        is_down = node_id in self._down
        self._each_on(node_id, ActiveRequest.on_node_down if is_down else ActiveRequest.on_node_silent)

    def _each_on(self, node_id: str, act: Callable[[ActiveRequest], None]) -> None:
        for request in list(self._active.values()):
            if request.attempt is not None and request.attempt.node_id == node_id:
                act(request)
