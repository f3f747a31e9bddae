"""What comes over a socket is handed over at once, and what nobody takes is kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlparse

import nats.errors
import pytest

from sollol_bus.transport.sockets import SocketTransport

LONG = 300_000


class Taking:
    """Takes what it is handed, and then wants more, or not."""

    def __init__(self, *, wants_more: bool) -> None:
        self.taken = bytearray()
        self.wants_more = wants_more

    def __call__(self, data: bytes) -> bool:
        self.taken.extend(data)
        return self.wants_more


class Peer:
    """The other end of one connection."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.writer: asyncio.StreamWriter | None = None
        self.url = ""
        self.transport = SocketTransport(lambda _: None)
        self.came = asyncio.Event()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.came.set()

    def say(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)

    def end(self) -> None:
        assert self.writer is not None
        self.writer.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        made.url = f"nats://127.0.0.1:{port}"
        await made.transport.connect(urlparse(made.url), 0, 2)
        await made.came.wait()
        yield made
        made.end()
        made.transport.abort()
        await made.transport.wait_closed()


async def test_a_line_is_read_wherever_it_is_cut_and_what_follows_is_handed_over(peer: Peer) -> None:
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        return b"enough" not in b"".join(taken)

    peer.say(b"INFO ")
    reading = asyncio.get_running_loop().create_task(peer.transport.readline())
    await asyncio.sleep(0)
    peer.say(b"{}\r\nmo")
    assert await reading == b"INFO {}\r\n"
    peer.say(b"re enough")
    await peer.transport.hand_to(take)
    assert b"".join(taken) == b"more enough"


async def test_what_comes_while_nobody_takes_it_is_kept_in_order_and_the_socket_is_not_read_for_ever(
    peer: Peer,
) -> None:
    sent = bytes(range(256)) * (LONG * 16 // 256)
    peer.say(b"x")
    await peer.transport.hand_to(lambda _: False)
    peer.say(sent)
    assert peer.transport._stream is not None
    while not peer.transport._stream._is_paused:  # noqa: ASYNC110 the loop pauses it
        await asyncio.sleep(0.001)
    assert len(peer.transport._stream._kept) < len(sent)
    taken = bytearray()

    def take(data: bytes) -> bool:
        taken.extend(data)
        return len(taken) < len(sent)

    await peer.transport.hand_to(take)
    assert taken == sent


async def test_an_end_is_told_behind_what_came_before_it(peer: Peer) -> None:
    take = Taking(wants_more=True)
    peer.say(b"last words")
    peer.end()
    await peer.transport.wait_closed()
    with pytest.raises(nats.errors.UnexpectedEOF):
        await peer.transport.hand_to(take)
    assert take.taken == b"last words"
    assert peer.transport.at_eof()


async def test_an_end_in_the_middle_of_a_line_gives_what_there_is_of_it(peer: Peer) -> None:
    peer.say(b"-ERR 'no")
    peer.end()
    assert await peer.transport.readline() == b"-ERR 'no"
    assert await peer.transport.readline() == b""


async def test_a_line_without_an_end_is_no_line(peer: Peer) -> None:
    peer.say(bytes(LONG))
    with pytest.raises(nats.errors.ProtocolError):
        await peer.transport.readline()


async def test_what_the_taking_raises_reaches_whoever_waits_and_nothing_is_lost_by_it(peer: Peer) -> None:
    def fails(data: bytes) -> bool:
        raise LookupError(data)

    peer.say(b"one")
    with pytest.raises(LookupError, match="one"):
        await peer.transport.hand_to(fails)
    peer.say(b"two")
    take = Taking(wants_more=False)
    await peer.transport.hand_to(take)
    assert take.taken == b"two"


async def test_whoever_no_longer_waits_is_handed_nothing(peer: Peer) -> None:
    handing = asyncio.get_running_loop().create_task(peer.transport.hand_to(lambda _: pytest.fail("was handed it")))
    await asyncio.sleep(0)
    handing.cancel()
    await asyncio.wait([handing])
    peer.say(b"late\n")
    assert await peer.transport.readline() == b"late\n"


async def test_a_new_connection_leaves_the_one_before(peer: Peer) -> None:
    first, writer = peer.reader, peer.writer
    peer.came.clear()
    await peer.transport.connect(urlparse(peer.url), 0, 2)
    await peer.came.wait()
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionResetError):
            assert await first.read() == b""
    assert writer is not None
    writer.close()
    peer.say(b"of the second\n")
    assert await peer.transport.readline() == b"of the second\n"
