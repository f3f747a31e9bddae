"""Settings of the dispatcher."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class DispatcherConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one dispatcher."""

    max_active: Annotated[int, Meta(ge=1, description="Requests held at a time; beyond it new ones get 429.")] = 4096
    max_attempts: Annotated[int, Meta(ge=1, le=10, description="Attempts on distinct nodes per request.")] = 3
    default_deadline_s: Annotated[float, Meta(gt=0, description="Deadline of a request that names none.")] = 600.0
    grant_silence_s: Annotated[
        float, Meta(gt=0, description="Seconds without a word from the scorer before asking again.")
    ] = 5.0
    scorer_absence_s: Annotated[
        float, Meta(gt=0, description="Seconds without any scorer in office before a waiting request is refused.")
    ] = 15.0
    accept_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds within which a node must accept an attempt.")
    ] = 2.0
    probe_interval_s: Annotated[
        float, Meta(gt=0, description="Seconds between probes of a node that has open attempts.")
    ] = 0.25
    silence_limit_s: Annotated[
        float, Meta(gt=0, description="Unanswered probes for so long mean that a node hangs.")
    ] = 2.5
    detector: Annotated[str, Meta(description="Task detector: `words`, or the name of an installed one.")] = "words"
    drain_timeout_s: Annotated[float, Meta(ge=0, description="Seconds that running requests may take to finish.")] = (
        30.0
    )
