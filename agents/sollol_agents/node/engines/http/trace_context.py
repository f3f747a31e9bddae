"""The trace that the present task works for, so that an engine that traces can join it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

TRACEPARENT: Final[ContextVar[str]] = ContextVar("traceparent", default="")
"""The context of a span of this very process (a caller's text would go into a head unchecked); empty without one."""
