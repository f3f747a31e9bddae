"""A rule of the protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from sollol_agents.lab.conformance.fleet import PlayedFleet


class Rule(NamedTuple):
    """One rule of the protocol."""

    name: str
    says: str
    check: Callable[[PlayedFleet], Awaitable[None]]
    """Returns where the rule is kept, and else raises `BrokenRule` or `NotTried`."""
