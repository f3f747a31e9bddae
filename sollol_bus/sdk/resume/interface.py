"""What reads an answer as far as it was handed out, and tells its rest in the same words.

One `Telling` goes with one request from its first message to its last, through every break. It reads all that was
handed out, its own words included, and keeps of it no more than its text and what the rest must fit to.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

PENALTIES: Final = ("presence_penalty", "frequency_penalty")
"""Options that some engines count over the answer alone: those go on with none that has one, so that none is moved."""


class Said(NamedTuple):
    """An answer as far as it was handed out."""

    text: str = ""
    thinking: str = ""
    pieces: int = 0
    """Of text and thinking, as the engine gave them."""
    refusal: str = ""
    """Why nobody can say the rest, in a sentence without a full stop; empty: somebody may."""
    is_over: bool = False
    """Whether its end was handed out too, so that nothing follows."""

    @property
    def is_blank(self) -> bool:
        """Whether nothing but openings was handed out, so that the request may begin anew."""
        return not self.text and not self.thinking


class Shape(NamedTuple):
    """What a request's own body says of going on."""

    refusal: str = ""
    """Why an answer to it cannot go on once its text has begun, as in `Said`."""
    may_be_moved: bool = False
    """Whether nothing that the answer may yet say keeps it from going on: then it may be stopped on purpose."""


class Telling(Protocol):
    """Reads and tells one answer in one dialect. Nothing here raises for what an engine said: it is a refusal."""

    def read(self, data: bytes) -> None:
        """Takes in what was handed out next: native objects, one on each line, or whole events."""

    def said(self) -> Said:
        """All that was taken in."""

    def break_off(self) -> None:
        """The attempt broke off; what comes from now on is the next one's."""

    def feed(self, piece: bytes) -> bytes:
        """The rest in the words of the request.

        Args:
            piece: One native object of the rest.

        Returns:
            What is handed out; empty: nothing yet.

        Raises:
            BackendBrokeProtocol: It is no such object.
        """

    def again(self, data: bytes) -> bytes:
        """An answer that began anew since nothing had been said: without what was handed out, with the ids told there.

        Args:
            data: What came, in the request's own dialect; events may be cut anywhere.

        Returns:
            What is handed out; empty: nothing yet.
        """


class Mute:
    """The telling of what nobody can go on with.

    Args:
        refusal: Why.
    """

    def __init__(self, refusal: str) -> None:
        self._said = Said(refusal=refusal)

    def read(self, data: bytes) -> None:
        """Nothing is kept."""

    def said(self) -> Said:
        """The refusal."""
        return self._said

    def break_off(self) -> None:
        """Nothing comes."""

    def feed(self, piece: bytes) -> bytes:
        """As it is; never asked for."""
        return piece

    def again(self, data: bytes) -> bytes:
        """As it is; never asked for."""
        return data


class OnePiece:
    """The telling of an answer that is one document: it begins anew, but not once a part of it was handed out."""

    def __init__(self) -> None:
        self._is_begun = False

    def read(self, data: bytes) -> None:
        """Notes that it has begun."""
        self._is_begun = self._is_begun or bool(data)

    def said(self) -> Said:
        """Nothing, or a refusal."""
        return Said(refusal="a part of its document was handed out" if self._is_begun else "")

    def break_off(self) -> None:
        """Nothing to keep."""

    def feed(self, piece: bytes) -> bytes:
        """As it is; never asked for, since nothing is known to have been said."""
        return piece

    def again(self, data: bytes) -> bytes:
        """As it is."""
        return data
