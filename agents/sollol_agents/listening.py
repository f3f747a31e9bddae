"""Sockets that listen; apart from the HTTP server, so that listening alone imports little."""

from __future__ import annotations

import socket
from typing import Final

_BACKLOG: Final = 2048
_ELSEWHERE: Final = "192.0.2.1"
"""An address that is nobody's (RFC 5737)."""


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket that listens there.

    Raises:
        OSError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
        made.listen(_BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def refused(host: str, port: int, error: OSError, remedy: str) -> str:
    """Why nothing listens there, and what to do; `remedy` names the flag."""
    why = error.strerror or str(error)
    return f"cannot listen on {host} port {port}: {why}. {remedy}; 0 picks a free one."


def url_of(listening: socket.socket, *, is_encrypted: bool = False) -> str:
    """The address that a client uses."""
    host, port = listening.getsockname()[:2]
    scheme = "https" if is_encrypted else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_free(host: str, port: int) -> bool:
    """Whether the port can be had at this moment."""
    try:
        listen(host, port).close()
    except OSError:
        return False
    return True


def own_address() -> str:
    """The address of this machine on its network, as a packet outwards would bear it; its name where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ELSEWHERE, 9))  # sends nothing
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
