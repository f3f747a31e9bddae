"""What the present task works for, as an engine may know it: the trace, and the way that the request came."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

TRACEPARENT: Final[ContextVar[str]] = ContextVar("traceparent", default="")
"""The context of a span of this very process (a caller's text would go into a head unchecked); empty without one."""

VIA: Final[ContextVar[str]] = ContextVar("via", default="")
"""The marks of those that the request came through, checked; empty without any."""


def begin(via: str) -> None:
    """The present task works for another request from now on, which came this way, and has no span yet."""
    if VIA.get() != via:
        VIA.set(via)
    if TRACEPARENT.get():
        TRACEPARENT.set("")
