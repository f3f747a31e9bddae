"""One request from the caller's side, watched until its answer is complete.

A plain NATS caller publishes and waits. `Call` does more: it knows which dispatcher took the request and probes it
every 500 ms, so that a request that has not begun is sent again, under the same id, when that dispatcher dies, no
longer holds it, or the connection breaks; it asks about an answer that has begun and is silent for seconds, so that
one whose end was lost on the way ends; and it cancels when its user leaves. Every sending has inboxes of its own:
whatever an earlier attempt, or its dispatcher, might still say goes nowhere. An answer that breaks off in its middle
goes on: the request is sent again with what was said so far, and its user sees a pause. Dispatchers that do not confirm
a request may only be overloaded: each further sending waits twice as long for it, so that callers do not add to the
load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from sollol_bus.errors import ActorStopped, NoResponders, SollolError
from sollol_bus.sdk.pacing import gone_within_s
from sollol_bus.sdk.passing import Taker
from sollol_bus.sdk.resume.resuming import decision_in
from sollol_bus.sdk.sending import RECONNECT_S, Sending, cancelled
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.streaming import PathBroken
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode

log = logging.getLogger(__name__)

_RETRY_S = 0.2


class Call(Sending):
    """A request in flight; use as an async context manager and iterate over its chunks.

    Args:
        bus: The caller's connection.
        subject: `subjects.GENERATE`, `CHAT`, `EMBED` or `PASSTHROUGH`.
        body: The engine's body, JSON.
        headers: Routing and other headers; copied.
        deadline_s: When the dispatcher gives up; the call itself waits a little longer.
        absence_s: How long to wait for a dispatcher when none is on the bus; one that had the request and went is
            waited for longer, as it may be restarting.
        max_unread_bytes: How much of the answer may wait for a slow reader before it is cut.
        resends: How often the request was sent before, under this id; its attempts are numbered behind those.
        waited_s: Its age.
        secret: Of what was sent before under this id, in whose place it is put.
        max_resends: So often it is sent at most after the first time, earlier sendings under this id included.
        rng: Spreads the resends of many callers.
        resume_bytes: So much of the answer's text is kept so that it goes on when it breaks off; 0: it does not go on.
        is_joined: Whether chunks that come close together are one message: native objects on a line each, other bytes
            as they follow each other. For whoever reads the answer when it is whole.
        on_news: Called with what is told about it on the way: who took it, its place in the queue, and when its wait
            is over, its node. Quick requests have no news.
    """

    _told_resumed = 0  # how often it had gone on when the iteration gave its last chunk
    last: Msg | None = None
    """The last, empty message, once it has come; of an answer that went on, with the figures of the whole."""

    @property
    def first(self) -> Msg | None:
        """The first message of all, which carries the decision; of an answer that went on, the first decision."""
        return next(iter(self._answer.firsts), self._stream.first)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Of every attempt that spoke, in order: one more each time that the answer goes on."""
        made = (decision_in(msg) for msg in (*self._answer.firsts, self._stream.first))
        return tuple(decision for decision in made if decision is not None)

    @property
    def mended(self) -> Sequence[ErrorCode]:
        """What broke the answer off, each time that it went on: the first chunk of a rest is one of the iteration."""
        return self._answer.mended

    @property
    def resumed(self) -> int:
        """How often the answer went on after a break."""
        return len(self._answer.mended)

    @property
    def is_complete(self) -> bool:
        """Whether the end has come, so that nothing follows the chunks that were taken."""
        return self._stream.is_complete and not self._answer.is_held

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_over:
            self.cancel()
        self._end()

    async def __aiter__(self) -> AsyncIterator[Msg]:
        """The chunks of the answer.

        Raises:
            SollolError: What ended the request; see `sollol_bus.errors`.
        """
        hand_out = self._answer.hand_out
        while True:
            try:
                async for msg in self._stream:
                    if (out := hand_out(msg)) is not None:
                        self._told_resumed = self.resumed
                        yield out
            except SollolError as error:
                try:
                    if await self._goes_on(error):
                        continue
                except SollolError:
                    self._is_over = True
                    raise
            if tail := self._answer.tail():
                yield Msg(self.bus.nats, data=tail)
            self.last = self._answer.last(self._stream.last, time.monotonic())
            self._is_over = True
            return

    def take_ready(self) -> list[Msg]:
        """The chunks that have arrived already, beside the one that the iteration gave last."""
        hand_out = self._answer.hand_out
        return [out for msg in self._stream.take_ready() if (out := hand_out(msg)) is not None]

    def pass_to(self, taker: Taker) -> None:
        """Gives chunks to `taker` the moment they come, while it has room and the iteration waits for the next one.

        All others come by the iteration, each behind what came before it. The first chunk of an answer, and of its rest
        when it went on after a break, always does: the first of which anything is handed out.
        """
        hand_out = self._answer.hand_out

        def take(msg: Msg) -> bool:
            if not taker.has_room or self._told_resumed != self.resumed:
                return False
            if (out := hand_out(msg)) is not None:
                taker.take(out.data)
            return True

        self._stream.take = take

    def leave(self, error: SollolError) -> None:
        """Cancels the request and ends the iteration with `error`; safe from callbacks, and twice."""
        if not self._is_over:
            self._left = error
            self.cancel()
            self._stream.fail(error)

    # -- breaks -------------------------------------------------------------------------------------------

    async def _goes_on(self, error: SollolError) -> bool:
        """Makes the iteration go on after an error, where it can; False: the answer is whole.

        Raises:
            SollolError: It cannot.
        """
        try:
            if self._stream.has_begun or (self._answer.is_on and isinstance(error, PathBroken)):
                return await self._mend(error)
            match error:
                case NoResponders():
                    await self._wait_for_dispatcher(error)
                case ActorStopped():
                    self._follow(error)
                case _ if self._answer.is_mending:
                    return await self._mend(error)
                case _:
                    raise error
        except SollolError as final:
            if self._left is not None or self.comes_again:
                raise
            told = self._answer.original(final)
            if told is final:
                raise
            raise told from final
        return True

    async def _mend(self, error: SollolError) -> bool:
        """Sends the request again with what was said so far; False: that is the whole answer.

        Raises:
            SollolError: It cannot go on, or its user left.
        """
        if self._left is not None or self.comes_again:
            raise error
        now = time.monotonic()
        step = self._answer.broke(error, self._stream, now=now, left_s=self.gives_up_mono_s - now)
        if step is None:
            return False
        self._is_sent = False
        if step.after_s:
            await asyncio.sleep(step.after_s)
        self._raise_if_left()
        log.info(
            "request %s goes on: %s",
            self.request_id,
            error.body.code,
            extra={"action": "request_resumed", "request_id": self.request_id},
        )
        self._stream.reopen()
        self._superseded = self.resends
        self.resends += 1
        self._resends_before += 1
        self._max_resends += 1
        self._expect_restart()
        self._send_soon()
        if not self._is_sent:
            self._watch_again_in(RECONNECT_S)
        return True

    def _raise_if_left(self) -> None:
        if self._left is not None:
            raise self._left
        if self._is_cancelled:
            raise cancelled()

    async def _wait_for_dispatcher(self, error: SollolError) -> None:
        """Nobody listens: dispatchers may be on their way back."""
        if time.monotonic() > self._absence_until:
            raise error
        await asyncio.sleep(_RETRY_S)
        if self._left is not None:
            raise self._left
        self._stream.reopen()
        self._send_soon()

    def _follow(self, error: ActorStopped) -> None:
        """Its dispatcher left, and nobody took it over: sends it to the next one that starts.

        Raises:
            ActorStopped: Its user left.
        """
        if self._left is not None or self.comes_again:
            raise error
        self._expect_restart(gone_within_s(error))
        self._stream.reopen()
        self._send_again("its dispatcher left")
