"""What the checks of `sollol doctor` find."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # works, but something is missing or unusual
    PROBLEM = "problem"  # does not work until somebody acts


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found, and what to do."""

    check: str
    level: Level
    found: str
    remedy: str = ""
