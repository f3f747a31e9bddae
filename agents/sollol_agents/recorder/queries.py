"""Where the recorder in office answers questions, a bounded number at a time and never in ingestion's way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec

from sollol_agents.recorder.archive import Archive
from sollol_agents.recorder.feedback import FeedbackDesk
from sollol_agents.recorder.statistics import fleet_stats, with_patterns
from sollol_agents.recorder.store import Store
from sollol_agents.recorder.usage import usage_of
from sollol_bus.errors import ActorStopped, BusError, NotConnected, PayloadTooLarge, SollolError
from sollol_bus.parts import Spawn
from sollol_bus.sdk.questions import ask
from sollol_bus.transport.acting import tell_act
from sollol_bus.transport.connection import INBOX_ROOT, Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_bus.transport.subscription import Subscription
from sollol_bus.trust.callers import Roster
from sollol_bus.waiting import happens
from sollol_schemas import owners, subjects
from sollol_schemas.acts import ActsReply, ActsRequest
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.feedback import FeedbackHistory, FeedbackReply
from sollol_schemas.ids import is_bus_id
from sollol_schemas.queries import (
    NodesReply,
    NodesRequest,
    RecentReply,
    RecentRequest,
    ReliabilityReply,
    ReliabilityRequest,
    StatsReply,
    StatsRequest,
    UsageReply,
    UsageRequest,
    WhyReply,
)
from sollol_schemas.steering import ResetEvent, ResetKind

log = logging.getLogger(__name__)

T = TypeVar("T")
Question = Callable[[Archive, Store, Msg], Awaitable[object]]

MAX_QUERIES = 32
"""Answers in the making at one time; beyond them new questions are refused."""
_FLEET_WAIT_S = 1.0
_LOOKS = 5
_LOOK_EVERY_S = 0.1
_DATABASE_WAIT_S = 2.0
_LET_GO_S = 3.0
_STOPPED = "the recorder left office before it could answer; ask again"


class Queries:
    """Answers stats, reliability, recent, why, feedback and the reset of the metrics.

    Questions that come while the database is being exchanged wait a moment for the next one.

    Args:
        bus: The recorder's connection.
        spawn: Starts a task that lives no longer than the actor.
        roster: The callers as they are now.
        feedback: Who takes feedback.
    """

    def __init__(
        self, bus: Bus, spawn: Spawn, *, roster: Callable[[], Roster] = Roster, feedback: FeedbackDesk
    ) -> None:
        self._bus = bus
        self._feedback_desk = feedback
        self._spawn = spawn
        self._roster = roster
        self._archive: Archive | None = None
        self._store: Store | None = None
        self._has_database = asyncio.Event()
        self._reading = 0
        self._is_unused = asyncio.Event()
        self._running = 0
        self._subscriptions: list[Subscription] = []

    def use(self, archive: Archive, store: Store) -> None:
        """Answers from this database from now on."""
        self._archive, self._store = archive, store
        self._has_database.set()

    async def let_go(self) -> None:
        """Returns when the database is no longer in use, within a few seconds, so that it can be closed."""
        self._has_database.clear()
        self._archive = self._store = None
        if not self._reading:
            return
        self._is_unused.clear()
        if not await happens(self._is_unused, _LET_GO_S):
            log.warning("%d queries lose their database", self._reading, extra={"action": "query_abandoned"})

    def open(self) -> None:
        """Begins to answer; opening twice does nothing."""
        if self._subscriptions:
            return
        for endpoint, subject in ENDPOINTS.items():
            answer = getattr(self, f"_{endpoint}")
            take = partial(self._on_question, endpoint, answer)
            self._subscriptions += self._bus.serve(subject, take, queue=subjects.RECORDERS)

    def close(self) -> None:
        """Takes no more questions; safe to call twice."""
        for subscription in self._subscriptions:
            subscription.unsubscribe()
        self._subscriptions.clear()

    def _on_question(self, endpoint: str, answer: Question, msg: Msg) -> None:
        if not msg.reply.startswith(INBOX_ROOT):
            return  # our rights are wide: nobody may make us publish elsewhere
        if self._running >= MAX_QUERIES:
            message = f"{MAX_QUERIES} queries are being answered; try again"
            self._refuse(endpoint, msg.reply, ErrorBody(code=ErrorCode.QUEUE_FULL, message=message))
            return
        self._running += 1
        self._spawn(self._answer(endpoint, answer, msg), name="query")

    async def _answer(self, endpoint: str, answer: Question, msg: Msg) -> None:
        try:
            self._bus.respond(msg, await self._consult(answer, msg))
        except NotConnected:
            log.info("an answer about %s was not sent: the bus is down", endpoint, extra={"action": "answer_lost"})
        except asyncio.CancelledError:
            self._refuse(endpoint, msg.reply, ErrorBody(code=ErrorCode.ACTOR_STOPPED, message=_STOPPED))
            raise
        except PayloadTooLarge as error:
            message = f"{error}; ask for one node, one model, or fewer entries"
            self._refuse(endpoint, msg.reply, ErrorBody(code=ErrorCode.REPLY_TOO_LARGE, message=message))
        except SollolError as error:
            self._refuse(endpoint, msg.reply, error.body)
        except Exception:
            log.exception("answering a question about %s failed", endpoint, extra={"action": "query_failed"})
            body = ErrorBody(code=ErrorCode.INTERNAL, message="the query failed; the recorder's log tells why")
            self._refuse(endpoint, msg.reply, body)
        finally:
            self._running -= 1

    async def _consult(self, answer: Question, msg: Msg) -> object:
        """The answer from the database in use, once there is one."""
        if not await happens(self._has_database, _DATABASE_WAIT_S):
            raise ActorStopped("the recorder is opening its database; ask again")
        archive, store = self._archive, self._store
        assert archive is not None
        assert store is not None
        self._reading += 1
        try:
            return await answer(archive, store, msg)
        finally:
            self._reading -= 1
            if not self._reading:
                self._is_unused.set()

    def _refuse(self, endpoint: str, reply: str, body: ErrorBody) -> None:
        try:
            self._bus.respond_error(reply, body)
        except NotConnected:
            log.info("a refusal about %s was not sent: the bus is down", endpoint, extra={"action": "answer_lost"})

    # -- questions ----------------------------------------------------------------------------------------

    async def _stats(self, archive: Archive, _store: Store, msg: Msg) -> StatsReply:
        request = _read(msg, StatsRequest, StatsRequest())
        now = self._bus.clock.now_unix()
        since = now - request.window_s if request.window_s > 0 else 0.0
        nodes = await self._ask_fleet()
        fleet = fleet_stats(nodes) if nodes is not None else None
        reply = await archive.stats(since, fleet=fleet, window_s=request.window_s)
        if request.with_patterns:
            reply = with_patterns(reply, await archive.patterns(since), await archive.hours(now), nodes)
        return reply

    async def _reliability(self, archive: Archive, _store: Store, msg: Msg) -> ReliabilityReply:
        request = await self._with_id(_read(msg, ReliabilityRequest, ReliabilityRequest()))
        return await archive.reliability(request.node_id, request.model, now=self._bus.clock.now_unix())

    async def _recent(self, archive: Archive, _store: Store, msg: Msg) -> RecentReply:
        request = _read(msg, RecentRequest, RecentRequest())
        return await archive.recent(request.limit, per_model=request.per_model, callers=self._seen_by(msg))

    async def _why(self, archive: Archive, _store: Store, msg: Msg) -> WhyReply:
        request_id, caller = subjects.last_token(msg.subject), owners.caller_of(msg.headers)
        job = owners.reference(caller, request_id) if is_bus_id(request_id) else request_id
        for look in range(_LOOKS):
            if look:
                await asyncio.sleep(_LOOK_EVERY_S)  # a request that just ended may still be on its way here
            reply = await archive.why(request_id, job=job, callers=self._seen_by(msg))
            if reply.decisions or reply.outcomes:
                return await self._feedback_desk.with_feedback(archive, reply)
        is_id = is_bus_id(request_id) or owners.is_reference(request_id)
        message = f"nothing is recorded about request {request_id}" if is_id else "not a request id"
        raise SollolError(body=ErrorBody(code=ErrorCode.UNKNOWN_REQUEST, message=message))

    async def _feedback(self, archive: Archive, store: Store, msg: Msg) -> FeedbackReply:
        return await self._feedback_desk.take(archive, store, msg)

    async def _feedback_history(self, archive: Archive, _store: Store, _msg: Msg) -> FeedbackHistory:
        return await self._feedback_desk.history(archive)

    async def _usage(self, archive: Archive, _store: Store, msg: Msg) -> UsageReply:
        request = _read(msg, UsageRequest, UsageRequest())
        since = self._bus.clock.now_unix() - request.since_s if request.since_s > 0 else 0.0
        seen_by = self._seen_by(msg)
        rows = await archive.usage(since, by=request.by, callers=seen_by)
        expenses = await archive.expenses(since, by=request.by, callers=seen_by)
        return UsageReply(entries=usage_of(rows, self._roster(), request.by, expenses))

    async def _acts(self, archive: Archive, _store: Store, msg: Msg) -> ActsReply:
        request = _read(msg, ActsRequest, ActsRequest())
        since = self._bus.clock.now_unix() - request.since_s if request.since_s > 0 else 0.0
        return ActsReply(acts=await archive.acts(since, request.limit))

    def _seen_by(self, msg: Msg) -> tuple[str, ...] | None:
        """Of whose requests whoever asks may know; None: of everybody's."""
        return self._roster().seen_by(owners.caller_of(msg.headers))

    async def _reset(self, archive: Archive, store: Store, msg: Msg) -> ReliabilityReply:
        request = await self._with_id(_read(msg, ReliabilityRequest, ReliabilityRequest()))
        await store.forget(request.node_id, request.model)
        log.warning(
            "forgot the outcomes of node %r, model %r (empty: all)",
            request.node_id,
            request.model,
            extra={"action": "recorder_reset"},
        )
        at = self._bus.clock.instant()
        event = ResetEvent(kind=ResetKind.RELIABILITY, node_id=request.node_id, model=request.model, at=at)
        self._bus.publish(subjects.RESET_EVENT, encode(event))
        tell_act(self._bus, "metrics.reset", request.node_id, {"model": request.model}, asked=msg.headers or {})
        return await archive.reliability(request.node_id, request.model, now=self._bus.clock.now_unix())

    async def _with_id(self, request: ReliabilityRequest) -> ReliabilityRequest:
        """The request with the id of the node that is meant; one that the fleet does not know stands for itself.

        Raises:
            SollolError: Several nodes are called so.
        """
        if not request.node_id:
            return request
        try:
            asked = NodesRequest(node=request.node_id)
            known = await ask(self._bus, subjects.NODES, asked, NodesReply, timeout_s=_FLEET_WAIT_S)
        except SollolError as error:
            if error.body.code is ErrorCode.BAD_REQUEST:
                raise
            return request
        return msgspec.structs.replace(request, node_id=known.nodes[0].node_id)

    async def _ask_fleet(self) -> NodesReply | None:
        try:
            msg = await self._bus.request(subjects.NODES, timeout_s=_FLEET_WAIT_S)
            return decode(msg.data, NodesReply) if error_of(msg) is None else None
        except BusError as error:
            log.debug("no figures about the fleet: %s", error)
            return None


#: Subject by name of the question; the name is the method's too.
ENDPOINTS: dict[str, str] = {
    "stats": subjects.STATS,
    "reliability": subjects.RELIABILITY,
    "recent": subjects.RECENT,
    "why": subjects.WHY.all,
    "feedback": subjects.FEEDBACK,
    "feedback_history": subjects.FEEDBACK_HISTORY,
    "usage": subjects.USAGE,
    "reset": subjects.ADMIN_METRICS_RESET,
    "acts": subjects.ADMIN_ACTS,
}


def _read(msg: Msg, kind: type[T], default: T) -> T:
    return decode(msg.data, kind) if msg.data else default
