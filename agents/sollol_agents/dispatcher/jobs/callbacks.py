"""Delivery of results to where their submitters want them: a subject, or an address that the operator permitted.

A result that is to be delivered is stored first, so that a dispatcher's death loses none. It is delivered until
somebody took it: a subject on which nobody listens is tried again like a host that does not answer. Deliveries may
come twice. A post is signed when a key is set: `Sollol-Signature: t=<unix seconds>,v1=<hex>`, where the hex is
HMAC-SHA256 over `<t>.<body>`.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.jobs.intake import check_callback, job_in
from sollol_agents.dispatcher.jobs.persistence import persistently
from sollol_agents.dispatcher.jobs.records import as_told
from sollol_agents.dispatcher.jobs.results import Expired, Results
from sollol_agents.dispatcher.requests.intake import Rejected
from sollol_agents.posting import NotPosted, Poster
from sollol_bus.errors import BusError, DecodeFailed, NoResponders
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, is_no_responders
from sollol_bus.waiting import happens
from sollol_schemas import headers as h
from sollol_schemas import owners, stores, subjects
from sollol_schemas.jobs import Job, JobCallback, JobResult

log = logging.getLogger(__name__)

_WINDOW = 16
_ACK_WAIT_S = 30.0
_REFUSAL_S = 0.1
"""The server says within this time that nobody listens."""
_POSTED_BYTES_MAX = 64 << 20
"""Larger answers are named, not sent: their receiver fetches them from the object store."""
_FIRST_RETRY_S = 2.0
_LAST_RETRY_S = 600.0
_MAX_DELIVERIES = 12
"""About an hour and a half of tries."""


class Callbacks:
    """Delivers results.

    Args:
        bus: The connection.
        config: Permitted hosts, and the key of the signature.
        results: Where large answers lie.
        spawn: Runs a coroutine as a task of the dispatcher.
    """

    def __init__(self, bus: Bus, config: DispatcherConfig, results: Results, spawn: Spawn) -> None:
        self._bus = bus
        self._hosts = config.job_callback_hosts
        self._results = results
        self._spawn = spawn
        self._poster = Poster(
            bus.clock,
            hosts=config.job_callback_hosts,
            secret=config.job_callback_secret,
            is_private_permitted=config.job_callback_private,
        )
        spec = ConsumerSpec(
            stream=stores.CALLBACKS_STREAM,
            durable="callbacks",
            about="Dispatchers deliver results to whoever asked to be called back.",
            ack_wait_s=_ACK_WAIT_S,
        )
        self.consumer = PullConsumer(bus, spec, self._on_order, window=_WINDOW)

    async def order(self, job: Job, result: JobResult) -> None:
        """Stores a result for delivery when its job wants that; goes on through outages."""
        if not job.callback_subject and not job.callback_url:
            return
        payload = encode(
            JobCallback(
                job_id=result.job_id,
                result=result,
                callback_subject=job.callback_subject,
                callback_url=job.callback_url,
            )
        )
        headers = {h.MSG_ID: f"{result.job_id}.{result.run}"}

        async def act() -> None:
            await publish_acked(self._bus, subjects.JOB_CALLBACK.of(result.job_id), payload, headers=dict(headers))

        await persistently(act, f"callback of job {result.job_id}")

    async def order_for(self, payload: bytes, result: JobResult) -> None:
        """The same for a job as it was submitted; one that is malformed or wants what is forbidden is passed over."""
        try:
            job = job_in(payload)
            check_callback(job, self._hosts, owners.owner_of(result.job_id))
        except (DecodeFailed, Rejected):
            return
        await self.order(job, result)

    async def close(self) -> None:
        """Closes the connections to the hosts."""
        await self._poster.close()

    def _on_order(self, delivery: Delivery) -> None:
        self._spawn(self._deliver(delivery), name="callback")

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            callback = decode(delivery.data, JobCallback)
        except DecodeFailed as error:
            delivery.term(str(error))
            return
        try:
            if callback.callback_subject:
                await self._publish(callback)
            if callback.callback_url:
                await self._poster.post(callback.callback_url, await self._payload(callback, _POSTED_BYTES_MAX))
        except (NotPosted, BusError) as error:
            self._try_again(delivery, callback, error)
        else:
            delivery.ack()

    async def _payload(self, callback: JobCallback, max_bytes: int) -> bytes:
        """The result with its answer, as far as that may be so large and is kept."""
        result = callback.result
        if result.object_name and result.body_bytes <= max_bytes:
            try:
                body = msgspec.Raw(await self._results.body(result))
            except Expired:
                log.info(
                    "job %s: its answer expired before it was called back",
                    result.job_id,
                    extra={"action": "callback_expired", "job_id": result.job_id},
                )
            else:
                result = msgspec.structs.replace(result, body=body, object_name="")
        return encode(as_told(result))

    async def _publish(self, callback: JobCallback) -> None:
        """Publishes the result to its subject.

        Raises:
            NoResponders: Nobody listens there now.
        """
        payload = await self._payload(callback, self._bus.max_payload // 2)
        is_refused = asyncio.Event()

        def on_reply(reply: Msg | BusError) -> None:
            if isinstance(reply, BusError) or is_no_responders(reply):
                is_refused.set()

        inbox = self._bus.reply_inbox(on_reply)
        try:
            self._bus.publish(callback.callback_subject, payload, reply=inbox.subject)
            await self._bus.flush()
            if not await happens(is_refused, _REFUSAL_S):
                return
        finally:
            inbox.close()
        raise NoResponders(f"nobody listens on {callback.callback_subject}")

    def _try_again(self, delivery: Delivery, callback: JobCallback, error: Exception) -> None:
        if delivery.deliveries >= _MAX_DELIVERIES:
            log.error(
                "the result of job %s could not be delivered in %d tries: %s",
                callback.job_id,
                delivery.deliveries,
                error,
                extra={"action": "callback_given_up", "job_id": callback.job_id},
            )
            delivery.term("given up")
            return
        delay_s = min(_LAST_RETRY_S, _FIRST_RETRY_S * 2.0 ** (delivery.deliveries - 1))
        log.info(
            "the result of job %s is delivered again in %.0f s: %s",
            callback.job_id,
            delay_s,
            error,
            extra={"action": "callback_retry", "job_id": callback.job_id},
        )
        delivery.nak(delay_s)
