"""Connections whose server stops without a word: what is proven to have arrived, and leaving at once."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import struct
import termios
import time
from collections.abc import AsyncIterator

import nats.errors
import pytest

from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import NotConnected
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg

MANY = 40


@pytest.fixture
async def link(nats_server: EmbeddedServer) -> AsyncIterator[Link]:
    async with Link(nats_server.url) as made:
        yield made


@pytest.fixture
async def far(link: Link) -> AsyncIterator[Bus]:
    connected = await Bus.connect(BusConfig(url=link.url, name="far"))
    try:
        yield connected
    finally:
        link.thaw()
        await connected.close()


async def fill(link: Link, far: Bus) -> None:
    """Publishes until the socket of a frozen line is full, and more waits."""
    link.freeze()
    for number in range(MANY):
        far.publish("news", b"%08d" % number + bytes(1 << 20))
        await asyncio.sleep(0)
    await eventually(lambda: far.nats.pending_data_size > 1 << 20)


async def test_a_pong_proves_what_was_published_before_its_ping(link: Link, bus: Bus, far: Bus) -> None:
    heard: list[Msg] = []
    bus.subscribe("news", heard.append)
    await bus.flush()
    for number in range(20):
        published = time.monotonic()
        far.publish("news")
        await far.flush()
        assert far.proven_mono_s >= published
        await bus.flush()
        assert len(heard) == number + 1
    link.freeze()
    lost = time.monotonic()
    far.publish("news")
    with pytest.raises(NotConnected, match="no answer"):
        await far.flush(timeout_s=0.05)
    assert far.proven_mono_s <= lost
    link.cut()
    await eventually(lambda: far.reconnects == 1)
    await bus.flush()
    assert len(heard) == 20, "what was on its way is lost"


async def test_a_server_that_takes_nothing_any_more_is_left_at_once(link: Link, far: Bus) -> None:
    link.freeze()
    for _ in range(40):
        far.publish("news", bytes(1 << 20))
        await asyncio.sleep(0)  # the library writes it out
    left: list[float] = []
    far.on_disconnect(lambda: left.append(time.monotonic()))
    await far.nats._process_op_err(nats.errors.StaleConnectionError())
    await eventually(lambda: bool(left))
    assert not far.is_connected


async def test_what_came_before_a_write_failed_is_heard_although_nothing_can_be_answered(bus: Bus, far: Bus) -> None:
    heard: list[bytes] = []
    refused: list[NotConnected] = []

    def take(msg: Msg) -> None:
        heard.append(msg.data)
        try:
            far.publish("answer")
        except NotConnected as error:
            refused.append(error)

    far.subscribe("work", take)
    await far.flush()
    stream = far.nats._transport._stream  # type: ignore[union-attr]
    transport = stream.transport
    transport.pause_reading()  # a process that does not run reads nothing
    work = [b"1" * 1000, b"2" * 1000]
    for body in work:
        bus.publish("work", body)
    descriptor = transport.get_extra_info("socket").fileno()
    await eventually(lambda: _bytes_in(descriptor) > 2000)
    transport.abort()
    (number,) = [sid for sid, inner in far.nats._subs.items() if inner.subject == "work"]
    stream._keep(b"MSG work %d 1\r\n0\r\n" % number)
    await far.nats._process_op_err(BrokenPipeError())
    assert heard == [b"0", *work], "what was read, and then what was not"
    assert len(refused) == 3
    await eventually(lambda: far.reconnects == 1)
    bus.publish("work", b"3")
    await eventually(lambda: heard == [b"0", *work, b"3"])


def _bytes_in(descriptor: int) -> int:
    """How much lies in a socket unread."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"1234"))[0])


async def test_a_flush_that_is_answered_too_late_is_nobodys_trouble(
    link: Link, far: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    over = asyncio.Event()

    async def flush(timeout: float) -> None:
        try:
            await asyncio.sleep(0.1)
            raise nats.errors.FlushTimeoutError
        finally:
            over.set()

    monkeypatch.setattr(far.nats, "flush", flush)
    with pytest.raises(NotConnected):
        await far.measure_rtt(timeout_s=0.01)
    await over.wait()
    await asyncio.sleep(0)
    gc.collect()
    assert troubles == []


async def test_what_a_full_socket_does_not_take_waits_and_leaves_in_order(link: Link, bus: Bus, far: Bus) -> None:
    heard: list[int] = []
    bus.subscribe("news", lambda msg: heard.append(int(msg.data[:8])))
    await bus.flush()
    await fill(link, far)
    making_room = asyncio.get_running_loop().create_task(far.make_room())
    await asyncio.sleep(0.01)
    assert not making_room.done()
    link.thaw()
    await making_room
    await eventually(lambda: len(heard) == MANY)
    assert heard == list(range(MANY))


async def test_what_did_not_leave_before_an_outage_does_not_leave_after_it(link: Link, bus: Bus, far: Bus) -> None:
    heard: list[bytes] = []
    bus.subscribe("news", lambda msg: heard.append(msg.data[:8]))
    await bus.flush()
    await fill(link, far)
    link.cut()
    await eventually(lambda: far.reconnects == 1)
    far.publish("news", b"later")
    await far.flush()
    await bus.flush()
    assert heard == [b"later"]
