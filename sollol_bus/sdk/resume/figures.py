"""The figures of an answer that went on elsewhere, as its user gets them. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import headers as h
from sollol_schemas.execution import Figures


class Begun(NamedTuple):
    """How an answer began, before it broke off first."""

    accepted_mono_s: float
    """When a node took it, about."""
    ttft_s: float


def merged(last: Msg, begun: Begun, *, resumed: int, messages: int, now: float) -> Msg:
    """The last message of an answer with figures and count of the whole.

    Args:
        last: The last attempt's last message.
        begun: Of the first attempt.
        resumed: How often it went on.
        messages: So many were handed out in all.
        now: Monotonic.
    """
    headers = dict(last.headers or {})
    told = headers.get(h.FIGURES)
    if told is not None:
        headers[h.FIGURES] = encode(_of_all(decode(told.encode(), Figures), begun, resumed, messages, now)).decode()
    headers[h.CHUNKS] = str(messages)
    last.headers = headers
    return last


def _of_all(own: Figures, begun: Begun, resumed: int, messages: int, now: float) -> Figures:
    """One attempt's figures with what the attempts before had said counted as said, and not as read."""
    said = own.continued_tokens
    return msgspec.structs.replace(
        own,
        actual_s=max(own.actual_s, now - begun.accepted_mono_s),
        ttft_s=begun.ttft_s,
        prompt_tokens=None if own.prompt_tokens is None else max(0, own.prompt_tokens - said),
        output_tokens=None if own.output_tokens is None else own.output_tokens + said,
        continued_tokens=0,
        resumed=resumed,
        chunks=messages,
    )
