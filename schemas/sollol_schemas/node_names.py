"""What a node may be called beside its id: its host, an address, either with its engine's port, or a URL.

Names are looked up in what the nodes tell of themselves, never in the DNS. An id wins over a host that is called the
same. The name of a host with several engines means any of them to a request, and none to an operation on one node,
which needs the port. `localhost` is the machine of whoever puts a request on the bus: the
SDK and the gateway say their host's name instead of it (`for_the_bus`). Of whoever does not, the scorer's is meant.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from sollol_schemas.telemetry import Telemetry

_PORTS: Final = {"http": 80, "https": 443}
_KNOWN_NAMES_MAX: Final = 4096


class Place(NamedTuple):
    """Where an engine is, as a name or a URL says it."""

    host: str
    port: int | None

    @property
    def is_here(self) -> bool:
        """Whether that is the machine of whoever says it."""
        return _is_loopback(self.host)


@lru_cache(maxsize=_KNOWN_NAMES_MAX)
def place_of(name: str) -> Place | None:
    """The host and the port in a name; None where there is no host in it."""
    is_url = "://" in name
    if not is_url and name.count(":") > 1 and not name.startswith("["):
        name = f"[{name}]"  # an IPv6 address as it is usually written
    try:
        parts = urlsplit(name if is_url else f"//{name}")
        port = parts.port or (_PORTS.get(parts.scheme) if is_url else None)
        host = (parts.hostname or "").partition("%")[0].rstrip(".")
    except ValueError:
        return None
    return Place(_spelled(host), port) if host else None


def for_the_bus(name: str, hostname: str) -> str:
    """The name as others understand it: `localhost` becomes the host that says it.

    Args:
        name: A node's name.
        hostname: What this machine calls itself.
    """
    place = place_of(name)
    if place is None or not place.is_here or not hostname:
        return name
    said = "localhost" if ":" in place.host else place.host
    # A dot at the end makes it a host's name in any case: no id has one.
    return f"{said}@{hostname.rstrip('.')}." + (f":{place.port}" if place.port is not None else "")


def as_said(name: str) -> str:
    """The name as its caller knows it: what `for_the_bus` made of `localhost` is that again."""
    said, at, meant = name.partition("@")
    host, colon, port = meant.partition(":")
    return f"{said}{colon}{port}" if at and host.endswith(".") and "://" not in said else name


def bearers(name: str, nodes: Collection[Telemetry], *, here: str = "") -> tuple[str, ...]:
    """The ids of the nodes that are called so, in order: none, one, or several where the name does not tell which.

    Args:
        name: What somebody calls a node.
        nodes: The last heartbeats of those that may be meant.
        here: The host that `localhost` is.
    """
    if any(node.node_id == name for node in nodes):
        return (name,)
    place = place_of(name)
    if place is None:
        return ()
    for is_called in (_is_host, _is_first_label):
        found = sorted(node.node_id for node in nodes if is_called(place, node, here) and _is_at(place.port, node))
        if found:
            return tuple(found)
    if not place.is_here or any(_same_host(here, node.host) for node in nodes):
        return ()
    # nobody is known to be here: containers, for one, call their host by their own names
    loopback = (n.node_id for n in nodes if (at := place_of(n.engine.url)) and at.is_here and _is_at(place.port, n))
    return tuple(sorted(loopback))


def are_one_machine(found: Collection[str], nodes: Iterable[Telemetry]) -> bool:
    """Whether these nodes are engines of one host, as far as they tell, so that any of them may be meant."""
    machines = {node.host.rstrip(".").lower() for node in nodes if node.node_id in found}
    return len(machines) == 1 and "" not in machines


def host_and_port(node: Telemetry) -> str:
    """The machine of a node's engine, with the engine's port where that is known; a name of the node."""
    place = place_of(node.engine.url)
    host = node.host or (place.host if place is not None else "")
    return f"{host}:{place.port}" if host and place is not None and place.port is not None else host


def ambiguous(name: str, found: Iterable[str], nodes: Iterable[Telemetry]) -> str:
    """What to say of a name that several nodes bear."""
    ports = {node.node_id: place.port for node in nodes if (place := place_of(node.engine.url)) is not None}
    listed = [f"{node_id} (port {ports[node_id]})" if ports.get(node_id) else node_id for node_id in found]
    return f"{as_said(name)!r} names {len(listed)} nodes: {', '.join(listed)}; say the id, or the port after the host"


def _is_at(port: int | None, node: Telemetry) -> bool:
    if port is None:
        return True
    place = place_of(node.engine.url)
    return place is not None and place.port == port


def _is_host(place: Place, node: Telemetry, here: str) -> bool:
    if place.is_here:
        return bool(here) and _same_host(here, node.host)
    at = place_of(node.engine.url)
    is_engines_host = at is not None and at.host == place.host
    return is_engines_host or _same_host(place.host, node.host) or place.host in map(_spelled, node.addresses)


def _is_first_label(place: Place, node: Telemetry, _here: str) -> bool:
    """Whether one of the host's two names, as it tells it and as it was asked for, is the other's first label."""
    if place.is_here or _is_address(place.host):
        return False
    told = node.host.rstrip(".").lower()
    return (
        bool(told)
        and told.partition(".")[0] == place.host.partition(".")[0]
        and "." not in min(told, place.host, key=len)
    )


def _same_host(one: str, other: str) -> bool:
    return one.rstrip(".").lower() == other.rstrip(".").lower() != ""


@lru_cache(maxsize=_KNOWN_NAMES_MAX)
def _spelled(host: str) -> str:
    """A host's name in small letters, an address as it is written shortest."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower()
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=_KNOWN_NAMES_MAX)
def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
