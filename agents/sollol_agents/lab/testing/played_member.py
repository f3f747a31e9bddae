"""How a small node that keeps the protocol of nodes joins, tells of itself, and leaves."""

# ruff: noqa: ANN401 fields of messages are passed on by name

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

import msgspec

from sollol_bus.errors import BusError, NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode, error_headers
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorBody, ErrorCode

MODEL: Final = "countdown:latest"
_LOAD_EVERY_S: Final = 0.05
Json = dict[str, Any]


class TakenError(Exception):
    """Another process has the id."""


class PlayedMember:
    """A node without attempts.

    Args:
        bus: Its connection.
    """

    node_id = "double"
    slots = 2
    beat_s = 0.1
    claim_s = 0.3
    claim_retry_s = 0.1
    load_every_s = _LOAD_EVERY_S
    models: tuple[Json, ...] = (
        {"name": MODEL, "capabilities": ["completion"], "fingerprint": "played:countdown"},
        {"name": "e", "capabilities": ["embedding"]},
    )

    def __init__(self, bus: Bus, instance: str = "i1") -> None:
        self.bus = bus
        self.instance = instance
        self.revision = 0
        self.seq = 0
        self.is_draining = self.has_left = False
        self.weight = 1.0
        self.labels: dict[str, str] = {}
        self.price: dict[str, Any] = {}
        self.running: dict[str, Any] = {}
        self.group = asyncio.TaskGroup()
        self.is_back = asyncio.Event()
        self._claim_now = asyncio.Event()
        self._load_at = 0.0
        self._load_planned = False

    # -- its id ---------------------------------------------------------------------------------------------

    async def claim(self, *, is_starting: bool = False) -> None:
        """Claims its id.

        Raises:
            TakenError: Another process has it.
        """
        asked = {"claim": {"node_id": self.node_id, "instance": self.instance, "host": "here"}}
        try:
            told = await self.ask("claim", asked | ({"is_starting": True} if is_starting else {}))
        except BusError:
            return
        if told.get("owner"):
            raise TakenError
        self.revision = told.get("revision") or self.revision

    async def keep_claim(self) -> None:
        """Claims it again and again."""
        while not self.has_left:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.claim_s if self.revision else self.claim_retry_s):
                    await self._claim_now.wait()
            self._claim_now.clear()
            if not self.has_left:
                await self.claim()

    def on_reconnect(self) -> None:
        """The connection is there again."""
        self.is_back.set()
        self.claim_soon()

    def claim_soon(self) -> None:
        """Makes sure of its claim."""
        self._claim_now.set()

    # -- what it tells --------------------------------------------------------------------------------------

    def tell_all(self, **more: Any) -> None:
        """One heartbeat."""
        engine = {"kind": "other", "url": "fake://"}
        standing = {"weight": self.weight, "labels": self.labels, "price": self.price}
        fields = {"revision": self.revision, "engine": engine, "installed": self.models} | standing
        self.tell("telemetry", {"type": "node.telemetry.v1"} | fields | more)

    def load_changed(self) -> None:
        """Tells its load, now or soon."""
        if self._load_planned:
            return
        self._load_planned = True
        left_s = self._load_at + self.load_every_s - time.monotonic()
        asyncio.get_running_loop().call_later(max(0.0, left_s), self._load_due)

    def _load_due(self) -> None:
        self._load_planned, self._load_at = False, time.monotonic()
        if not self.has_left:
            self.tell_load()

    def tell_load(self, **more: Any) -> None:
        """One change of load."""
        self.tell("load", {"type": "node.load.v1"} | more)

    def tell(self, subject: str, fields: Json) -> None:
        """What both have in common."""
        self.seq += 1
        running = [{"attempt_id": one, "model": MODEL} for one in self.running]
        own = {"node_id": self.node_id, "instance": self.instance, "seq": self.seq, "slots": self.slots}
        standing = {"in_flight": running, "is_draining": self.is_draining}
        self.publish(f"{subjects.V1}.{subject}.{self.node_id}", encode(own | standing | fields))

    def publish(self, subject: str, data: bytes, **more: Any) -> None:
        """Says something, or loses it while there is no connection."""
        with contextlib.suppress(NotConnected):
            self.bus.publish(subject, data, **more)

    async def ask(
        self, subject: str, question: Json, headers: dict[str, str] | None = None, within_s: float = 5.0
    ) -> Json:
        """What dispatchers answer."""
        whole = f"{subjects.V1}.{subject}.{self.node_id}"
        msg = await self.bus.request(whole, encode(question), headers=headers, timeout_s=within_s)
        return dict(msgspec.json.decode(msg.data))

    # -- what it is asked -----------------------------------------------------------------------------------

    def drain(self, *, is_draining: bool) -> None:
        """Takes no new work, or takes it again."""
        self.is_draining = is_draining
        self.load_changed()

    def set(self, asked: Json) -> None:
        """Takes over its weight, labels and price."""
        self.weight, self.price = asked.get("weight", self.weight), asked.get("price", self.price)
        self.labels = {name: value for name, value in (self.labels | asked.get("labels", {})).items() if value}
        self.tell_all()

    def refuse_request(self, msg: Msg, code: ErrorCode) -> None:
        """Says that it does not know this, or cannot do it."""
        error = ErrorBody(code=code, message="no")
        self.bus.publish(msg.reply, encode(error), headers=error_headers(error))

    def refuse_operation(self, msg: Msg) -> None:
        """Says so to whoever takes many messages."""
        self.refuse_request(msg, ErrorCode.FORBIDDEN)
        self.bus.publish(msg.reply, b"")
