"""Where feedback comes from: the stream of events, and of what is older than that the recorder.

Safety: every scorer, in office or not, reads the stream itself and learns from each event once; how far it is, is kept
with what it learnt. Liveness: a scorer that was away goes on where its predecessor's document ends. Only where nothing
was ever learnt is the recorder asked, for a while; then the stream is read from its beginning.
"""

from __future__ import annotations

import asyncio
import logging
import time

from sollol_agents.scorer.core import SchedulerCore
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, error_of
from sollol_schemas import stores, subjects
from sollol_schemas.feedback import FeedbackEvent, FeedbackHistory
from sollol_schemas.instants import instant

log = logging.getLogger(__name__)

_ACK_WAIT_S = 5.0
_INACTIVE_S = 300.0
_ASK_S = 3.0
_ASK_AGAIN_S = 2.0
_ASK_FOR_S = 30.0


class HeardFeedback:
    """Teaches a scorer what feedback says; its actor spawns `run`.

    Args:
        bus: The scorer's connection.
        core: Who learns.
        instance: The scorer's, after which its consumer is called.
    """

    def __init__(self, bus: Bus, core: SchedulerCore, instance: str) -> None:
        self._bus = bus
        self._core = core
        self._instance = instance

    async def run(self) -> None:
        """Learns until cancelled."""
        if not self._core.feedback.has_heard:
            await self._consult_recorder()
        heard = self._core.feedback.heard
        spec = ConsumerSpec(
            stream=stores.EVENTS_STREAM,
            durable=f"feedback-{self._instance}",
            about="A scorer learns from feedback; each has its own.",
            filter_subjects=(subjects.FEEDBACK_EVENT,),
            ack_wait_s=_ACK_WAIT_S,
            max_ack_pending=1,  # in order: the place of the last one tells which were learnt from
            inactive_s=_INACTIVE_S,
            since=heard.stored_at,  # what was learnt from before is known by its place
        )
        await PullConsumer(self._bus, spec, self._take, window=1).run()

    def _take(self, delivery: Delivery) -> None:
        try:
            event = decode(delivery.data, FeedbackEvent)
        except DecodeFailed as error:
            log.warning("ignored feedback: %s", error, extra={"action": "bad_message"})
            delivery.term("not what its contract says")
            return
        stored_at = instant(delivery.stored_at_ns / 1e9)
        self._core.feedback.take(event, time.monotonic(), stream_seq=delivery.stream_seq, stored_at=stored_at)
        delivery.ack()

    async def _consult_recorder(self) -> None:
        """Learns from what the recorder kept; one that still starts is asked again for a while."""
        gives_up_at = time.monotonic() + _ASK_FOR_S
        while time.monotonic() < gives_up_at:
            try:
                msg = await self._bus.request(subjects.FEEDBACK_HISTORY, timeout_s=_ASK_S)
                refusal = error_of(msg)
                if refusal is None:
                    history = decode(msg.data, FeedbackHistory)
                    count = self._core.feedback.take_history(history, time.monotonic(), self._bus.clock.now_unix())
                    log.info("learnt from %d recorded ratings", count, extra={"action": "learned_record"})
                    return
                log.info("the recorder tells no feedback: %s", refusal.message, extra={"action": "learned_record"})
            except (BusError, DecodeFailed) as error:
                log.info("the recorder tells no feedback: %s", error, extra={"action": "learned_record"})
            await asyncio.sleep(_ASK_AGAIN_S)  # nothing tells when a recorder begins to answer
