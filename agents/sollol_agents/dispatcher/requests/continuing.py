"""Answers that go on, as they come in and as they go to a node. Pure.

What was said stands behind the body, or in a field of a native one; either way the engine's body is taken out, and the
node gets both as one payload. Of an answer of which nothing was said yet, only the body goes there: it begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from sollol_agents.requests.body import Fields, InvalidBody, field
from sollol_agents.requests.request import CHARACTERS_PER_TOKEN, MODEL_NAME_MAX
from sollol_schemas import headers as h
from sollol_schemas.context import TaskContext
from sollol_schemas.continuation import (
    CONTINUE_FROM,
    RESUME,
    Continuation,
    ContinueFrom,
    InvalidContinuation,
    packed,
    unpacked,
)
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.routing import Routing, RoutingMode

OWN_FIELDS: Final = frozenset({CONTINUE_FROM, RESUME})
"""Fields of native bodies that no engine gets."""


class Resumer(StrEnum):
    """Who goes on with an answer that breaks off."""

    NOBODY = ""
    CALLER = "1"  # whoever receives it holds it, and sends the request again
    DISPATCHER = "dispatcher"  # a dispatcher does that for a caller that only listens


_RESUMERS: Final = {resumer.value: resumer for resumer in Resumer}


class Sent(NamedTuple):
    """A payload as a node gets it."""

    payload: bytes
    body_bytes: int | None
    """Length of the body; None where nothing stands behind it."""


def split(payload: bytes, headers: Mapping[str, str]) -> tuple[bytes, ContinueFrom | None]:
    """The body of a message, and what stands behind it.

    Raises:
        InvalidBody: What stands there cannot be read.
    """
    try:
        return unpacked(payload, headers)
    except InvalidContinuation as error:
        raise InvalidBody(str(error)) from error


def said_in(fields: Fields, behind: ContinueFrom | None) -> ContinueFrom | None:
    """What was said of an answer, in a native body or behind it.

    Raises:
        InvalidBody: It stands in both places, or cannot be read.
    """
    told: ContinueFrom | None = field(fields, CONTINUE_FROM, ContinueFrom)
    if told is not None and behind is not None:
        raise InvalidBody(f"field '{CONTINUE_FROM}': what was said stands behind the body already")
    return told or behind


def resumer_of(fields: Fields, headers: Mapping[str, str], context: TaskContext, *, is_stream: bool) -> Resumer:
    """Who goes on with the answer: the header says it, else a native body's field; only streams are gone on with.

    Args:
        fields: Those of a native body; none of another one.
        headers: Of the message.
        context: What is asked for.
        is_stream: Whether as a stream.

    Raises:
        InvalidBody: The field or the header has another value.
    """
    wants = field(fields, RESUME, bool) if RESUME in fields else None
    resumer = _RESUMERS.get(headers.get(h.RESUME, ""))
    if resumer is None:
        raise InvalidBody(f"header {h.RESUME} must be {Resumer.CALLER} or {Resumer.DISPATCHER}")
    if not is_stream or context.is_embedding or context.is_load_only:
        return Resumer.NOBODY
    return Resumer.DISPATCHER if wants and not resumer else resumer


def check_said(said: ContinueFrom | None, context: TaskContext, *, is_stream: bool) -> None:
    """Refuses what was said of something that is no streamed answer.

    Raises:
        InvalidBody: It is none.
    """
    if said is None:
        return
    if not is_stream:
        raise InvalidBody(f"'{CONTINUE_FROM}': only a stream goes on; ask for one")
    if context.is_embedding or context.is_load_only:
        raise InvalidBody(f"'{CONTINUE_FROM}': no answer of this kind goes on")
    if len(said.model) > MODEL_NAME_MAX:
        raise InvalidBody(f"'{CONTINUE_FROM}': a model's name has at most {MODEL_NAME_MAX} characters")


def check_resumer(said: ContinueFrom | None, resumer: Resumer) -> None:
    """Refuses a request whose rest both its caller and a dispatcher are to ask for: the answer would begin anew.

    Raises:
        InvalidBody: It is one.
    """
    if said is not None and resumer is Resumer.DISPATCHER:
        raise InvalidBody(
            f"'{CONTINUE_FROM}': a dispatcher that goes on for its caller ('{RESUME}', header {h.RESUME}) holds an "
            "answer from its beginning; leave out one of the two"
        )


def said_tokens(said: ContinueFrom) -> int:
    """About how many tokens were said; at least one where anything was."""
    size = len(said.text.encode()) + len(said.thinking.encode())
    pieces = said.pieces or -(-size // CHARACTERS_PER_TOKEN)
    return 0 if said.is_blank else max(1, min(pieces, size))


def is_bound(routing: Routing, context: TaskContext, said: ContinueFrom | None) -> bool:
    """Whether not every node that has the model would do for a request."""
    is_particular = routing.routing_mode is RoutingMode.RELIABLE or context.num_ctx is not None
    is_limited = routing.min_vram_gb or routing.min_success_rate or routing.prefer_cpu
    return bool(routing.node_id or routing.where or is_limited or is_particular or (said and said.excluded))


def told_of(said: ContinueFrom | None, cuts: int) -> Continuation | None:
    """What the scorer is told of it; None of a request that begins.

    Args:
        said: What was said.
        cuts: How often its attempts were moved since it came.
    """
    if said is None:
        return Continuation(resumed=0, cuts=cuts) if cuts else None
    tokens = said_tokens(said)
    return Continuation(
        fingerprint=said.fingerprint if tokens else "",
        model=said.model,
        said_tokens=tokens,
        node_id=said.node_id,
        resumed=said.resumed,
        cuts=said.cuts + cuts,
    )


def sent(body: bytes, said: ContinueFrom | None) -> Sent:
    """What a node gets of a request that goes on, or begins."""
    if said is None or said.is_blank:
        return Sent(body, None)
    payload, _ = packed(body, said)
    return Sent(payload, len(body))


def too_large(error: ErrorBody, said: ContinueFrom | None) -> ErrorBody:
    """What a caller is told whose request became too long for one message."""
    if said is None:
        return error
    message = f"the request and what was said of its answer are too long together: {error.message}"
    return ErrorBody(code=ErrorCode.NOT_CONTINUED, message=message, details=error.details)
