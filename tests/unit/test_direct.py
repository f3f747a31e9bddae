"""When what was published leaves."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client

from sollol_bus.transport.direct import DirectClient
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.sockets import SocketTransport
from sollol_bus.transport.wire import publication

ASKED = b"MSG work 1 1\r\nx\r\n"


class Written(SocketTransport):
    """A socket that notes each write."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.writes: list[bytes] = []

    def write(self, payload: bytes) -> None:
        self.writes.append(payload)


class Worker:
    """A connection that answers each message, hastens that, and publishes something nobody waits for."""

    def __init__(self, *, hastens: bool) -> None:
        self.client = DirectClient()
        self.socket = self.client._transport = Written()
        self.client._status = Client.CONNECTED
        self.hastens = hastens
        self.written_before_the_rest: list[int] = []
        self.client.listen("work", "", self.work)
        self.client._pending.clear()

    def work(self, _: Msg) -> None:
        self.client.send(publication("answer", "", b""))
        if self.hastens:
            self.client.hasten()
        self.written_before_the_rest.append(len(self.socket.writes))
        self.client.send(publication("event", "", b""))


async def test_what_one_read_makes_leaves_in_one_write_at_its_end() -> None:
    worker = Worker(hastens=False)
    assert worker.client.take(ASKED * 2)
    assert [write.count(b"PUB") for write in worker.socket.writes] == [4]


async def test_much_that_one_read_makes_leaves_in_parts_so_that_others_can_begin() -> None:
    worker = Worker(hastens=False)
    assert worker.client.take(ASKED * 20)
    assert [write.count(b"PUB") for write in worker.socket.writes] == [16, 16, 8]


async def test_what_is_hastened_leaves_before_the_rest_of_the_work() -> None:
    worker = Worker(hastens=True)
    assert worker.client.take(ASKED)
    assert worker.written_before_the_rest == [1]
    assert [write.count(b"answer") for write in worker.socket.writes] == [1, 0]


async def test_what_is_hastened_waits_for_what_else_was_read() -> None:
    worker = Worker(hastens=True)
    assert worker.client.take(ASKED * 3)
    assert worker.written_before_the_rest == [0, 0, 1]
    assert [write.count(b"answer") for write in worker.socket.writes] == [3, 0]


async def test_what_is_published_outside_a_read_leaves_at_the_end_of_the_turn() -> None:
    worker = Worker(hastens=False)
    worker.client.take(b"")
    for _ in range(3):
        worker.client.send(publication("news", "", b""))
    assert worker.socket.writes == []
    await asyncio.sleep(0)
    assert [write.count(b"PUB") for write in worker.socket.writes] == [3]


async def test_a_full_socket_is_given_nothing_until_it_takes_more() -> None:
    worker = Worker(hastens=True)
    worker.client._on_full(True)
    worker.client.take(ASKED)
    assert worker.socket.writes == []
    worker.client._on_full(False)
    assert [write.count(b"PUB") for write in worker.socket.writes] == [2]
