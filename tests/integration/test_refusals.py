"""What callers hear who are refused: one error, its end where they wait for a stream, and nothing more."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import CancelReply
from sollol_schemas.jobs import JobListReply

PULL = subjects.ADMIN_NODE.of("pull")
CASES = [
    (subjects.GENERATE, b"", {}, 400, False),
    (subjects.GENERATE, b"{", {}, 400, False),
    (subjects.GENERATE, b'{"stream": true, "priority": "odd", "model": "m"}', {}, 400, True),
    (subjects.GENERATE, b'{"stream": false, "priority": "odd", "model": "m"}', {}, 400, False),
    (subjects.CHAT, b"[", {h.STREAM: "1"}, 400, True),
    (subjects.PASSTHROUGH, b'{"model": "m"}', {}, 400, False),
    (subjects.PASSTHROUGH, b'{"model": "m", "stream" :true}', {}, 400, True),
    (subjects.PASSTHROUGH, b"{}", {h.PATH: "/api/delete"}, 403, False),
    (subjects.ROUTE, b"{", {}, 400, False),
    (subjects.STATE, b"", {}, 400, False),
    (subjects.JOB_GET, b'{"job_id": "nobody-s"}', {}, 404, False),
    (subjects.JOB_GET, b'{"job_id": "nobody-s", "with_result": true}', {}, 404, True),
    (subjects.JOB_GET, b"", {}, 400, False),
    (subjects.JOB_CANCEL, b'{"job_id": "nobody-s"}', {}, 404, False),
    (subjects.JOB_ENQUEUE, b"", {}, 400, False),
    (subjects.ADMIN_NODE.of("drain"), b"", {}, 400, False),
    (PULL, b'{"node_id": "n1"}', {}, 400, True),
    (PULL, b'{"node_id": "n1", "model": "m"}', {}, 404, True),
]


@pytest.mark.parametrize(
    "case",
    CASES,
    ids=[f"{case[0].removeprefix('sollol.v1.')}-{number}" for number, case in enumerate(CASES)],
)
async def test_a_refusal_ends_a_stream_and_nothing_else(
    dispatcher: Dispatcher, bus: Bus, case: tuple[str, bytes, dict[str, str], int, bool]
) -> None:
    subject, body, headers, status, is_stream = case
    heard = await heard_of(dispatcher, bus, bus.new_inbox(), subject, body, headers)
    assert error_of(heard[0]) is not None
    assert (heard[0].headers or {})[h.SERVICE_ERROR_CODE] == str(status)
    assert [(msg.data, (msg.headers or {}).get(h.CHUNKS)) for msg in heard[1:]] == ([(b"", "1")] if is_stream else [])


@pytest.mark.parametrize("subject", [subjects.JOB_LIST, subjects.JOB_DEAD])
async def test_an_empty_body_means_the_defaults(dispatcher: Dispatcher, bus: Bus, subject: str) -> None:
    assert decode((await bus.request(subject)).data, JobListReply).jobs == ()


@pytest.mark.parametrize("asked", [{"request_id": "nobody-s", "secret": "s"}, {"request_id": "x", "secret": ""}])
async def test_the_cancel_of_an_unknown_request_is_answered(
    dispatcher: Dispatcher, bus: Bus, asked: dict[str, str]
) -> None:
    reply = decode((await bus.request(subjects.CANCEL, encode(asked))).data, CancelReply)
    assert reply == CancelReply(request_id=asked["request_id"], is_cancelled=False)


async def test_a_cancel_that_cannot_be_read_is_answered(dispatcher: Dispatcher, bus: Bus) -> None:
    error = error_of(await bus.request(subjects.CANCEL))
    assert error is not None
    assert error.code is ErrorCode.BAD_REQUEST
    assert "request_id" in error.message


async def test_an_inbox_of_ones_own_prefix_is_answered(dispatcher: Dispatcher, bus: Bus) -> None:
    assert len(await heard_of(dispatcher, bus, "_INBOX_mine.a.b", subjects.GENERATE, b"{")) == 1


async def heard_of(dispatcher: Dispatcher, bus: Bus, inbox: str, *question: Any) -> list[Msg]:
    """Everything that comes to a question, until the dispatcher has answered another one behind it."""
    heard: list[Msg] = []
    bus.subscribe(inbox, heard.append)
    subject, body, *headers = question
    bus.publish(subject, body, reply=inbox, headers=headers[0] if headers else None)
    while not heard:
        await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
    await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
    return heard
