"""Ports of the loopback for whoever must know its port before it listens there."""

from __future__ import annotations

import random
import socket
from typing import Final

_PORTS: Final = range(12_000, 30_000)
"""No system gives these to outgoing connections, which would take one before its server is there."""
_TRIES: Final = 1_000


def free_port() -> int:
    """A port on which nobody listens, and which no other process of a test run gets as long as this one lives.

    Its twin of UDP stays open until this process ends and says that the port is given away.

    Raises:
        OSError: Nearly all are taken.
    """
    for _ in range(_TRIES):
        port = random.randrange(_PORTS.start, _PORTS.stop)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as twin:
            try:
                twin.bind(("127.0.0.1", port))
                socket.create_server(("127.0.0.1", port)).close()
            except OSError:
                continue
            twin.detach()
            return port
    raise OSError(f"no port from {_PORTS.start} to {_PORTS.stop} is free")
