"""Moves answers in their middle: has nodes stop those that the core names, and tells of it.

Safety: a cut carries the term, and a node heeds the latest one; whatever it does not stop goes on where it is, and a
caller whose answer is stopped goes on elsewhere. Liveness: a node that does not answer within two seconds is asked
nothing more about this attempt for a while. A successor knows how often a request was moved: its caller says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.fleet.nodes import Node
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_bus.transport.subscription import Subscription
from sollol_schemas import subjects
from sollol_schemas.continuation import Cut, CutReason
from sollol_schemas.control import ControlCut, HandOverReply, HandOverRequest
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.telemetry import NodeState

log = logging.getLogger(__name__)

_ANSWER_S: Final = 2.0
_SOON_S: Final = 0.02
"""Events that come close together are looked at once."""
_PAUSE: Final = 20.0
"""After a look, so many times as long nothing is looked at: decisions come first."""
PER_S: Final = 8.0
"""Cuts a second, over some seconds."""


class Undoing(Protocol):
    """Decides which answers to move."""

    def may_cut(self, now: float) -> bool:
        """Whether anything runs that could be moved; whoever asks this takes the cuts for which requests wait."""

    def cuts(self, now: float) -> list[Cut]:
        """What to cut now; each is named once."""

    def refused(self, attempt_id: str, now: float) -> None:
        """An attempt was not cut."""


class Office(Protocol):
    """What moving needs of the scorer."""

    @property
    def term(self) -> int:
        """Of office; 0 while it is out of it."""

    @property
    def undo(self) -> Undoing:
        """Decides, by the settings as they are now."""

    @property
    def fleet(self) -> Fleet:
        """The nodes."""


def places_for_answers(node: Node, fleet: Fleet) -> tuple[str, ...]:
    """The models of a node that another one in service has with the same fingerprint, by their names there."""
    others = [one for one in fleet.nodes.values() if one is not node and _is_in_service(one)]
    return tuple(
        told.name
        for name, told in node.installed.items()
        if told.fingerprint
        and any(name in one.installed and one.installed[name].fingerprint == told.fingerprint for one in others)
    )


def _is_in_service(node: Node) -> bool:
    return node.state is NodeState.UP and not node.is_draining and node.slots > 0


class Cuts:
    """Carries out what the core decides about running answers.

    Args:
        bus: The connection.
        office: Who decides, and in which term.
        spawn: Runs a coroutine as a task of the actor.
        clock: Monotonic seconds.
    """

    def __init__(self, bus: Bus, office: Office, spawn: Spawn, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._office = office
        self._spawn = spawn
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._made = dict.fromkeys(CutReason, 0)
        self._refused = 0

    def look_soon(self) -> None:
        """Something changed that may make a cut worth it, while anything runs."""
        if self._timer is None and self._office.term and self._office.undo.may_cut(now := self._clock()):
            delay_s = max(_SOON_S, self._not_before - now)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def open(self) -> tuple[Subscription, ...]:
        """Takes questions of nodes that take no new work; for the scorer in office."""
        return self._bus.serve(subjects.HAND_OVER.all, self._on_hand_over)

    def _on_hand_over(self, msg: Msg) -> None:
        try:
            asked = decode(msg.data, HandOverRequest)
        except DecodeFailed as error:
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
            return
        node = self._office.fleet.nodes.get(subjects.last_token(msg.subject))
        if node is None or node.instance != asked.instance:
            unknown = ErrorBody(code=ErrorCode.UNKNOWN_NODE, message="the scorer does not know this process")
            self._bus.respond_error(msg.reply, unknown)
        else:
            self._bus.respond(msg, HandOverReply(models=places_for_answers(node, self._office.fleet)))

    def figures(self) -> dict[str, int]:
        """What metrics show: answers moved, and moves that nodes refused."""
        return {
            "priority_cuts": self._made[CutReason.PRIORITY],
            "rebalance_cuts": self._made[CutReason.REBALANCE],
            "refused_cuts": self._refused,
        }

    def _look(self) -> None:
        self._timer = None
        term, now = self._office.term, self._clock()
        if not term or not self._bus.is_connected:
            return
        found = self._office.undo.cuts(now)
        ended = self._clock()
        self._not_before = ended + max(len(found) / PER_S, (ended - now) * _PAUSE)
        for cut in found:
            self._spawn(self._cut(cut, term), name=f"cut.{cut.attempt_id}")

    async def _cut(self, cut: Cut, term: int) -> None:
        why_not = await self._ask(cut, term)
        if why_not:
            self._keep(cut, why_not)
            return
        self._made[cut.reason] += 1
        extra = {"action": "cut", "request_id": cut.request_id, "node_id": cut.node_id}
        log.info("%s is moved off %s: %s", cut.attempt_id, cut.node_id, cut.text, extra=extra)
        if self._bus.is_connected:
            told = msgspec.structs.replace(cut, at=self._bus.clock.instant())
            self._bus.publish(subjects.CUT_EVENT.of(cut.node_id), encode(told))

    def _keep(self, cut: Cut, why_not: str) -> None:
        self._refused += 1
        self._office.undo.refused(cut.attempt_id, self._clock())
        extra = {"action": "cut_refused", "request_id": cut.request_id, "node_id": cut.node_id}
        log.info("%s is not moved: %s", cut.attempt_id, why_not, extra=extra)

    async def _ask(self, cut: Cut, term: int) -> str:
        """Why the node did not stop it; empty: it did."""
        asked = ControlCut(attempt_id=cut.attempt_id, term=term, reason=cut.text, cause=cut.reason)
        try:
            msg = await self._bus.request(subjects.NODE_CONTROL.of(cut.node_id), encode(asked), timeout_s=_ANSWER_S)
        except BusError as error:
            return str(error)
        refusal = error_of(msg)
        return refusal.message if refusal is not None else ""
