"""By which names a gateway may be called. Pure, but for this machine's own name."""

from __future__ import annotations

import functools
import ipaddress
import socket

from sollol_agents.gateway.config import GatewayConfig


def is_local(config: GatewayConfig) -> bool:
    """Whether only this machine can reach the gateway."""
    try:
        return config.host == "localhost" or ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        return False


def allowed_hosts(config: GatewayConfig) -> frozenset[str] | None:
    """The names by which requests may call us, or None for all.

    On a loopback address only names of this machine are served: a web page could otherwise give its own name our
    address and read every answer.
    """
    if "*" in config.hosts or not is_local(config):
        return None
    return frozenset({"", "localhost", socket.gethostname().lower(), *(host.lower() for host in config.hosts)})


@functools.lru_cache(maxsize=256)
def is_allowed_host(header: bytes, allowed: frozenset[str]) -> bool:
    """Whether a Host header names this machine."""
    name = header.decode("latin-1").lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in allowed or name.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private
