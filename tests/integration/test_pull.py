"""The pull consumer, on a real server that is also killed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.jetstream import pull
from sollol_bus.jetstream.api import api, publish_acked
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.jetstream.streams import StreamSpec, ensure_stream
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg

SPEC = ConsumerSpec(stream="S", durable="d", ack_wait_s=1.0)


@pytest.fixture(autouse=True)
async def stream(bus: Bus) -> None:
    await ensure_stream(bus, StreamSpec(name="S", subjects=("s.>",), retention="workqueue"))


@contextlib.asynccontextmanager
async def running(consumer: PullConsumer) -> AsyncIterator[PullConsumer]:
    task = asyncio.get_running_loop().create_task(consumer.run())
    try:
        yield consumer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def store(bus: Bus, count: int, *, start: int = 0) -> None:
    await asyncio.gather(*(publish_acked(bus, f"s.{n}", b"%d" % n) for n in range(start, start + count)))


async def test_everything_is_delivered_in_order_and_gone_after_its_ack(bus: Bus) -> None:
    seen: list[bytes] = []

    def handle(delivery: Delivery) -> None:
        seen.append(delivery.data)
        delivery.ack()

    for n in range(300):
        await publish_acked(bus, f"s.{n}", b"%d" % n)
    async with running(PullConsumer(bus, SPEC, handle, window=20)) as consumer:
        await eventually(lambda: len(seen) == 300)
        assert consumer.in_hand == 0
    assert seen == [b"%d" % n for n in range(300)]

    async def is_empty() -> bool:
        return b'"messages":0' in await api(bus, "STREAM.INFO.S")

    await eventually(is_empty)


async def test_a_durable_that_is_there_hears_of_other_subjects_once_somebody_wants_them(bus: Bus) -> None:
    await ensure_stream(bus, StreamSpec(name="E", subjects=("e.>",)))
    seen: list[str] = []

    def handle(delivery: Delivery) -> None:
        seen.append(delivery.subject)
        delivery.ack()

    for n, wanted in enumerate((("e.old", "e.both"), ("e.both", "e.new"))):
        spec = ConsumerSpec(stream="E", durable="d", filter_subjects=wanted)
        async with running(PullConsumer(bus, spec, handle)):
            for subject in ("e.old", "e.new", "e.both"):
                await publish_acked(bus, subject, b"")
            await eventually(lambda n=n: seen.count("e.both") == n + 1)
    assert seen.count("e.old") == 1
    assert "e.new" in seen


async def test_no_more_than_the_window_is_in_hand(bus: Bus) -> None:
    held: list[Delivery] = []
    await store(bus, 50)
    async with running(PullConsumer(bus, SPEC, held.append, window=7)) as consumer:
        await eventually(lambda: consumer.in_hand == 7)
        await bus.flush()
        assert consumer.in_hand == 7
        held[0].ack()
        await eventually(lambda: len(held) == 8)
        assert consumer.in_hand == 7


async def test_a_delivery_tells_what_the_server_knows_about_it(bus: Bus) -> None:
    held: list[Delivery] = []
    await publish_acked(bus, "s.a", b"x", headers={"Kind": "first"})
    await publish_acked(bus, "s.b", b"y")
    async with running(PullConsumer(bus, SPEC, held.append)):
        await eventually(lambda: len(held) == 2)
    first = held[0]
    assert (first.subject, first.stream_seq, first.deliveries, first.pending) == ("s.a", 1, 1, 1)
    assert first.headers["Kind"] == "first"
    assert held[1].headers == {}
    assert held[1].stored_at_ns >= first.stored_at_ns > 1_600_000_000 * 10**9


async def test_a_nak_brings_the_message_back_after_its_delay(bus: Bus) -> None:
    deliveries: list[int] = []

    def handle(delivery: Delivery) -> None:
        deliveries.append(delivery.deliveries)
        if delivery.deliveries < 3:
            delivery.nak(0.05 * delivery.deliveries)
        else:
            delivery.ack()

    await store(bus, 1)
    async with running(PullConsumer(bus, SPEC, handle)):
        await eventually(lambda: len(deliveries) == 3)
    assert deliveries == [1, 2, 3]


async def test_what_is_not_settled_comes_again_unless_progress_is_reported(bus: Bus) -> None:
    held: list[Delivery] = []
    await store(bus, 1)
    async with running(PullConsumer(bus, SPEC, held.append)):
        await eventually(lambda: len(held) == 1)
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.5 * SPEC.ack_wait_s
        while loop.time() < until:
            held[0].in_progress()
            await asyncio.sleep(0.2)
        assert len(held) == 1
        await eventually(lambda: len(held) == 2)
        assert held[1].deliveries == 2


async def test_a_terminated_message_never_comes_again(bus: Bus) -> None:
    advisories: list[bytes] = []
    bus.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.d", lambda m: advisories.append(m.data))
    held: list[Delivery] = []
    await store(bus, 1)
    async with running(PullConsumer(bus, SPEC, held.append)):
        await eventually(lambda: len(held) == 1)
        held[0].term("not decodable")
        await eventually(lambda: bool(advisories))
    assert b"not decodable" in advisories[0]


async def test_a_handler_that_raises_gives_its_message_back(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def handle(delivery: Delivery) -> None:
        seen.append(delivery.deliveries)
        if delivery.deliveries == 1:
            raise RuntimeError("first time")
        delivery.ack()

    await store(bus, 1)
    async with running(PullConsumer(bus, SPEC, handle)) as consumer:
        await eventually(lambda: seen == [1, 2])
        assert consumer.in_hand == 0
    assert any("failed" in record.message for record in caplog.records)


async def test_nothing_is_lost_and_nothing_waits_for_long_when_the_server_is_killed(
    nats_server: EmbeddedServer, bus: Bus
) -> None:
    seen: set[bytes] = set()

    def handle(delivery: Delivery) -> None:
        seen.add(delivery.data)
        delivery.ack()

    await store(bus, 200)
    async with running(PullConsumer(bus, SPEC, handle, window=10)):
        await eventually(lambda: len(seen) > 20)
        await nats_server.kill()
        await nats_server.start()
        await eventually(lambda: bus.is_connected)
        await store(bus, 100, start=200)
        await eventually(lambda: len(seen) == 300)


async def test_it_waits_for_a_connection_that_is_down_and_asks_nobody_meanwhile(
    nats_server: EmbeddedServer, bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    def tried() -> int:
        return sum(getattr(record, "action", "") == "pull_retry" for record in caplog.records)

    caplog.set_level(logging.INFO)
    seen: list[bytes] = []

    def handle(delivery: Delivery) -> None:
        seen.append(delivery.data)
        delivery.ack()

    consumer = PullConsumer(bus, SPEC, handle, heartbeat_s=0.1)
    await nats_server.kill()
    await eventually(lambda: not bus.is_connected)
    async with running(consumer):
        await eventually(lambda: tried() == 1)
        await asyncio.sleep(0.5)  # five times as long as it waits otherwise
        assert tried() == 1
        await nats_server.start()
        await eventually(lambda: bus.is_connected)
        await store(bus, 1)
        await eventually(lambda: seen == [b"0"])


@pytest.mark.parametrize(("is_alone", "heartbeat_s"), [(True, 10), (False, 2)])
async def test_a_server_that_may_lose_a_pull_without_a_word_says_more_often_that_it_has_nothing(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, is_alone: bool, heartbeat_s: int
) -> None:
    monkeypatch.setattr(pull, "is_lone", lambda _: is_alone)
    asked: list[dict[str, int]] = []
    bus.subscribe("$JS.API.CONSUMER.MSG.NEXT.S.d", lambda msg: asked.append(msgspec.json.decode(msg.data)))
    async with running(PullConsumer(bus, SPEC, Delivery.ack)):
        await eventually(lambda: bool(asked))
    assert asked[0]["idle_heartbeat"] == heartbeat_s * 10**9


async def test_a_lone_server_says_that_a_pull_ends_with_its_consumer_or_its_stream(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[bytes] = []

    def handle(delivery: Delivery) -> None:
        seen.append(delivery.data)
        delivery.ack()

    async with running(PullConsumer(bus, SPEC, handle)):
        for n, ended in enumerate(("CONSUMER.DELETE.S.d", "STREAM.DELETE.S")):
            await store(bus, 1, start=2 * n)
            await eventually(lambda n=n: len(seen) == 2 * n + 1)
            await api(bus, ended)
            await ensure_stream(bus, StreamSpec(name="S", subjects=("s.>",), retention="workqueue"))
            await store(bus, 1, start=2 * n + 1)
            await eventually(lambda n=n: len(seen) == 2 * n + 2)
    assert seen == [b"0", b"1", b"2", b"3"]
    assert not [record for record in caplog.records if getattr(record, "action", "") == "pull_silent"]


async def test_no_more_bytes_are_in_hand_than_the_window_has(bus: Bus) -> None:
    largest, count = bus.max_payload, 10
    held: list[Delivery] = []
    taken: list[str] = []

    def handle(delivery: Delivery) -> None:
        held.append(delivery)
        taken.append(delivery.subject)

    for n in range(count):
        await publish_acked(bus, f"s.{n}", bytes(largest // 2))
    async with running(PullConsumer(bus, SPEC, handle, window=64, window_bytes=1)) as consumer:
        for _ in range(count):
            await eventually(lambda: bool(held), complaint="the next one comes")
            await bus.flush()
            assert sum(one.size_bytes for one in held) <= 2 * largest + (1 << 20)
            held.pop(0).ack()
        assert consumer.in_hand == 0
    assert taken == [f"s.{n}" for n in range(count)]


async def test_a_durable_that_was_deleted_is_made_again(bus: Bus) -> None:
    seen: list[bytes] = []

    def handle(delivery: Delivery) -> None:
        seen.append(delivery.data)
        delivery.ack()

    async with running(PullConsumer(bus, SPEC, handle)):
        await store(bus, 1)
        await eventually(lambda: len(seen) == 1)
        await api(bus, "CONSUMER.DELETE.S.d")
        await store(bus, 1, start=1)
        await eventually(lambda: b"1" in seen)  # after the first once more, where its ack met no durable


async def test_two_that_share_a_durable_share_the_work(bus: Bus) -> None:
    seen: tuple[list[bytes], list[bytes]] = ([], [])

    def handler_for(number: int) -> Callable[[Delivery], None]:
        def handle(delivery: Delivery) -> None:
            seen[number].append(delivery.data)
            delivery.ack()

        return handle

    async with (
        running(PullConsumer(bus, SPEC, handler_for(0), window=5)),
        running(PullConsumer(bus, SPEC, handler_for(1), window=5)),
    ):
        await store(bus, 200)
        await eventually(lambda: len(seen[0]) + len(seen[1]) == 200)
    assert sorted(seen[0] + seen[1]) == sorted(b"%d" % n for n in range(200))


async def test_what_others_gave_back_is_taken_beside_a_full_window_as_soon_as_one_place_is_free(bus: Bus) -> None:
    theirs: list[Delivery] = []
    ours: list[Delivery] = []
    slow = ConsumerSpec(stream="S", durable="d", ack_wait_s=60)
    for n in range(20):
        await store(bus, 1, start=n)
    other = PullConsumer(bus, slow, theirs.append, window=6)
    async with running(other):
        await eventually(lambda: len(theirs) == 6)
        async with running(PullConsumer(bus, slow, ours.append, window=4, beyond=8)) as consumer:
            await eventually(lambda: consumer.is_full)
            await other.drain()
            for delivery in theirs:
                delivery.nak()
            await theirs[-1].confirmed(5.0)
            ours[0].ack()
            await eventually(lambda: len(ours) == 11)
            assert [d.stream_seq for d in ours] == [7, 8, 9, 10, 1, 2, 3, 4, 5, 6, 11]
            for delivery in ours[1:5]:
                delivery.ack()
            await eventually(lambda: len(ours) == 14)
            assert consumer.in_hand == 9, "five that others had, and a window of four"


async def test_who_hears_that_others_gave_messages_back_asks_for_them_beyond_its_window(bus: Bus) -> None:
    held: list[Delivery] = []
    slow = ConsumerSpec(stream="S", durable="d", ack_wait_s=60)
    await store(bus, 20)
    async with running(PullConsumer(bus, slow, held.append, window=4)) as consumer:
        await eventually(lambda: consumer.is_full)
        consumer.expect(3)
        await eventually(lambda: len(held) == 7)
        consumer.expect(1000)
        await eventually(lambda: len(held) == 15)
        await bus.flush()
        assert len(held) == 15, "two windows at most"


async def test_a_request_that_brought_all_it_was_to_bring_is_no_trouble(bus: Bus) -> None:
    """The server says so where bytes are counted; beginning anew would lose what is on its way."""
    begun: list[Msg] = []
    seen: list[int] = []
    bus.subscribe("$JS.API.CONSUMER.DURABLE.CREATE.S.d", begun.append)

    def handle(delivery: Delivery) -> None:
        seen.append(delivery.stream_seq)
        delivery.ack()

    async with running(PullConsumer(bus, SPEC, handle, window=2, window_bytes=100_000)):
        for n in range(600):
            await publish_acked(bus, f"s.{n}", b"")
        await eventually(lambda: len(seen) == 600)
    assert seen == list(range(1, 601))
    assert len(begun) == 1


@pytest.mark.shutdown
async def test_after_stop_new_messages_are_given_back_at_once_and_those_in_hand_may_be_settled(bus: Bus) -> None:
    held: list[Delivery] = []
    taken: list[Delivery] = []
    slow = ConsumerSpec(stream="S", durable="d", ack_wait_s=60)
    await store(bus, 1)
    async with running(PullConsumer(bus, slow, held.append, window=10)) as consumer:
        await eventually(lambda: len(held) == 1)
        consumer.stop()
        await store(bus, 5, start=1)
        async with running(PullConsumer(bus, slow, taken.append, window=10)):
            await eventually(lambda: len({d.stream_seq for d in taken}) == 5)
        assert len(held) == 1
        held[0].ack()
        await bus.flush()
