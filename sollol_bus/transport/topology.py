"""Where a connection's server stands among others, as the server itself tells."""

from __future__ import annotations

from sollol_bus.transport.connection import Bus


def is_lone(bus: Bus) -> bool:
    """Whether the server is in no cluster and no domain and has a store of its own: it alone serves everybody."""
    told = bus.nats._server_info  # noqa: SLF001 the client library tells it nowhere else
    return bool(told.get("jetstream")) and not told.get("cluster") and not told.get("domain")


def is_clustered(bus: Bus) -> bool:
    """Whether the server is one of a cluster."""
    return bool(bus.nats._server_info.get("cluster"))  # noqa: SLF001
