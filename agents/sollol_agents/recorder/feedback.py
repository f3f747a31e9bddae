"""Where feedback is taken: checked, matched with the request that it is about, and told to everybody.

Safety: what is told is an event of the stream, from which every recorder's database and every scorer have it, each
once; who gave it hears of success only after the stream has it. Liveness: feedback that comes before anything of its
request is recorded waits in the database, for an hour at most, and counts as soon as that is.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import OrderedDict
from typing import Final

import msgspec

from sollol_agents.recorder.archive import Archive, WaitingFeedback
from sollol_agents.recorder.ratings import Allowances, Answered, answered, said_category, score_of
from sollol_agents.recorder.store import Store
from sollol_agents.requests.names import canonical
from sollol_bus.errors import BadRequest, BusError, QueueFull, SollolError, UnknownModel
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_schemas import owners, subjects
from sollol_schemas.callers import ANONYMOUS, word_of
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.feedback import FeedbackEvent, FeedbackHistory, FeedbackReply, FeedbackRequest, view_of
from sollol_schemas.ids import is_bus_id
from sollol_schemas.instants import seconds_of
from sollol_schemas.nearest import did_you_mean
from sollol_schemas.queries import ModelsReply, WhyReply

log = logging.getLogger(__name__)

_LOOKS: Final = 5
_LOOK_EVERY_S: Final = 0.1
_LOOKING_MAX: Final = 8
"""So many may look again for what nothing is known of; the recorder has other questions to answer."""
_LOOK_AGAIN_S: Final = 1.0
_ON_ITS_WAY_S: Final = 5.0
_WAITING_MAX: Final = 10_000
_WAITING_OF_CALLER: Final = 500
_WAITING_AT_A_TIME: Final = 100
_WAITS_S: Final = 3600.0
_TOLD_MAX: Final = 1000
_HISTORY: Final = 2000
_ASK_MODELS_S: Final = 1.0
_KEEP_COMMENT: Final = "INSERT OR REPLACE INTO feedback_comments VALUES (:request_id, :given_at, :comment)"
_KEEP_WAITING: Final = "INSERT OR REPLACE INTO feedback_waiting VALUES (:request_id, :caller, :job, :given_at, :body)"
_DROP_WAITING: Final = "DELETE FROM feedback_waiting WHERE request_id = :request_id AND caller = :caller"
_DROP_COMMENT: Final = "DELETE FROM feedback_comments WHERE request_id = :request_id"
_DROP_OLD: Final = "DELETE FROM feedback_waiting WHERE given_at < :before"


class FeedbackDesk:
    """Takes feedback for the recorder in office.

    Args:
        bus: The recorder's connection.
        per_minute: Feedback that one named caller may give in a minute; 0: however much.
    """

    def __init__(self, bus: Bus, per_minute: int) -> None:
        self._bus = bus
        self._allowances = Allowances(per_minute)
        self._turn = asyncio.Lock()
        self._looking = 0
        self._told: OrderedDict[str, tuple[FeedbackEvent, str]] = OrderedDict()
        self._has_waiting = asyncio.Event()
        self._has_waiting.set()

    async def take(self, archive: Archive, store: Store, msg: Msg) -> FeedbackReply:
        """Takes one feedback and says what it counted for.

        Raises:
            SollolError: It cannot be used, is about somebody else's request, or comes too fast.
        """
        request, caller = decode(msg.data, FeedbackRequest), owners.caller_of(msg.headers)
        score_of(request)
        over = self._allowances.refusal(caller, time.monotonic())
        if over is not None:
            raise QueueFull(over.message, body=over)
        if not request.request_id:
            if caller:
                text = "only operators may rate a model without a request; give the request_id of one of your own"
                raise SollolError(body=ErrorBody(code=ErrorCode.FORBIDDEN, message=text))
            about = Answered("", await self._known_model(request.model), category=request.category)
        else:
            found = await self._find(archive, request, caller)
            if found is None:
                return await self._let_wait(archive, store, request, caller)
            about = found
        return await self._tell(archive, store, about, request, caller)

    async def history(self, archive: Archive) -> FeedbackHistory:
        """What was said formerly, as much as one message holds."""
        history, limit = await archive.feedback_history(_HISTORY), self._bus.max_payload // 2
        while len(encode(history)) > limit:
            history = msgspec.structs.replace(history, events=history.events[len(history.events) // 2 :])
        return history

    async def with_feedback(self, archive: Archive, known: WhyReply) -> WhyReply:
        """What is recorded of a request, with what was said of its answer, the latest moment included."""
        ids = {event.decision.request_id for event in known.decisions} | {o.request_id for o in known.outcomes}
        views = {view.request_id: view for view in await archive.feedback_of(ids)}
        for request_id in ids:
            told = self._just_told(request_id)
            if told is not None:
                views[request_id] = view_of(*told)
        return msgspec.structs.replace(known, feedback=tuple(sorted(views.values(), key=lambda view: view.at)))

    async def keep_up(self, archive: Archive, store: Store) -> None:
        """Lets waiting feedback count whose request is recorded by now, until cancelled."""
        self._has_waiting.set()
        while True:
            await self._has_waiting.wait()
            try:
                await store.transact((_DROP_OLD, [{"before": self._bus.clock.now_unix() - _WAITS_S}]))
                for waiting in await archive.waiting_feedback(_WAITING_AT_A_TIME):
                    await self._take_up(archive, store, waiting)
                if not (await archive.count_waiting_feedback(""))[1]:
                    self._has_waiting.clear()
            except (BusError, sqlite3.OperationalError) as error:
                log.info("feedback waits on: %s", error, extra={"action": "feedback_waits"})
            await asyncio.sleep(_LOOK_AGAIN_S)  # several batches are written meanwhile: none is worth a look each

    async def _take_up(self, archive: Archive, store: Store, waiting: WaitingFeedback) -> None:
        try:
            request = msgspec.json.decode(waiting.body, type=FeedbackRequest)
            about = await self._find(archive, request, waiting.caller)
            if about is not None:
                await self._tell(archive, store, about, request, waiting.caller)
        except BusError:
            raise  # it waits on
        except (SollolError, msgspec.DecodeError) as error:  # another's request, or one that no model answered
            log.info("feedback counts for nothing: %s", error, extra={"action": "feedback_dropped"})
        await store.transact((_DROP_WAITING, [{"request_id": waiting.request_id, "caller": waiting.caller}]))

    async def _find(self, archive: Archive, request: FeedbackRequest, caller: str) -> Answered | None:
        """Who answered, once that is recorded; what just ended may still be on its way here."""
        asked_id = request.request_id
        job = owners.reference(caller, asked_id) if is_bus_id(asked_id) else asked_id
        is_crowded = self._looking >= _LOOKING_MAX
        self._looking += 1
        try:
            for look in range(_LOOKS):
                if look:
                    await asyncio.sleep(_LOOK_EVERY_S)
                known = await archive.why(asked_id, job=job)
                found = answered(known, caller, is_final=look == _LOOKS - 1, attempt_id=request.attempt_id)
                if found is not None:
                    return found
                if is_crowded and not known.decisions and not known.outcomes:
                    return None
        finally:
            self._looking -= 1
        if known.decisions or known.outcomes:
            raise _unknown(asked_id)  # of somebody else, of whose requests nothing is told
        return None

    async def _let_wait(self, archive: Archive, store: Store, request: FeedbackRequest, caller: str) -> FeedbackReply:
        if not (is_bus_id(request.request_id) or owners.is_reference(request.request_id)):
            raise BadRequest(f"{request.request_id!r} is not a request id")
        own, every = await archive.count_waiting_feedback(caller)
        if every >= _WAITING_MAX or (caller and own >= _WAITING_OF_CALLER):
            raise _unknown(request.request_id)
        job = owners.reference(caller, request.request_id) if is_bus_id(request.request_id) else request.request_id
        row = {"request_id": request.request_id, "caller": caller, "job": job, "body": encode(request)}
        await store.transact((_KEEP_WAITING, [row | {"given_at": self._bus.clock.now_unix()}]))
        self._has_waiting.set()
        return FeedbackReply(request_id=request.request_id, score=score_of(request), is_waiting=True)

    async def _tell(
        self, archive: Archive, store: Store, about: Answered, request: FeedbackRequest, caller: str
    ) -> FeedbackReply:
        """Publishes the feedback, unless the same was said before."""
        async with self._turn:
            before = await self._counted(archive, about)
            event = FeedbackEvent(
                request_id=about.request_id,
                model=about.model,
                group=about.group,
                category=before.category if before else said_category(request, about.category),
                score=score_of(request),
                replaces=before.score if before else None,
                latency_s=request.latency_s,
                caller=before.caller if before else word_of(caller if caller != ANONYMOUS else ""),
                at=self._bus.clock.instant(),
            )
            if about.request_id:
                row = {"request_id": about.request_id, "comment": request.comment}
                how = _KEEP_COMMENT if request.comment else _DROP_COMMENT
                await store.transact((how, [row | {"given_at": self._bus.clock.now_unix()}]))
            if before is None or (before.score, before.latency_s) != (event.score, event.latency_s):
                await publish_acked(self._bus, subjects.FEEDBACK_EVENT, encode(event))
            self._told[about.request_id] = (event, request.comment)
            self._told.move_to_end(about.request_id)
            if len(self._told) > _TOLD_MAX:
                self._told.popitem(last=False)
        return FeedbackReply(
            request_id=event.request_id,
            model=event.model,
            group=event.group,
            category=event.category,
            score=event.score,
            is_replacement=before is not None,
        )

    async def _counted(self, archive: Archive, about: Answered) -> FeedbackEvent | None:
        """The feedback that this one replaces."""
        if not about.request_id:
            return None
        told = self._just_told(about.request_id)
        before = told[0] if told is not None else await archive.counted_feedback(about.request_id)
        return before if before is not None and canonical(before.model) == canonical(about.model) else None

    def _just_told(self, request_id: str) -> tuple[FeedbackEvent, str] | None:
        """What was said a moment ago: it is on its way to the database."""
        told = self._told.get(request_id)
        is_fresh = told is not None and self._bus.clock.now_unix() - seconds_of(told[0].at) < _ON_ITS_WAY_S
        return told if is_fresh else None

    async def _known_model(self, name: str) -> str:
        """The model as the fleet calls it; of a fleet that does not answer or has none, as it was said.

        Raises:
            UnknownModel: No node has it.
        """
        try:
            msg = await self._bus.request(subjects.MODELS, timeout_s=_ASK_MODELS_S)
            if error_of(msg) is not None:
                return name
            models = [model for model in decode(msg.data, ModelsReply).models if not model.members]
            known = {canonical(model.name): model.name for model in models}
        except BusError as error:
            log.debug("the models are not known: %s", error)
            return name
        if not known:
            return name
        if canonical(name) not in known:
            hint = did_you_mean(name, known.values())
            raise UnknownModel(f"no node has the model {name!r}{hint}")
        return known[canonical(name)]


def _unknown(asked_id: str) -> SollolError:
    message = f"nothing is recorded about request {asked_id}"
    return SollolError(body=ErrorBody(code=ErrorCode.UNKNOWN_REQUEST, message=message))
