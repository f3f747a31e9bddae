"""The connection, requests and streams on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import (
    BadRequest,
    BusError,
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    NoResponders,
    NotConnected,
    PayloadTooLarge,
    RequestTimedOut,
)
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import PAYLOAD_MARGIN_BYTES, Bus, BusConfig
from sollol_bus.transport.many import request_many
from sollol_bus.transport.messages import Msg, encode, error_of
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import JobEvent, JobNews, JobState


@pytest.fixture
async def other(nats_server: EmbeddedServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(BusConfig(url=nats_server.url, name="other"))
    yield bus
    await bus.close()


async def test_a_request_gets_its_reply(bus: Bus, other: Bus) -> None:
    other.subscribe("echo", lambda m: other.publish(m.reply, m.data.upper()))
    await other.flush()
    assert (await bus.request("echo", b"hi")).data == b"HI"


async def test_a_request_that_nobody_hears_fails_at_once(bus: Bus) -> None:
    with pytest.raises(NoResponders, match="nobody listens on nowhere"):
        await bus.request("nowhere", timeout_s=30)


async def test_a_request_that_nobody_answers_times_out(bus: Bus, other: Bus) -> None:
    other.subscribe("deaf", lambda _: None)
    await other.flush()
    with pytest.raises(RequestTimedOut, match="deaf"):
        await bus.request("deaf", timeout_s=0.05)


async def test_a_withdrawn_question_is_never_answered(bus: Bus, other: Bus) -> None:
    other.subscribe("echo", lambda m: other.publish(m.reply, b"late"))
    await other.flush()
    heard: list[Msg | BusError] = []
    bus.ask("echo", b"", heard.append)()
    await bus.request("echo")  # a later reply on the same connection has arrived: so would the earlier
    assert heard == []


async def test_messages_are_handled_in_the_order_in_which_they_came_whatever_they_were_subscribed_by(
    bus: Bus, other: Bus
) -> None:
    heard: list[bytes] = []
    for subject in ("left", "right"):
        other.subscribe(subject, lambda msg: heard.append(msg.data))
    await other.flush()
    for number in range(6):
        bus.publish(("left", "right")[number % 2], b"%d" % number)
    await bus.flush()
    await other.flush()
    assert heard == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_a_subscription_costs_no_task(bus: Bus) -> None:
    before = asyncio.all_tasks()
    bus.subscribe("x", lambda _: None)
    assert asyncio.all_tasks() == before


async def test_a_failing_handler_is_logged_and_hears_the_next_message(
    bus: Bus, other: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(msg: Msg) -> None:
        if msg.data == b"bad":
            raise ValueError("cannot digest this")
        other.publish(msg.reply, b"fine")

    other.subscribe("fragile", handler)
    await other.flush()
    bus.publish("fragile", b"bad")
    assert (await bus.request("fragile", b"good")).data == b"fine"
    assert "cannot digest this" in caplog.text


async def test_a_payload_over_the_limit_is_refused_before_it_closes_the_connection(bus: Bus) -> None:
    with pytest.raises(PayloadTooLarge, match=str(bus.max_payload)):
        bus.publish("x", b"x" * (bus.max_payload + 1))
    assert (
        bus.max_payload == 8 * 1024 * 1024 - PAYLOAD_MARGIN_BYTES or bus.max_payload == 8_000_000 - PAYLOAD_MARGIN_BYTES
    )
    bus.subscribe("big", lambda m: bus.publish(m.reply, b"ok"))
    assert (await bus.request("big", b"x" * bus.max_payload, headers={"h": "v" * 4096})).data == b"ok"


async def test_headers_over_what_is_kept_free_for_them_are_refused_before_they_close_the_connection(bus: Bus) -> None:
    bus.subscribe("big", lambda m: bus.publish(m.reply, b"ok"))
    full = b"x" * bus.max_payload
    with pytest.raises(PayloadTooLarge, match=str(PAYLOAD_MARGIN_BYTES)):
        bus.publish("big", full, headers={"h": "é" * (PAYLOAD_MARGIN_BYTES // 2)})
    assert (await bus.request("big", full, headers={"h": "v" * (PAYLOAD_MARGIN_BYTES - 32)})).data == b"ok"


async def test_an_answer_that_no_message_can_hold_is_an_error_that_says_so(bus: Bus, other: Bus) -> None:
    big = ErrorBody(code=ErrorCode.INTERNAL, message="x" * bus.max_payload)
    other.subscribe("everything", lambda m: other.respond(m, big))
    await other.flush()
    refusal = error_of(await bus.request("everything"))
    assert refusal is not None
    assert (refusal.code, refusal.details["limit_bytes"]) == (ErrorCode.REPLY_TOO_LARGE, bus.max_payload)


async def test_an_address_without_a_server_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="sollol up"):
        await Bus.connect(BusConfig(url="nats://127.0.0.1:9", connect_timeout_s=1))


async def test_nothing_published_during_an_outage_is_delivered_afterwards(
    nats_server: EmbeddedServer, bus: Bus, other: Bus
) -> None:
    heard: list[bytes] = []
    other.subscribe("news", lambda m: heard.append(m.data))
    await other.flush()
    was_settling: list[bool] = []
    bus.on_reconnect(lambda: was_settling.append(bus.is_settling))
    await nats_server.kill()
    await eventually(lambda: not bus.is_connected)
    with pytest.raises(NotConnected):
        bus.publish("news", b"stale")
    await nats_server.start()
    await eventually(lambda: bus.is_connected and other.is_connected)
    await eventually(lambda: was_settling == [True])
    await other.flush()  # connected is not yet subscribed
    bus.publish("news", b"fresh")
    await eventually(lambda: heard == [b"fresh"])


async def test_questions_fail_at_once_when_the_connection_breaks(
    nats_server: EmbeddedServer, bus: Bus, other: Bus
) -> None:
    other.subscribe("deaf", lambda _: None)
    await other.flush()
    question = asyncio.gather(bus.request("deaf", timeout_s=60), return_exceptions=True)
    await bus.flush()
    await nats_server.kill()
    (error,) = await question
    assert isinstance(error, NotConnected)


# -- streams ------------------------------------------------------------------------------------------------


def counter(bus: Bus, subject: str, *, promise: int | None = None, end: bool = True) -> None:
    """A double that streams as many numbers as the request says."""

    def on_request(msg: Msg) -> None:
        count = json.loads(msg.data)
        for number in range(count):
            bus.publish(msg.reply, str(number).encode())
        if end:
            bus.publish(msg.reply, b"", headers={"Sollol-Chunks": str(count if promise is None else promise)})

    bus.subscribe(subject, on_request)


async def test_a_stream_ends_with_the_empty_message(bus: Bus, other: Bus) -> None:
    counter(other, "count")
    await other.flush()
    assert [m.data async for m in request_many(bus, "count", b"5")] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_lost_message_is_noticed_at_the_end(bus: Bus, other: Bus) -> None:
    counter(other, "count", promise=6)
    await other.flush()
    with pytest.raises(ConnectionLost, match="5 of 6"):
        _ = [m async for m in request_many(bus, "count", b"5")]


async def test_a_stream_that_goes_silent_times_out(bus: Bus, other: Bus) -> None:
    counter(other, "count", end=False)
    await other.flush()
    with pytest.raises(RequestTimedOut):
        _ = [m async for m in request_many(bus, "count", b"2", gap_s=0.05)]


async def test_a_stream_has_a_deadline(bus: Bus, other: Bus) -> None:
    counter(other, "count", end=False)
    await other.flush()
    with pytest.raises(DeadlineExceeded):
        _ = [m async for m in request_many(bus, "count", b"2", total_s=0.05)]


async def test_an_error_in_the_stream_is_raised_as_its_class(bus: Bus, other: Bus) -> None:
    def on_request(msg: Msg) -> None:
        other.publish(msg.reply, b"one")
        other.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message="no such field: x"))
        other.publish(msg.reply, b"")

    other.subscribe("broken", on_request)
    await other.flush()
    async with ReplyStream(bus) as stream:
        stream.send("broken", b"")
        replies = aiter(stream)
        assert (await anext(replies)).data == b"one"
        with pytest.raises(BadRequest, match="no such field"):
            await anext(replies)


async def test_a_split_chunk_is_put_together_again(bus: Bus, other: Bus) -> None:
    def on_request(msg: Msg) -> None:
        for part, data in ((1, b"a"), (2, b"b"), (3, b"c")):
            other.publish(msg.reply, data, headers={"Sollol-Part": f"{part}/3"})
        other.publish(msg.reply, b"d")
        other.publish(msg.reply, b"", headers={"Sollol-Chunks": "4"})

    other.subscribe("large", on_request)
    await other.flush()
    assert [m.data async for m in request_many(bus, "large")] == [b"abc", b"d"]


async def test_whoever_publishes_learns_that_the_reader_left(bus: Bus, other: Bus) -> None:
    gone: list[Msg] = []
    inboxes: list[str] = []
    other.subscribe("probe.*", gone.append)
    other.subscribe("endless", lambda m: inboxes.append(m.reply))
    await other.flush()
    async with ReplyStream(bus) as stream:
        stream.send("endless", b"")
        await eventually(lambda: inboxes != [])
        other.publish(inboxes[0], b"token", reply="probe.1")
        assert (await anext(aiter(stream))).data == b"token"
        assert gone == []
    await bus.flush()
    other.publish(inboxes[0], b"token", reply="probe.2")
    await eventually(lambda: [m.subject for m in gone] == ["probe.2"])


async def test_a_reader_that_falls_too_far_behind_is_cut_off(bus: Bus, other: Bus) -> None:
    counter(other, "count")
    await other.flush()
    async with ReplyStream(bus, max_unread_bytes=10) as stream:
        stream.send("count", b"50")
        await eventually(lambda: stream.messages > 10)
        with pytest.raises(ConnectionLost, match="unread"):
            _ = [m async for m in stream]


async def test_a_request_that_is_sent_again_forgets_the_answer_to_the_earlier_sending(bus: Bus, other: Bus) -> None:
    def serve(msg: Msg) -> None:
        other.publish(msg.reply, msg.data)
        other.publish(msg.reply, b"")

    other.subscribe("echo", serve)
    await other.flush()
    async with ReplyStream(bus) as stream:
        stream.send("echo", b"one")
        assert [msg.data async for msg in stream] == [b"one"]
        stream.reopen()
        stream.send("echo", b"two")
        assert stream.first is None
        assert not stream.has_begun
        assert [msg.data async for msg in stream] == [b"two"]
        assert stream.first is not None
        assert stream.first.data == b"two"


# -- watching --------------------------------------------------------------------------------------------------


async def test_a_watcher_is_told_when_the_connection_is_closed_for_good(nats_server: EmbeddedServer) -> None:
    async with asyncio.timeout(60), Client(nats_server.url) as client:
        watched = client.watch_nodes()
        told = asyncio.gather(anext(watched), return_exceptions=True)
        await client.bus.flush()
        await client.bus.close()
        [error] = await told
    assert isinstance(error, NotConnected)


async def test_a_watcher_of_jobs_passes_over_what_is_no_event(bus: Bus, other: Bus) -> None:
    watched = Client(bus).jobs.watch()
    first = asyncio.gather(anext(watched))
    await asyncio.wait_for(bus.flush(), 60)
    event = JobEvent(job_id="j", news=JobNews.DONE, state=JobState.DONE)
    for payload in (b"not an event", encode(event)):
        other.publish(subjects.JOB_EVENT.of("j", "done"), payload)
    assert (await asyncio.wait_for(first, 60))[0] == event
