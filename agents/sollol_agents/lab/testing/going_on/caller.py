"""The caller of a played world: the product's own stream, and what is handed out of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final, Protocol, cast

import msgspec

from sollol_bus.errors import ConnectionLost, DeadlineExceeded, NotConnected, SollolError
from sollol_bus.sdk.resume.resuming import Resuming
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.streaming import PathBroken, ReplyStream
from sollol_schemas import subjects

DEADLINE_S: Final = 60.0
WHO: Final = "who"
"""The header of a played message that names its attempt."""
_BODY: Final = b'{"model":"m","prompt":"p"}'


class Surroundings(Protocol):
    """The world, as its caller meets it."""

    now: float

    def send(self, resend: int, inbox: str, payload: bytes, headers: dict[str, str]) -> None:
        """A sending leaves to one dispatcher that lives, if any does."""

    def supersede(self, resend: int) -> None:
        """Whatever was sent up to this one is wanted no more."""

    def messages_of(self, attempt: str) -> int | None:
        """How many messages an attempt made before the last one; 0: it runs; None: nobody knows it."""


class PlayedCaller:
    """The caller's side: the product's own stream, and what was handed out of it."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._listening: dict[str, Callable[[Msg], None]] = {}
        self._inboxes = 0
        self.is_connected = True
        self.handed_out = ""
        self.speakers: set[str] = set()
        """Attempts of which something was handed out since the last sending."""
        self.ends_told = 0
        """How often it was told that its answer is whole."""
        self.resends = 0
        self.is_sent = False
        """Whether the last sending left."""
        self.ended: SollolError | str = ""
        """How it ended: "whole", or an error."""
        self._due_at: float | None = None
        """When it is sent again, where that was put off."""
        self._answer = Resuming(subjects.GENERATE, "", _BODY, limit_bytes=1 << 20)
        self.stream = ReplyStream(cast("Bus", self), breaks_on_disconnect=False)

    # -- the bus, as far as a stream needs it -----------------------------------------------------------------

    nats = None

    def new_inbox(self) -> str:
        """A fresh one."""
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"

    def subscribe(self, inbox: str, callback: Callable[[Msg], None]) -> SimpleNamespace:
        """Listens."""
        self._listening[inbox] = callback
        forget = lambda: self._listening.pop(inbox, None)  # noqa: E731
        return SimpleNamespace(unsubscribe=forget, unsubscribe_soon=forget)

    def on_refused(self, _: object) -> Callable[[], None]:
        """Nothing is refused here."""
        return lambda: None

    def forget_callbacks(self, *_: object) -> None:
        """None were given."""

    def publish(self, _: str, payload: bytes, *, reply: str, headers: dict[str, str] | None) -> None:
        """The request leaves to one dispatcher that lives, if any does."""
        if not self.is_connected:
            raise NotConnected("down")
        self._world.send(self.resends, reply, payload, headers or {})

    @property
    def inboxes(self) -> set[str]:
        """Where it listens."""
        return set(self._listening)

    def hear(self, inbox: str, data: bytes, reply: str, headers: dict[str, str]) -> None:
        """A message reaches its connection; nobody may listen there any more."""
        listen = self._listening.get(inbox)
        if listen is not None and self.is_connected:
            listen(Msg(cast("Any", None), subject=inbox, reply=reply, data=data, headers=headers))
            self.pump()

    # -- the caller ---------------------------------------------------------------------------------------

    def send(self) -> None:
        """Sends the request, with what was said so far behind it."""
        self.speakers = set()
        self._due_at = None
        self.stream.reopen()
        with suppress(NotConnected):  # the reconnect sends it
            self.stream.send("generate", self._answer.payload, self._answer.headers)
            self.is_sent = True

    def pump(self) -> None:
        """Hands out what has come, and judges a break."""
        while not self.ended:
            for msg in self.stream.take_ready():
                self._hand_out(msg)
            if not self.stream.has_ended or self._due_at is not None:
                return
            try:
                self.stream.__anext__().send(None)  # it ends without a wait
            except StopAsyncIteration:
                self.ended = "whole"
            except SollolError as error:
                self._judge(error)

    def _hand_out(self, msg: Msg) -> None:
        self.speakers.add((msg.headers or {})[WHO])
        out = self._answer.hand_out(msg)
        if out is not None:
            told = msgspec.json.decode(out.data)
            self.handed_out += told["response"]
            self.ends_told += told["done"]

    def _judge(self, error: SollolError) -> None:
        """Goes on, or gives up."""
        if not self.stream.has_begun and not self._answer.is_mending:
            self.ended = error
            return
        now = self._world.now
        try:
            step = self._answer.broke(error, self.stream, now=now, left_s=DEADLINE_S - now)
        except SollolError as final:
            self.ended = final
            return
        if step is None:
            self.ended = "whole"
            return
        self.is_sent = False
        self.resends += 1
        self._world.supersede(self.resends - 1)
        self._due_at = now + step.after_s
        self.send_if_due()

    def send_if_due(self) -> None:
        """Sends what was put off."""
        if self._due_at is not None and self._world.now >= self._due_at and not self.ended:
            self.send()

    def again(self) -> None:
        """Nothing has come, and its dispatcher is gone or has lost it."""
        if not self.ended and self.is_connected and not self.stream.has_begun and self._due_at is None:
            self._world.supersede(self.resends)
            self.resends += 1
            self.send()

    @property
    def resumed(self) -> int:
        """How often something of the rest came."""
        return len(self._answer.mended)

    @property
    def not_resumed(self) -> str:
        """Why an answer that had begun ended with an error; empty: it did not, or says nothing of it."""
        return "" if isinstance(self.ended, str) else str(self.ended.details.get("not_resumed", ""))

    def asks(self) -> None:
        """Nothing comes: whoever it believes to make its answer is asked, and says how many messages there were."""
        self.send_if_due()
        if self.ended or not self.is_connected or self._due_at is not None:
            return
        if not self.stream.has_begun:
            self.again()
            return
        first = self.stream.first
        who = (first.headers or {}).get(WHO) if first is not None else None
        messages = self._world.messages_of(who or "")
        if messages == 0:
            return
        if messages is not None:
            self.stream.conclude(messages)
        else:
            self.stream.fail(ConnectionLost("the node is gone"))
        self.pump()

    def lose_connection(self) -> None:
        """Its own connection breaks."""
        self.is_connected = False
        if self.stream.has_begun and not self.ended:
            self.stream.fail(PathBroken("broke"))
            self.pump()

    def reconnect(self) -> None:
        """And is back: what was put off is sent, and what had not begun is sent again."""
        self.is_connected = True
        if not self.is_sent and self._due_at is None and not self.ended:
            self.send()
        else:
            self.again()

    def give_up_at_deadline(self) -> None:
        """Its own clock ends it, whatever the others do."""
        if not self.ended and self._world.now >= DEADLINE_S:
            self._due_at = None
            self.stream.fail(DeadlineExceeded("too late"))
            self.pump()
