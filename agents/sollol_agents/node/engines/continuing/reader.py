"""Reads the rest of an answer as an engine's own parser would have: thoughts apart from text, and no half calls."""

from __future__ import annotations

from typing import NamedTuple

from sollol_agents.node.engines.continuing.marks import Marks
from sollol_agents.node.engines.continuing.refusing import not_continued


class Piece(NamedTuple):
    """Some of the rest."""

    text: str = ""
    thinking: str = ""


class RestReader:
    """Takes a raw completion piece by piece; what may be the beginning of a mark is held back until that is clear.

    Args:
        thought: The marks of the thought in which the completion begins; None: it begins in the text.
        calls: How calls of tools begin.
        trims: Whether all blanks after a thought are taken off, not only those that belong to the mark.
    """

    def __init__(self, thought: Marks | None = None, calls: tuple[str, ...] = (), *, trims: bool = False) -> None:
        self._thought = thought
        self._calls = calls
        self._trims = trims
        self._held = ""
        self._blanks: str | None = None
        """Blanks that may still come with the mark; None: the text has begun."""

    def feed(self, data: str) -> Piece:
        """What the next piece says.

        Raises:
            SollolError: `not_continued`: a call of a tool begins, which is not read here.
        """
        self._held += data
        thinking = self._in_thought()
        return Piece("" if self._thought is not None else self._in_text(), thinking)

    def finish(self) -> Piece:
        """What was held back at the end."""
        held, self._held = self._held, ""
        return Piece(thinking=held) if self._thought is not None else Piece(held)

    def _in_thought(self) -> str:
        marks = self._thought
        if marks is None:
            return ""
        at = self._held.find(marks.close)
        if at < 0:
            kept = _begun(self._held, (marks.close,))
            thinking = self._held[: len(self._held) - kept]
            self._held = self._held[len(thinking) :]
            return thinking
        thinking = self._held[:at]
        self._held = self._held[at + len(marks.close) :]
        self._thought, self._blanks = None, marks.after
        return thinking

    def _in_text(self) -> str:
        if self._blanks is not None and not self._past_blanks():
            return ""
        for call in self._calls:
            if call in self._held:
                raise not_continued("the answer goes on with a call of a tool, which is not parsed here")
        kept = _begun(self._held, self._calls)
        text = self._held[: len(self._held) - kept]
        self._held = self._held[len(text) :]
        return text

    def _past_blanks(self) -> bool:
        """Takes the blanks of the mark away; whether the text has begun."""
        assert self._blanks is not None
        if self._trims:
            self._held = self._held.lstrip()
        else:
            while self._held and self._blanks[:1] == self._held[0]:
                self._held, self._blanks = self._held[1:], self._blanks[1:]
        if not self._held:
            return False
        self._blanks = None
        return True


def _begun(text: str, marks: tuple[str, ...]) -> int:
    """The length of the longest end of a text with which one of the marks may begin."""
    longest = max(map(len, marks), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        end = text[-size:]
        if any(mark.startswith(end) for mark in marks):
            return size
    return 0
