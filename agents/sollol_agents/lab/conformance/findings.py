"""What a rule of the protocol says, and what was seen of it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kept(StrEnum):
    """Whether an agent keeps a rule."""

    OK = "ok"
    FAILED = "failed"
    NOT_TRIED = "not tried"  # this agent, or this run, gave no occasion


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one rule."""

    rule: str
    says: str
    """What the rule demands."""
    kept: Kept
    seen: str = ""
    """What was seen instead, or why it was not tried."""


class BrokenRule(Exception):
    """The agent does not keep the rule; the text says what was seen."""


class NotTried(Exception):
    """There was no occasion to see; the text says why."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a run is; seconds."""

    join_s: float = 30.0
    """Until the first heartbeat."""
    answer_s: float = 10.0
    """For what must come."""
    quiet_s: float = 0.5
    """For what must not come."""
    beat_s: float = 2.5
    """Between two heartbeats, at most: a node is suspect after 3 s."""
    go_s: float = 0.3
    """For which a permission that comes too late would have been good."""
    deadline_s: float = 0.5
    """By which a long answer has not ended."""
    unkept_s: float = 2.5
    """Between two claims while nobody keeps them, at most: half a second, and then the answer."""
    claim_s: float = 8.0
    """Between two claims, at most."""
    long: int = 300
    """From where a long answer counts down."""
    last: int = 30
    """From where the answer counts down that is on its way when the agent is asked to end."""
