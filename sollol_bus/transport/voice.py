"""Whose words a stream of replies is made of, and how far they have come. Pure.

Safety: one inbox may be known to more than one attempt: a process that was stopped between its last look at the clock
and its first word says that word whenever it wakes. So the first who speaks is the one who is heard, by the reply
subjects of its messages, and nobody else. Where their last token is a number it counts the messages from 1: a message
that was lost is noticed before the next one is handed out, and one that comes twice is heard once.
"""

from __future__ import annotations

from enum import Enum


class Heard(Enum):
    """What a message is to the stream."""

    NEXT = "next"  # the word that was waited for
    AGAIN = "again"  # it was heard before
    GAP = "gap"  # something before it was lost
    OTHER = "other"  # somebody else says it


class Voice:
    """The one who is heard on an inbox."""

    __slots__ = ("_prefix", "is_counted")

    def __init__(self) -> None:
        self._prefix = ""
        self.is_counted = False
        """Whether its messages are numbered, so that nothing is handed out behind a gap."""

    def hears(self, reply: str, messages: int, *, is_end: bool) -> Heard:
        """Judges one message.

        Args:
            reply: Its reply subject; without one nothing is known of it, and it is heard.
            messages: How many came before it.
            is_end: Whether it ends the stream: then it has no number, and says itself how many there are.
        """
        if self.is_counted and reply == f"{self._prefix}{messages + 1}":
            return Heard.NEXT
        if not reply:
            return Heard.NEXT
        if not self._prefix:
            return self._begins(reply, is_end=is_end)
        if not reply.startswith(self._prefix):
            return Heard.OTHER
        if is_end or not self.is_counted:
            return Heard.NEXT
        return self._counts(reply[len(self._prefix) :], messages)

    def _begins(self, reply: str, *, is_end: bool) -> Heard:
        stem, _, last = reply.rpartition(".")
        self.is_counted = not is_end and last.isascii() and last.isdigit()
        self._prefix = f"{stem}." if self.is_counted or is_end else reply
        return Heard.GAP if self.is_counted and int(last) > 1 else Heard.NEXT

    def _counts(self, last: str, messages: int) -> Heard:
        if not (last.isascii() and last.isdigit()):
            return Heard.OTHER
        return Heard.AGAIN if int(last) <= messages else Heard.GAP
