"""Settings of the dashboard."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class DashboardConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one dashboard."""

    host: Annotated[str, Meta(description="Address to listen on; the default serves this machine alone.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 picks a free one.")] = 8080
    hosts: Annotated[
        tuple[str, ...],
        Meta(description="Host names that browsers may use, beside loopback ones and addresses; `*` allows all."),
    ] = ()
    require_key: Annotated[
        bool, Meta(description="Ask for an API key; an administrator's key may operate, any other may look.")
    ] = False
    listen_fd: int = -1
    """Descriptor of a socket that listens already, from a parent process, and no setting; -1: none."""
