"""Where an engine is, out of its address."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

_PORTS: Final = {"http": 80, "https": 443}
_IN_PATHS: Final = "/%:@!$&'()*+,;=~"


class Origin(NamedTuple):
    """Where to connect, and what a request says of that."""

    is_tls: bool
    host: str
    port: int
    netloc: bytes
    """For the header Host: without the usual port, and without a user."""
    path: bytes
    """Before that of each request, as it is sent; without a slash at its end."""


def origin_of(url: str) -> Origin:
    """Reads the base URL of an engine.

    Raises:
        ValueError: It is none; the message says why.
    """
    if not url.isprintable():
        raise ValueError("it has characters that cannot be printed")
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in _PORTS or not host:
        raise ValueError("an engine's URL is http:// or https:// and a host")
    if not host.isascii():
        host = host.encode("idna").decode()
    if " " in host:
        raise ValueError("a host has no space in it")
    usual = _PORTS[parts.scheme]
    port = _port_of(parts.netloc, usual)
    if parts.query or parts.fragment or not 0 < port < 1 << 16:
        raise ValueError("an engine's URL has a port from 1 to 65535, and no ? or # behind it")
    shown = f"[{host}]" if ":" in host else host
    netloc = shown if port == usual else f"{shown}:{port}"
    path = quote(parts.path, safe=_IN_PATHS).rstrip("/")
    return Origin(parts.scheme == "https", host, port, netloc.encode(), path.encode())


def _port_of(netloc: str, usual: int) -> int:
    """The port, which may be out of range; `urlsplit` has its own words for that."""
    _, colon, port = netloc.rpartition("@")[2].rpartition("]")[2].rpartition(":")
    if not colon or not port:
        return usual
    if not (port.isascii() and port.isdigit()):
        raise ValueError(f"Invalid port: {port!r}")
    return int(port[:6])
