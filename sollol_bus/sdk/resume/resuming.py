"""What a call keeps of its answer, what it hands out, and with what it is sent again when it breaks off.

Everything that is handed out goes through here, one function for each stretch of an answer: as it came while the first
attempt speaks, by whole events where it is a stream of them, told anew where it is the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from sollol_bus.errors import DecodeFailed, SollolError
from sollol_bus.sdk.resume.figures import Begun, merged
from sollol_bus.sdk.resume.interface import Said
from sollol_bus.sdk.resume.policy import Again, Broken, GiveUp, judged, reason_of, refused
from sollol_bus.sdk.resume.transcript import Transcript
from sollol_bus.transport.joined import BETWEEN_OBJECTS, objects_in
from sollol_bus.transport.messages import Msg, decode
from sollol_bus.transport.streaming import BrokenForGood, PathBroken, ReplyStream
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom, packed
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode

_KINDS: Final = {
    subjects.GENERATE: RequestKind.GENERATE,
    subjects.CHAT: RequestKind.CHAT,
    subjects.PASSTHROUGH: RequestKind.PASSTHROUGH,
}
_EVENTS: Final = "text/event-stream"
_EVENT_BYTES: Final = 1 << 20
"""An event that grows larger is not waited for."""
_NOT_STARTED: Final = ContinueFrom(resumed=0)
_WHY: Final = "not_resumed"
_OWN_END: Final = frozenset({ErrorCode.CANCELLED, ErrorCode.DEADLINE_EXCEEDED})


class Resuming:
    """One call's answer.

    Args:
        subject: Where the request goes.
        path: The engine's path of a passthrough request, in origin form.
        body: The engine's body.
        limit_bytes: So much of the answer's text is kept; 0: it does not go on.
    """

    def __init__(self, subject: str, path: str, body: bytes, *, limit_bytes: int) -> None:
        kind = _KINDS.get(subject)
        self._between = b"" if kind is RequestKind.PASSTHROUGH else BETWEEN_OBJECTS
        self.is_on = kind is not None and limit_bytes > 0
        """Whether it is to go on when it breaks off."""
        self._transcript = Transcript(
            kind or RequestKind.EMBED, path, body, limit_bytes=limit_bytes if self.is_on else 0
        )
        self._body = body
        self._sent = _NOT_STARTED
        self._broken: SollolError | None = None
        self._broken_mono_s = 0.0
        self._begun: Begun | None = None
        self._tail = b""
        self._way: Callable[[Resuming, Msg], Msg | None] = Resuming._begin  # bound, it would be a circle with this
        self.firsts: list[Msg] = []
        """The first message of each attempt that broke off."""
        self.mended: list[ErrorCode] = []
        """What broke the answer off, each time that something of its rest came."""
        self.payload = body
        """With what it is sent next."""
        self.headers = {h.RESUME: "1"} if self.is_on and self._transcript.may_be_moved else {}
        """What goes with that."""

    @property
    def is_mending(self) -> bool:
        """Whether the answer broke off, and nothing of its rest has come."""
        return self._broken is not None

    @property
    def is_held(self) -> bool:
        """Whether a piece waits here for the rest of it."""
        return bool(self._tail)

    def hand_out(self, msg: Msg) -> Msg | None:
        """What the user gets of a message that came; None: nothing yet."""
        return self._way(self, msg)

    def last(self, msg: Msg | None, now: float) -> Msg | None:
        """The last message of the whole answer.

        Args:
            msg: The last attempt's; None: it was lost, and what came is whole.
            now: Monotonic.
        """
        if msg is None or self._begun is None:
            return msg
        return merged(msg, self._begun, resumed=len(self.mended), messages=self._transcript.messages, now=now)

    def tail(self) -> bytes:
        """What was held back, at the end of the answer: an event without its end."""
        tail, self._tail = self._tail, b""
        return tail

    # -- the ways ---------------------------------------------------------------------------------------------

    def _begin(self, msg: Msg) -> Msg | None:
        """The first message of a sending: how it and the others are handed out."""
        told, transcript = (msg.headers or {}).get(h.CONTENT_TYPE, ""), self._transcript
        broken = self._broken
        is_again = broken is not None
        if broken is not None:
            self._broken = None
            self.mended.append(broken.body.code)
        if is_again and not self._sent.is_blank:
            self._way = Resuming._tell_rest
        elif is_again and transcript.messages:
            self._way = Resuming._tell_anew
        else:
            transcript.content_type = told
            self._way = Resuming._by_events if _EVENTS in told else Resuming._as_it_is
        return self._way(self, msg)

    def _as_it_is(self, msg: Msg) -> Msg | None:
        self._transcript.add(msg.data)
        return msg

    def _by_events(self, msg: Msg) -> Msg | None:
        data = self._whole_events(msg.data)
        if not data:
            return None
        self._transcript.add(data)
        msg.data = data
        return msg

    def _tell_rest(self, msg: Msg) -> Msg | None:
        telling = self._transcript.telling
        told = [telling.feed(one) for one in objects_in(msg.data)]
        return self._told(msg, self._between.join(filter(None, told)))

    def _tell_anew(self, msg: Msg) -> Msg | None:
        is_events = _EVENTS in self._transcript.content_type
        data = self._whole_events(msg.data) if is_events else msg.data
        telling = self._transcript.telling
        told = [telling.again(one) for one in (objects_in(data) if self._between else [data]) if one]
        return self._told(msg, self._between.join(filter(None, told)))

    def _told(self, msg: Msg, data: bytes) -> Msg | None:
        if not data:
            return None
        self._transcript.add(data)
        msg.data = data
        return msg

    def _whole_events(self, data: bytes) -> bytes:
        """What came, up to the end of its last whole event."""
        if not self._tail and data.endswith(b"\n\n"):
            return data
        data = self._tail + data
        end = max(_after(data, b"\n\n"), _after(data, b"\r\n\r\n"))
        self._tail = data[end:]
        if len(self._tail) > _EVENT_BYTES:
            self._transcript.give_up(f"an event of it has more than {_EVENT_BYTES} bytes")
            end, self._tail = len(data), b""
        return data[:end]

    # -- breaks -----------------------------------------------------------------------------------------------

    def broke(self, error: SollolError, stream: ReplyStream, *, now: float, left_s: float) -> Again | None:
        """What becomes of an answer that ended with an error.

        Args:
            error: The error.
            stream: Where it came, before it is sent again.
            now: Monotonic.
            left_s: Seconds until the deadline.

        Returns:
            With what it is sent again; None: its end had been handed out, so that it is whole.

        Raises:
            SollolError: It does not go on: the error, or the one that broke it off first, which then says why not.
        """
        if not self.is_on or error.body.code in _OWN_END:
            raise error
        step: Again | GiveUp
        if isinstance(error, BrokenForGood):
            step = GiveUp(error.message)
        elif self._broken is not None:
            step = refused(error.body, self._sent, now - self._broken_mono_s, left_s)
        else:
            said = self._transcript.said()
            if said.is_over:
                return None
            step = judged(self._facts(error, said, stream, left_s), self._sent)
        original = self._broken or error
        if isinstance(step, GiveUp):
            raise _not_resumed(original, step.reason) if step.reason else error
        if self._broken is None:
            self._break_off(error, stream, now)
        self._sent = step.continued
        self._address()
        return step

    def original(self, error: SollolError) -> SollolError:
        """The error that a user gets when a request that was to go on ends with one."""
        broken = self._broken
        if broken is None or error.body.code in _OWN_END or _WHY in error.details:
            return error
        return _not_resumed(broken, reason_of(error.body))

    def _break_off(self, error: SollolError, stream: ReplyStream, now: float) -> None:
        if self._begun is None and stream.first is not None:
            made = decision_in(stream.first)
            queue_s = made.queue_s if made is not None else 0.0
            ttft_s = max(0.0, stream.first_mono_s - stream.sent_mono_s - queue_s)
            self._begun = Begun(stream.first_mono_s - ttft_s, ttft_s)
        if stream.first is not None:
            self.firsts.append(stream.first)
        if self._transcript.messages:
            self._transcript.telling.break_off()
        self._tail = b""
        self._way = Resuming._begin
        self._broken, self._broken_mono_s = error, now

    def _address(self) -> None:
        """What the next sending carries; nothing where nothing was said and the fleet does not know of going on."""
        sent = self._sent
        self.headers = {name: text for name, text in self.headers.items() if name != h.CONTINUE}
        self.payload = self._body
        if not sent.is_blank or sent.fingerprint:
            self.payload, headers = packed(self._body, sent)
            self.headers |= headers

    def _facts(self, error: SollolError, said: Said, stream: ReplyStream, left_s: float) -> Broken:
        made = decision_in(stream.first)
        return Broken(
            error=error.body,
            said=said,
            is_own=isinstance(error, PathBroken),
            node_id=made.node_id if made is not None else "",
            fingerprint=self._sent.fingerprint or (made.fingerprint if made is not None else ""),
            model=self._sent.model or (made.model if made is not None and made.group else ""),
            left_s=left_s,
        )


def _after(data: bytes, mark: bytes) -> int:
    """Where the last such mark ends; 0 where there is none."""
    at = data.rfind(mark)
    return at + len(mark) if at >= 0 else 0


def decision_in(msg: Msg | None) -> Decision | None:
    """The decision in a message's headers, if it carries one that can be read."""
    text = (msg.headers or {}).get(h.DECISION) if msg is not None else None
    try:
        return decode(text.encode(), Decision) if text else None
    except DecodeFailed:
        return None


def _not_resumed(error: SollolError, reason: str) -> SollolError:
    """The error, with why its answer does not go on."""
    details = error.details | {_WHY: reason}
    return type(error)(error.message, body=msgspec.structs.replace(error.body, details=details))
