"""Settings of the recorder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta


class RecorderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one recorder."""

    database: Annotated[str, Meta(description="Path of the SQLite file; empty: in the per-user state directory.")] = ""
    retention_days: Annotated[float, Meta(gt=0, description="Days after which records are deleted.")] = 30.0
    max_outcomes: Annotated[int, Meta(ge=1, description="Outcomes kept; the oldest go first.")] = 500_000
    feedback_per_minute: Annotated[
        int, Meta(ge=0, description="Feedback that one named caller may give in a minute; 0: however much.")
    ] = 120
    office_ttl_s: Annotated[
        int,
        Meta(ge=1, le=60, description="Seconds after which a hung recorder is succeeded; in a cluster at least 12."),
    ] = 3
    drain_timeout_s: Annotated[float, Meta(ge=0, description="Seconds to write what is in hand when stopping.")] = 10.0

    def database_path(self) -> Path:
        """Where the database lies."""
        if self.database:
            return Path(self.database).expanduser()
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(state) / "sollol" / "recorder.sqlite3"
