"""What dispatchers keep for nodes, which store nothing themselves.

Whoever may publish where JetStream stores names the subject on which the server acknowledges it, and so could speak
anywhere.
Outcomes are passed on as they came, and the server's acknowledgement goes to the node itself: what is acked is stored.
Most are made by the dispatcher of the attempt from its report; here are those whose dispatcher did not.
A claim is a compare-and-set on the key `node.<id>`; the revision travels in telemetry, and the scorer follows the
highest, so of two processes that believe to own an id only the later one gets work. The id of a process that died is
free at once, because a claim asks whether the one before still answers.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from sollol_agents.dispatcher.node_outcomes import publish_outcome
from sollol_bus.errors import BusError, DecodeFailed, NoResponders, RequestTimedOut
from sollol_bus.jetstream.api import JetStreamRefused
from sollol_bus.jetstream.buckets import Bucket, Entry
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decoded, encode
from sollol_bus.transport.subscription import Subscription
from sollol_schemas import stores, subjects
from sollol_schemas.control import ClaimReply, ClaimRequest, ControlPing, ControlReply
from sollol_schemas.events import ReportedBy
from sollol_schemas.headers import MSG_ID
from sollol_schemas.inboxes import is_node_inbox
from sollol_schemas.stores import NodeClaim
from sollol_schemas.units import BusId

log = logging.getLogger(__name__)

_PROBE_S: Final = 1.0
_GATHER_S: Final = 0.3
_CLAIMS_MAX: Final = 256
_PING: Final = encode(ControlPing())


class _Decided(msgspec.Struct):
    request_id: BusId
    attempt_id: BusId
    node_id: BusId


class _Reported(msgspec.Struct):
    """What of an outcome tells whose it is."""

    decision: _Decided
    reported_by: ReportedBy = ReportedBy.NODE


class Keeping(Part):
    """Keeps outcomes and claims for nodes, as long as the connection lasts: those that drain have last words too.

    Args:
        bus: The dispatcher's connection.
        spawn: Runs a coroutine as a task of the dispatcher.
    """

    def __init__(self, bus: Bus, spawn: Spawn) -> None:
        self._bus = bus
        self._spawn = spawn
        self._claims = Bucket(bus, stores.NODES_BUCKET)
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Takes what nodes want kept."""
        for subject, handler in ((subjects.NODE_OUTCOME, self._on_outcome), (subjects.NODE_CLAIM, self._on_claim)):
            self._subscriptions += self._bus.serve(subject.all, handler, queue=subjects.DISPATCHERS)

    async def close(self) -> None:
        """Takes no more; a node that was not answered asks again."""
        for subscription in self._subscriptions:
            await subscription.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- outcomes -----------------------------------------------------------------------------------------

    def _on_outcome(self, msg: Msg) -> None:
        node_id = subjects.last_token(msg.subject)
        told = decoded(msg, _Reported)
        if told is None:
            return
        is_own = told.decision.node_id == node_id and told.reported_by is ReportedBy.NODE
        if not is_own or not is_node_inbox(msg.reply, node_id):
            extra = {"action": "wrong_subject", "node_id": node_id}
            log.warning("ignored an outcome of %s that speaks for another", node_id, extra=extra)
            return
        publish_outcome(self._bus, node_id, (msg.headers or {}).get(MSG_ID, ""), msg.data, msg.reply)
        self._bus.endpoints.over(msg.reply)

    # -- claims -------------------------------------------------------------------------------------------

    def _on_claim(self, msg: Msg) -> None:
        node_id = subjects.last_token(msg.subject)
        asked = decoded(msg, ClaimRequest)
        if asked is None:
            return
        if asked.claim.node_id != node_id or not is_node_inbox(msg.reply, node_id):
            extra = {"action": "wrong_subject", "node_id": node_id}
            log.warning("ignored a claim of %s that speaks for another", node_id, extra=extra)
            return
        if len(self._tasks) >= _CLAIMS_MAX:
            return  # it asks again
        task = self._spawn(self._keep_claim(msg, asked), name=f"claim of {node_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_claim(self, msg: Msg, asked: ClaimRequest) -> None:
        try:
            reply = await self._claimed(asked)
        except (BusError, JetStreamRefused) as error:
            log.debug("claim of %s: %s", asked.claim.node_id, error)
            reply = ClaimReply()
        if self._bus.is_connected:
            self._bus.respond(msg, reply)

    async def _claimed(self, asked: ClaimRequest) -> ClaimReply:
        if asked.is_starting:
            other = await self._listener(asked.claim.node_id)
            if other is not None:
                return ClaimReply(owner=other)
        while (reply := await self._once(asked.claim)) is None:
            pass
        return reply

    async def _once(self, owner: NodeClaim) -> ClaimReply | None:
        """One look and, where needed, one write; None when somebody else wrote in between."""
        key = f"node.{owner.node_id}"
        entry = await self._claims.get(key)
        present = self._claim_in(entry)
        if present == owner:
            return ClaimReply(revision=entry.revision)
        if present is not None and present.instance != owner.instance and await self._answers(present):
            return ClaimReply(owner=present)
        revision = await self._claims.update(key, encode(owner), entry.revision)
        return None if revision is None else ClaimReply(revision=revision)

    async def _listener(self, node_id: str) -> NodeClaim | None:
        """The process that answers under an id, if there is one."""
        try:
            reply = await self._bus.request(subjects.NODE_CONTROL.of(node_id), _PING, timeout_s=_PROBE_S)
        except NoResponders:
            return None
        except RequestTimedOut:
            extra = {"action": "node_taken_over", "node_id": node_id}
            log.warning("another process listens as %s but does not answer; taken over", node_id, extra=extra)
            return None
        return _told_in(reply)

    async def _answers(self, owner: NodeClaim) -> bool:
        """Whether that instance answers on the node's control subject; others may answer there too."""
        seen: set[str] = set()
        inbox = self._bus.reply_inbox(lambda reply: seen.add(_told_in(reply).instance))
        try:
            self._bus.publish(subjects.NODE_CONTROL.of(owner.node_id), _PING, reply=inbox.subject)
            await asyncio.sleep(_GATHER_S)
        finally:
            inbox.close()
        return owner.instance in seen

    def _claim_in(self, entry: Entry) -> NodeClaim | None:
        try:
            return entry.decode(NodeClaim)
        except DecodeFailed as error:
            self._claims.ignored(entry, error)
            return None  # the claim replaces it


def _told_in(reply: Msg | BusError) -> NodeClaim:
    """Who answered, as far as it told."""
    told = None if isinstance(reply, BusError) else decoded(reply, ControlReply)
    if told is None:
        return NodeClaim(node_id="unknown", instance="unknown", host="")
    return NodeClaim(node_id=told.node_id, instance=told.instance, host=told.host)
