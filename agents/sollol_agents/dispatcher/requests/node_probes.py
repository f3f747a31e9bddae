"""Liveness of nodes with open attempts: one probe per node, however many attempts it has.

A 503 on a node's control subject means that its process is gone; silence means that it hangs or that the network
does. While the own connection is settling neither is believed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from sollol_bus.errors import BusError, NoResponders, NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas.control import ControlPing
from sollol_schemas.subjects import NODE_CONTROL

_PING = encode(ControlPing())
_CONFIRM_S = 0.02
"""A 503 is acted on after this pause, so that reports the node sent just before it died are taken first."""


class NodeProbes:
    """Probes every node that has open attempts, and says which are dead or silent.

    Args:
        bus: The connection to probe over.
        interval_s: Seconds between two probes of one node.
        silence_limit_s: Unanswered probes for so long make a node silent.
        on_dead: Called with the id of a node whose process is gone.
        on_silent: Called with the id of a node that does not answer, at every probe that goes unanswered.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        interval_s: float,
        silence_limit_s: float,
        on_dead: Callable[[str], None],
        on_silent: Callable[[str], None],
    ) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._interval_s = interval_s
        self._silence_limit_s = silence_limit_s
        self._on_dead = on_dead
        self._on_silent = on_silent
        self._open: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def watch(self, node_id: str) -> None:
        """One more attempt is open on this node."""
        self._open[node_id] = self._open.get(node_id, 0) + 1
        if node_id not in self._timers:
            self._heard[node_id] = time.monotonic()
            self._schedule(node_id)

    def unwatch(self, node_id: str) -> None:
        """One attempt on this node is over."""
        left = self._open.get(node_id, 0) - 1
        if left > 0:
            self._open[node_id] = left
        else:
            self._open.pop(node_id, None)
            self._heard.pop(node_id, None)
            timer = self._timers.pop(node_id, None)
            if timer is not None:
                timer.cancel()

    def heard(self, node_id: str) -> None:
        """A report of the node came: it lives."""
        if node_id in self._heard:
            self._heard[node_id] = time.monotonic()

    def is_silent(self, node_id: str) -> bool:
        """Whether a node with open attempts answers no probes, and reports nothing either."""
        return time.monotonic() - self._heard.get(node_id, math.inf) > self._silence_limit_s

    async def close(self) -> None:
        """Ends all probing."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._open.clear()
        self._heard.clear()

    def _schedule(self, node_id: str) -> None:
        self._timers[node_id] = self._loop.call_later(self._interval_s, self._probe, node_id)

    def _probe(self, node_id: str) -> None:
        self._schedule(node_id)
        if not self._bus.is_connected or self._bus.is_settling:
            self.heard(node_id)
            return
        if self.is_silent(node_id):
            self._on_silent(node_id)
        if node_id not in self._open:
            return
        try:
            self._bus.ask(
                NODE_CONTROL.of(node_id), _PING, lambda r: self._on_answer(node_id, r), timeout_s=self._silence_limit_s
            )
        except NotConnected:
            self.heard(node_id)

    def _on_answer(self, node_id: str, reply: Msg | BusError) -> None:
        if not isinstance(reply, BusError):
            self.heard(node_id)
        elif isinstance(reply, NoResponders) and node_id in self._open and not self._bus.is_settling:
            self._loop.call_later(_CONFIRM_S, self._report_dead, node_id)

    def _report_dead(self, node_id: str) -> None:
        if node_id in self._open and not self._bus.is_settling:  # a 503 may come before the news of its cause
            self._on_dead(node_id)
