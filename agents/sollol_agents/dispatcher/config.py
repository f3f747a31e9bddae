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
    detector: Annotated[str, Meta(description="Task detector: `words`, or the name of an installed one.")] = "words"
    embed_window_s: Annotated[
        float,
        Meta(ge=0, le=1, description="Seconds that small requests for embeddings wait for each other; 0: none does."),
    ] = 0.004
    resume_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=64 << 20,
            description="Bytes of text kept of each answer received here, so that it goes on when it breaks; 0: none.",
        ),
    ] = 1 << 20
    job_ack_wait_s: Annotated[
        float, Meta(ge=2, le=600, description="Seconds after which the jobs of a dead dispatcher go to another.")
    ] = 20.0
    job_max_tries: Annotated[
        int, Meta(ge=1, le=100, description="Tries of a job, each of up to `max_attempts`, before it is dead.")
    ] = 4
    job_keep_s: Annotated[float, Meta(ge=60, description="Seconds that results and states of ended jobs are kept.")] = (
        604_800.0
    )
    job_inline_bytes: Annotated[
        int, Meta(ge=1024, le=4 << 20, description="Results above this size go to the object store.")
    ] = 1 << 20
    job_callback_hosts: Annotated[
        tuple[str, ...], Meta(description="Hosts that results may be posted to; `host` or `host:port`.")
    ] = ()
    job_callback_private: Annotated[
        bool, Meta(description="Whether permitted names may lead to private addresses; listed addresses always may.")
    ] = False
    job_callback_secret: Annotated[
        str, Meta(description="Key of the signature on posted results; empty: they are not signed.")
    ] = ""
    drain_timeout_s: Annotated[float, Meta(ge=0, description="Seconds that running requests may take to finish.")] = (
        30.0
    )
