"""Answers that go on: what was said so far, as it travels with a request that is sent again.

The body of such a request stays as it was. What was said stands behind it in the same payload, and a header says how
long the body is: so a request in any dialect carries it, byte for byte, and nothing is encoded twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sollol_schemas import headers as h
from sollol_schemas.units import BusId, Count, Instant, Seconds, SignedSeconds, Tokens

CONTINUE_FROM: Final = "continue_from"
"""The field of a native body in which a plain caller says what was said so far."""
RESUME: Final = "resume"
"""The field of a native body by which a plain caller asks the dispatcher to go on with an answer that breaks."""
CUTS_MAX: Final = 2
"""So often one request is moved on purpose at most."""

FINGERPRINT_MAX: Final = 64
"""Characters."""
Fingerprint = Annotated[str, Meta(max_length=FINGERPRINT_MAX)]


class ContinueFrom(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said of an answer until it broke off; the next attempt says the rest of it, and nothing twice."""

    text: str = ""
    thinking: str = ""
    pieces: Count = 0
    """Of text and thinking, as the engine gave them: about as many as tokens."""
    fingerprint: Fingerprint = ""
    """`Decision.fingerprint` of the attempts before: only a node that says the same may go on. Empty: any may."""
    model: str = ""
    """The model that began, where the request named a group."""
    excluded: Annotated[tuple[BusId, ...], Meta(max_length=64)] = ()
    """Nodes on which it is not to go on."""
    node_id: BusId = ""
    """The node that made it last and was not at fault: its engine may still have prompt and text in its cache. Empty:
    nobody knows of one."""
    resumed: Count = 1
    """How often it was sent again to go on, this time included."""
    cuts: Count = 0
    """How many of those times it was moved on purpose."""

    @property
    def is_blank(self) -> bool:
        """Whether nothing was said yet, so that it may begin anew."""
        return not self.text and not self.thinking


class Continuation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The same for the scorer, which reads no text."""

    fingerprint: Fingerprint = ""
    model: str = ""
    """The model that began, where the request named a group."""
    said_tokens: Tokens = 0
    """About so many tokens of the answer are there: they are read as prompt, and not made again."""
    node_id: BusId = ""
    """Which node may still have all of it in its cache."""
    resumed: Count = 1
    cuts: Count = 0


class InvalidContinuation(ValueError):
    """What was said so far cannot be read."""


def packed(body: bytes, continued: ContinueFrom) -> tuple[bytes, dict[str, str]]:
    """The payload of a request that goes on, and the headers that say so."""
    return body + msgspec.json.encode(continued), {h.CONTINUE: str(len(body))}


def unpacked(payload: bytes, headers: Mapping[str, str]) -> tuple[bytes, ContinueFrom | None]:
    """The body of a request, and what was said so far; None: it begins anew.

    Raises:
        InvalidContinuation: The header names no length of a body, or what stands behind the body cannot be read.
    """
    told = headers.get(h.CONTINUE)
    if told is None:
        return payload, None
    if not (told.isascii() and told.isdigit() and len(told) < 12 and 0 < int(told) < len(payload)):
        raise InvalidContinuation(f"header {h.CONTINUE} must be the length of the body, in bytes")
    size = int(told)
    try:
        return payload[:size], msgspec.json.decode(payload[size:], type=ContinueFrom)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidContinuation(f"what was said so far cannot be read: {error}") from error


class CutReason(StrEnum):
    """Why an answer is moved in its middle."""

    DRAIN = "drain"  # its node leaves, or takes no new work
    PRIORITY = "priority"  # a request of higher rank needs the slot
    REBALANCE = "rebalance"  # another node finishes it so much sooner that moving it pays


class Cut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="cut.event.v1"):
    """An answer was moved in its middle, and what that was expected to gain."""

    request_id: BusId
    attempt_id: BusId
    node_id: BusId
    reason: CutReason
    to: str = ""
    """The node that was expected to go on; empty: wherever there is room first."""
    in_favour_of: str = ""
    """The request that gets the slot."""
    left_s: Seconds = 0.0
    """Until it would have been complete where it ran."""
    moved_s: Seconds = 0.0
    """Until it is complete elsewhere, from the cut on: waiting, reading what was said, and the rest."""
    gain_s: SignedSeconds = 0.0
    """What the move gains for all that are concerned."""
    cuts: Count = 1
    """How often this request was moved, this time included."""
    text: str = ""
    """The same in a sentence."""
    at: Instant = ""
