"""What tests stand on: ports that stay free, and waits that say what was missing."""

from __future__ import annotations

import socket

import pytest

from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.waiting import eventually


def test_a_free_port_is_given_once_and_is_none_of_those_of_outgoing_connections() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)
    with socket.create_server(("127.0.0.1", 0)) as served, socket.create_connection(served.getsockname()) as outgoing:
        lowest_of_the_system = min(served.getsockname()[1], outgoing.getsockname()[1])
    assert max(ports) < min(lowest_of_the_system, 32_768)
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()  # nobody listens there
        with pytest.raises(OSError, match="in use"), socket.socket(type=socket.SOCK_DGRAM) as twin:
            twin.bind(("127.0.0.1", port))  # and whoever looks for a port in another process sees that it is given


async def test_a_wait_that_is_in_vain_says_what_was_seen_last() -> None:
    seen: list[str] = []

    def never() -> bool:
        seen.append("the server ended")
        return False

    with pytest.raises(AssertionError, match=r"^not within 0.05 s: the server ended$"):
        await eventually(never, within_s=0.05, complaint=lambda: seen[-1])
    with pytest.raises(AssertionError, match=r"^not within 0.01 s: an end$"):
        await eventually(never, within_s=0.01, complaint="an end")
