"""Feedback: what whoever read an answer thought of it, from which the choice among models learns."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_schemas.units import Instant, Ratio, Seconds

_Name = Annotated[str, Meta(max_length=256)]


class FeedbackRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Say how good an answer was: of a request, or of a model at a category of work. A later one replaces it."""

    request_id: Annotated[str, Meta(max_length=200)] = ""
    """The request that was answered, or the job; without it, `model` says what is meant."""
    attempt_id: Annotated[str, Meta(max_length=80)] = ""
    """The attempt that is meant, where several models answered the request one after the other; empty: the last."""
    model: _Name = ""
    category: Annotated[str, Meta(max_length=64)] = ""
    """A coding category or a task type; empty: what is known of the request, or none."""
    score: Ratio | None = None
    """0 is useless, 1 is perfect; without it `success` counts."""
    success: bool | None = None
    """True is a score of 1, false one of 0."""
    latency_s: Seconds | None = None
    """How long the answer took, as its reader saw it."""
    comment: Annotated[str, Meta(max_length=2000)] = ""


class FeedbackReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="feedback.v1"):
    """The feedback as it was kept."""

    request_id: str = ""
    model: str = ""
    """Whose quality it tells of; empty while the request is not recorded yet."""
    group: str = ""
    category: str = ""
    score: Ratio
    is_replacement: bool = False
    """Whether there was feedback on the same request before."""
    is_waiting: bool = False
    """Whether it is kept for a request of which nothing is recorded yet; it counts as soon as that is."""


class FeedbackEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="feedback.event.v1"):
    """Feedback was kept; scorers learn from it. What its author wrote stays with the recorder."""

    request_id: str = ""
    model: str
    group: str = ""
    """The group that the request named; empty: it named the model."""
    category: str = ""
    score: Ratio
    replaces: Ratio | None = None
    """The score that counted for the same request before."""
    latency_s: Seconds | None = None
    caller: str = ""
    """Who gave it, as an opaque word."""
    at: Instant = ""
    """Told by the recorder: when the event was stored."""


class FeedbackView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said of the answer to one request."""

    request_id: str
    model: str
    category: str = ""
    score: Ratio
    latency_s: Seconds | None = None
    comment: str = ""
    at: Instant = ""


def view_of(event: FeedbackEvent, comment: str = "") -> FeedbackView:
    """What is shown of feedback to those who may know of its request."""
    return FeedbackView(
        request_id=event.request_id,
        model=event.model,
        category=event.category,
        score=event.score,
        latency_s=event.latency_s,
        comment=comment,
        at=event.at,
    )


class FeedbackHistory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="feedback.history.v1"):
    """What the recorder knows of former feedback, for a scorer to which nobody left what was learnt from it."""

    events: tuple[FeedbackEvent, ...] = ()
    """The latest, oldest first, without what operators had forgotten."""
    stream_seq: Annotated[int, Meta(ge=0)] = 0
    """Of the last of them, in the stream of events."""
    stored_at: Instant = ""
