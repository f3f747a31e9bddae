"""Delivery of results to where their submitters want them: a subject, or an address that the operator permitted.

A result that is to be delivered is stored first, so that a dispatcher's death loses none. A post is signed when a
key is set: `Sollol-Signature: t=<unix seconds>,v1=<hex>`, where the hex is HMAC-SHA256 over `<t>.<body>`. Redirects
are not followed, because they could lead to a host that nobody permitted. Deliveries may come twice.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from datetime import UTC, datetime

import httpx

from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.jobs.delays import Spawn
from sollol_agents.dispatcher.jobs.intake import is_permitted_url
from sollol_agents.dispatcher.jobs.persistence import persistently
from sollol_bus.connection import Bus
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream import publish_acked
from sollol_bus.messages import decode, encode
from sollol_bus.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.jobs import Job, JobCallback, JobResult

log = logging.getLogger(__name__)

SIGNATURE = "Sollol-Signature"
_WINDOW = 16
_TIMEOUT_S = 10.0
_ACK_WAIT_S = 30.0
_FIRST_RETRY_S = 2.0
_LAST_RETRY_S = 600.0
_MAX_DELIVERIES = 12
"""About an hour and a half of tries."""


class Callbacks:
    """Delivers results.

    Args:
        bus: The connection.
        config: Permitted hosts, and the key of the signature.
        spawn: Runs a coroutine as a task of the dispatcher.
    """

    def __init__(self, bus: Bus, config: DispatcherConfig, spawn: Spawn) -> None:
        self._bus = bus
        self._config = config
        self._spawn = spawn
        self._http: httpx.AsyncClient | None = None
        spec = ConsumerSpec(stream=subjects.CALLBACKS_STREAM, durable="callbacks", ack_wait_s=_ACK_WAIT_S)
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
            await publish_acked(self._bus, subjects.job_callback(result.job_id), payload, headers=dict(headers))

        await persistently(act, f"callback of job {result.job_id}")

    async def close(self) -> None:
        """Closes the connections to the hosts."""
        if self._http is not None:
            await self._http.aclose()

    def _on_order(self, delivery: Delivery) -> None:
        self._spawn(self._deliver(delivery), "callback")

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            callback = decode(delivery.data, JobCallback)
        except DecodeFailed as error:
            delivery.term(str(error))
            return
        try:
            if callback.callback_subject:
                self._bus.publish(callback.callback_subject, encode(callback.result))
            if callback.callback_url:
                await self._post(callback)
        except (httpx.HTTPError, httpx.InvalidURL, BusError) as error:
            self._try_again(delivery, callback, error)
        else:
            delivery.ack()

    async def _post(self, callback: JobCallback) -> None:
        if not is_permitted_url(callback.callback_url, self._config.job_callback_hosts):
            raise httpx.InvalidURL("the host is not permitted any more")
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False)
        body = encode(callback.result)
        headers = {"Content-Type": "application/json"}
        if self._config.job_callback_secret:
            headers[SIGNATURE] = signature(self._config.job_callback_secret, body, int(datetime.now(UTC).timestamp()))
        reply = await self._http.post(callback.callback_url, content=body, headers=headers)
        if not reply.is_success:
            raise httpx.HTTPStatusError(f"answered {reply.status_code}", request=reply.request, response=reply)

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
        log.info("the result of job %s is delivered again in %.0f s: %s", callback.job_id, delay_s, error)
        delivery.nak(delay_s)


def signature(secret: str, body: bytes, unix_s: int) -> str:
    """The value of the signature header."""
    mac = hmac.new(secret.encode(), f"{unix_s}.".encode() + body, hashlib.sha256)
    return f"t={unix_s},v1={mac.hexdigest()}"
