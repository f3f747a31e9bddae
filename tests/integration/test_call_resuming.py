"""An answer that breaks off goes on: its caller sends what was said, and its user sees a pause."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sollol_agents.lab.testing.played_fleet import PlayedFleet, Reader
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import (
    BackendError,
    BackendUnavailable,
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    SollolError,
)
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.results import figures_of
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import encode
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures

BODY = b'{"model":"m","prompt":"hi"}'
WORDS = ["one ", "two ", "three ", "four"]


@pytest.fixture
async def other(nats_server: EmbeddedServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(BusConfig(url=nats_server.url, name="other"))
    yield bus
    await bus.close()


@pytest.fixture
async def fleet(other: Bus) -> PlayedFleet:
    fleet = PlayedFleet(other)
    await other.flush()
    return fleet


@pytest.mark.parametrize(
    ("code", "excluded", "cuts"),
    [
        (ErrorCode.NODE_LOST, ("attic",), 0),
        (ErrorCode.ENGINE_FAILED, ("attic",), 0),
        (ErrorCode.ENGINE_PROTOCOL, ("attic",), 0),
        (ErrorCode.STALLED, ("attic",), 0),
        (ErrorCode.MOVED, ("attic",), 1),
    ],
)
async def test_an_answer_that_breaks_off_goes_on(
    bus: Bus, fleet: PlayedFleet, code: ErrorCode, excluded: tuple[str, ...], cuts: int
) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        assert fleet.headers()[h.RESUME] == "1"
        fleet.say(*WORDS[:2])
        fleet.fail(code)
        await fleet.request(2)
        first, again = fleet.headers(0), fleet.headers()
        assert again[h.REQUEST_ID] == first[h.REQUEST_ID]
        assert (again[h.RESEND], again[h.RESUME]) == ("1", "1")
        assert float(again[h.WAITED]) >= 0
        assert fleet.continued() == ContinueFrom(
            text="one two ",
            pieces=2,
            fingerprint=fleet.fingerprint,
            excluded=excluded,
            resumed=1,
            cuts=cuts,
        )
        fleet.say("LATE", index=0)  # goes to an inbox that nobody reads
        fleet.say(*WORDS[2:], node="cellar")
        figures = Figures(actual_s=1.0, ttft_s=0.5, prompt_tokens=12, output_tokens=2, continued_tokens=2)
        fleet.end(figures=figures, eval_count=4)
        await reader.task
        assert reader.text == "".join(WORDS)
        assert call.resumed == 1
        assert [made.node_id for made in call.decisions] == ["attic", "cellar"]
        merged = figures_of(call.last)
        assert merged is not None
        assert (merged.prompt_tokens, merged.output_tokens, merged.resumed, merged.chunks) == (10, 4, 1, 5)
        assert merged.continued_tokens == 0


async def test_an_answer_goes_on_twice(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.NODE_LOST)
        await fleet.request(2)
        fleet.say(*WORDS[1:3], node="cellar")
        fleet.fail(ErrorCode.ENGINE_FAILED)
        await fleet.request(3)
        continued = fleet.continued()
        assert (continued.text, continued.pieces, continued.resumed) == ("one two three ", 3, 2)
        assert continued.excluded == ("attic", "cellar")
        fleet.say(WORDS[3], node="loft")
        fleet.end(eval_count=4)
        await reader.task
        assert (reader.text, call.resumed) == ("".join(WORDS), 2)


async def test_a_lost_message_is_noticed_where_it_is_missing_and_said_again(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.say(WORDS[2], skip=1)
        await fleet.request(2)
        assert (fleet.continued().text, fleet.continued().excluded) == ("one ", ())
        assert fleet.cancelled[-1].resend == 0
        fleet.say(*WORDS[1:])
        fleet.end(eval_count=4)
        await reader.task
        assert reader.text == "".join(WORDS)


async def test_an_answer_waits_for_the_callers_connection_and_goes_on(
    nats_server: EmbeddedServer, bus: Bus, other: Bus, fleet: PlayedFleet
) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        await reader.has("one ")
        await nats_server.kill()
        await eventually(lambda: not bus.is_connected)
        await nats_server.start()
        await eventually(lambda: bus.is_connected and other.is_connected)
        await fleet.request(2)
        assert (fleet.continued().text, fleet.continued().excluded) == ("one ", ())
        fleet.say(*WORDS[1:])
        fleet.end(eval_count=4)
        await reader.task
        assert reader.text == "".join(WORDS)


async def test_where_nobody_else_may_go_on_the_node_at_fault_may(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.ENGINE_FAILED)
        await fleet.request(2)
        fleet.fail(ErrorCode.NO_ELIGIBLE_NODE)
        await fleet.request(3)
        assert (fleet.continued().excluded, fleet.continued().resumed) == ((), 1)
        fleet.fail(ErrorCode.NO_ELIGIBLE_NODE, is_settled=False)
        await fleet.request(4)
        fleet.say(*WORDS[1:])
        fleet.end(eval_count=4)
        await reader.task
        assert (reader.text, call.resumed) == ("".join(WORDS), 1)


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (ErrorCode.NOT_CONTINUED, {}, "its template cannot be entered"),
        (ErrorCode.NO_ELIGIBLE_NODE, {"is_settled": True}, "its template cannot be entered"),
        (ErrorCode.REQUEST_TOO_LARGE, {}, "request_too_large"),
    ],
)
async def test_a_refused_answer_ends_with_what_broke_it_and_why_it_does_not_go_on(
    bus: Bus, fleet: PlayedFleet, code: ErrorCode, details: dict[str, Any], reason: str
) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.NODE_LOST, "the node is gone")
        await fleet.request(2)
        fleet.fail(code, "its template cannot be entered", **details)
        if code is ErrorCode.NO_ELIGIBLE_NODE:
            await fleet.request(3)
            fleet.fail(code, "its template cannot be entered", **details)
        with pytest.raises(BackendUnavailable, match="the node is gone") as told:
            await reader.task
        assert told.value.body.code is ErrorCode.NODE_LOST
        assert told.value.details["not_resumed"] == reason


async def test_an_answer_of_an_engine_that_does_not_go_on_ends_with_its_error(bus: Bus, other: Bus) -> None:
    fleet = PlayedFleet(other, fingerprint="")
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.ENGINE_FAILED)
        with pytest.raises(BackendError) as told:
            await reader.task
        assert "engine" in told.value.details["not_resumed"]


async def test_no_more_than_the_bound_is_kept(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY, resume_bytes=10) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say("eleven bytes")
        fleet.fail(ErrorCode.NODE_LOST)
        with pytest.raises(BackendUnavailable) as told:
            await reader.task
        assert "10 bytes" in told.value.details["not_resumed"]


async def test_a_caller_that_does_not_resume_is_not_moved_and_gets_the_error_as_it_is(
    bus: Bus, fleet: PlayedFleet
) -> None:
    async with Call(bus, subjects.GENERATE, BODY, resume_bytes=0) as call:
        reader = Reader(call)
        await fleet.request(1)
        assert h.RESUME not in fleet.headers()
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.NODE_LOST)
        with pytest.raises(BackendUnavailable) as told:
            await reader.task
        assert not told.value.details


async def test_a_request_that_a_form_binds_is_not_moved_and_goes_on_only_before_it_has_begun(
    bus: Bus, fleet: PlayedFleet
) -> None:
    body = b'{"model":"m","prompt":"hi","format":"json"}'
    async with Call(bus, subjects.GENERATE, body) as call:
        reader = Reader(call)
        await fleet.request(1)
        assert h.RESUME not in fleet.headers()
        fleet.say("{")
        fleet.fail(ErrorCode.NODE_LOST)
        with pytest.raises(BackendUnavailable) as told:
            await reader.task
        assert "form" in told.value.details["not_resumed"]


async def test_a_cancelled_request_does_not_go_on(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.NODE_LOST)
        await fleet.request(2)
        call.cancel()
        await eventually(lambda: fleet.cancelled[-1].resend is None)
        fleet.fail(ErrorCode.NODE_LOST)
        with pytest.raises(Cancelled):
            await reader.task


async def test_a_request_is_cancelled_while_it_waits_for_the_connection(
    nats_server: EmbeddedServer, bus: Bus, other: Bus, fleet: PlayedFleet
) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        await reader.has("one ")
        await nats_server.kill()
        await eventually(lambda: call.resends == 1)
        call.cancel()
        with pytest.raises(Cancelled):
            await reader.task
    await nats_server.start()
    await eventually(lambda: bus.is_connected and other.is_connected)


async def test_a_user_that_leaves_in_the_pause_gets_its_own_error(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.NODE_LOST)
        await fleet.request(2)
        call.leave(Cancelled("the client left"))
        with pytest.raises(Cancelled, match="the client left"):
            await reader.task


async def test_the_deadline_holds_in_the_pause(bus: Bus, fleet: PlayedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sollol_bus.sdk.sending._DEADLINE_GRACE_S", 0.1)
    async with Call(bus, subjects.GENERATE, BODY, deadline_s=0.5) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.NODE_LOST)
        await fleet.request(2)
        with pytest.raises(DeadlineExceeded):
            await reader.task


async def test_a_slow_reader_is_cut_and_does_not_go_on(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY, max_unread_bytes=100) as call:
        await fleet.request(1)
        fleet.say(*["x" * 60] * 4)
        with pytest.raises(ConnectionLost, match="unread"):
            await Reader(call).task
        assert call.resends == 0


async def test_a_reader_gets_what_came_before_the_break_first(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await fleet.request(1)
        fleet.say(*WORDS[:3])
        fleet.fail(ErrorCode.NODE_LOST)
        replies = aiter(call)
        await anext(replies)
        await fleet.bus.flush()
        await bus.flush()
        ready = call.take_ready()
        assert len(ready) == 2
        reader = Reader(call)
        await fleet.request(2)
        assert fleet.continued().text == "one two three "
        fleet.say(WORDS[3])
        fleet.end(eval_count=4)
        await reader.task
        assert reader.text == "four"


async def test_an_answer_whose_end_was_handed_out_is_whole(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.chunk(encode({"response": "", "done": True}))
        fleet.fail(ErrorCode.NODE_LOST)
        await reader.task
        assert (reader.text, call.last, call.resumed) == ("one ", None, 0)


async def test_an_answer_of_which_nothing_was_said_begins_anew(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.say("")
        fleet.fail(ErrorCode.NODE_LOST)
        await fleet.request(2)
        assert fleet.continued().is_blank
        fleet.say("", *WORDS)
        fleet.end(eval_count=4)
        await reader.task
        assert len(reader.got) == 6, "its opening comes once"
        assert reader.text == "".join(WORDS)


async def test_an_answer_goes_on_eight_times_at_most(bus: Bus, fleet: PlayedFleet) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        reader = Reader(call)
        for number in range(1, 10):
            await fleet.request(number)
            fleet.say("x", node=f"n{number}")
            fleet.fail(ErrorCode.NODE_LOST)
        with pytest.raises(BackendUnavailable) as told:
            await reader.task
        assert "8 times" in told.value.details["not_resumed"]
        assert reader.text == "x" * 9


async def test_event_streams_are_handed_out_by_whole_events(bus: Bus, fleet: PlayedFleet) -> None:
    path = {h.PATH: "/v1/other"}
    async with Call(bus, subjects.PASSTHROUGH, BODY, headers=path) as call:
        reader = Reader(call)
        await fleet.request(1)
        for data in (b"data: 1\n\nda", b"ta: 2\n", b"\ndata: 3\r\n\r\n", b"data: 4\n\n", b"data: 5\n\ndata: ha"):
            fleet.chunk(data, content="text/event-stream")
        fleet.fail(ErrorCode.NODE_LOST)
        with pytest.raises(SollolError):
            await reader.task
        assert reader.got == [
            b"data: 1\n\n",
            b"data: 2\n\ndata: 3\r\n\r\n",
            b"data: 4\n\n",
            b"data: 5\n\n",
        ]


async def test_an_undisturbed_event_stream_comes_whole_even_if_its_last_event_does_not_end(
    bus: Bus, fleet: PlayedFleet
) -> None:
    async with Call(bus, subjects.PASSTHROUGH, BODY, headers={h.PATH: "/v1/other"}) as call:
        reader = Reader(call)
        await fleet.request(1)
        fleet.chunk(b"data: 1\n\ndata: [DO", content="text/event-stream")
        fleet.chunk(b"NE]\n")
        fleet.end()
        await reader.task
        assert b"".join(reader.got) == b"data: 1\n\ndata: [DONE]\n"
