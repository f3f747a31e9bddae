"""The caller of a played world: the product's own stream, and what is handed out of it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, Protocol, cast

from sollol_bus.errors import ConnectionLost, DeadlineExceeded, NotConnected, SollolError
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import headers as h
from sollol_schemas.continuation import ContinueFrom, packed
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode

DEADLINE_S: Final = 60.0
RESUMES_MAX: Final = 8
RESENDS_MAX: Final = 12
WHO: Final = "who"
"""The header of a played message that names its attempt."""
_BODY: Final = b'{"model":"m"}'


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
        self.resends = self.resumed = 0
        self.excluded: tuple[str, ...] = ()
        self.ended: SollolError | str = ""
        """How it ended: "whole", or an error."""
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
        """Sends the request, with what was handed out behind it."""
        self.speakers = set()
        payload, headers = _BODY, dict[str, str]()
        if self.handed_out:
            continued = ContinueFrom(text=self.handed_out, excluded=self.excluded, resumed=max(1, self.resumed))
            payload, headers = packed(_BODY, continued)
        self.stream.reopen()
        try:
            self.stream.send("generate", payload, headers)
        except NotConnected:
            return  # the reconnect sends it

    def pump(self) -> None:
        """Hands out what has come, and judges a break."""
        while not self.ended:
            for msg in self.stream.take_ready():
                self.handed_out += msg.data.decode()
                self.speakers.add((msg.headers or {})[WHO])
            if not self.stream.has_ended:
                return
            try:
                self.stream.__anext__().send(None)  # it ends without a wait
            except StopAsyncIteration:
                self.ended = "whole"
            except SollolError as error:
                self.judge(error)

    def judge(self, error: SollolError) -> None:
        """Goes on, or gives up."""
        first = self.stream.first
        told = (first.headers or {}).get(h.DECISION) if first is not None else None
        if error.body.code is ErrorCode.NO_ELIGIBLE_NODE and self.excluded:
            self.excluded = ()
        elif self._world.now >= DEADLINE_S or self.resumed >= RESUMES_MAX:
            self.ended = error
            return
        elif told is not None and error.body.code is not ErrorCode.CONNECTION_LOST:
            self.excluded = (*self.excluded, decode(told.encode(), Decision).node_id)
        self.resumed += 1
        self.resends += 1
        self.send()

    def again(self) -> None:
        """Nothing has come, and its dispatcher is gone or has lost it."""
        if not self.ended and self.is_connected and not self.stream.has_begun and self.resends < RESENDS_MAX:
            superseded = self.resends
            self.resends += 1
            self._world.supersede(superseded)
            self.send()

    @property
    def has_tried_enough(self) -> bool:
        """Whether it has sent the request as often as it may."""
        return self.resumed >= RESUMES_MAX or self.resends >= RESENDS_MAX

    def asks(self) -> None:
        """Nothing comes: whoever it believes to make its answer is asked, and says how many messages there were."""
        if self.ended or not self.is_connected:
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

    def reconnect(self) -> None:
        """And is back: what had begun goes on, what had not is sent again."""
        self.is_connected = True
        if self.ended:
            return
        if self.stream.has_begun:
            self.stream.fail(ConnectionLost("broke"))
            self.pump()
        else:
            self.again()

    def give_up_at_deadline(self) -> None:
        """Its own clock ends it, whatever the others do."""
        if not self.ended and self._world.now >= DEADLINE_S:
            self.stream.fail(DeadlineExceeded("too late"))
            self.pump()
