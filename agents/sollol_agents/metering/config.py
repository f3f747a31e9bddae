"""Whether and where a process serves its metrics."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the metrics of one process."""

    port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        Meta(description="Port of this process's own metrics for Prometheus; 0 picks a free one, without it: none."),
    ] = None
    host: Annotated[str, Meta(description="Address to serve metrics on; the default serves this machine alone.")] = (
        "127.0.0.1"
    )
