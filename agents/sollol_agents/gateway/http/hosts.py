"""By which names a gateway may be called. Pure, but for this machine's own name."""

from __future__ import annotations

import functools
import ipaddress
import socket
from typing import Final

from sollol_agents.gateway.config import GatewayConfig

_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal")


def is_local(config: GatewayConfig) -> bool:
    """Whether only this machine can reach the gateway."""
    try:
        return config.host == "localhost" or ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        return False


class Hosts:
    """The names by which requests may call.

    A web page could otherwise give its own name our address and read every answer. On a loopback address only names
    of this machine are served, as Ollama does. On others, where no key keeps a page out, a name without a dot is served
    as well: it is one of the own network, which no page can take.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._is_local = is_local(config)
        self._is_open = "*" in config.hosts or (config.require_key and not self._is_local)
        self._names = {"", "localhost", socket.gethostname().lower(), *(host.lower() for host in config.hosts)}

    def allow(self, header: bytes) -> bool:
        """Whether a Host header is one of these names."""
        if self._is_open:
            return True
        name = _name_in(header)
        if name in self._names or name.endswith(_LOCAL_SUFFIXES):
            return True
        address = _address(name)
        if address is None:
            return not self._is_local and "." not in name
        return not self._is_local or address.is_loopback or address.is_private


@functools.lru_cache(maxsize=256)
def _name_in(header: bytes) -> str:
    """The name or address in a Host header, without its port."""
    name = header.decode("latin-1").lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0] if name.count(":") == 1 else name


@functools.lru_cache(maxsize=256)
def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
