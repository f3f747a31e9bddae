"""What streams have stored: one message, blocks of them, and how many there are; and its removal.

Single messages are read from the stream's leader. Blocks come by the server's direct get, which any server that has
a copy may answer: one that is not the leader may be behind for a moment.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Mapping, Sequence

import msgspec

from sollol_bus.errors import BusError, NoResponders, RequestTimedOut
from sollol_bus.jetstream.api import JetStreamRefused, api
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.waiting import happens
from sollol_schemas.headers import NO_RESPONDERS, STATUS

log = logging.getLogger(__name__)

_BLOCK = 256
_BLOCK_BYTES = 4 << 20
_ANSWER_S = 5.0
_AT_END = ("204", "404")


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A message as a stream keeps it."""

    seq: int
    subject: str
    data: bytes
    headers: dict[str, str]
    time: str
    """When the server stored it, in its own spelling of an instant."""


class StreamState(msgspec.Struct, frozen=True):
    """How much a stream holds."""

    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0


class StreamInfo(msgspec.Struct, frozen=True):
    """What the server tells about a stream."""

    state: StreamState
    ts: str = ""
    """The server's time."""


class _Raw(msgspec.Struct):
    """A message as the stream's leader tells it; body and headers in base64."""

    seq: int
    subject: str
    time: str
    hdrs: str = ""
    data: str = ""


class _Found(msgspec.Struct):
    message: _Raw


async def stored_message(
    bus: Bus, stream: str, *, subject: str = "", seq: int = 0, timeout_s: float = _ANSWER_S
) -> Stored | None:
    """The last message of a subject (wildcards permitted), or the one with a number; None when there is none.

    Raises:
        BusError: There is no such stream, or the server does not answer.
    """
    question: dict[str, object] = {"last_by_subj": subject} if subject else {"seq": seq}
    try:
        answer = await api(bus, f"STREAM.MSG.GET.{stream}", question, timeout_s=timeout_s)
    except JetStreamRefused as error:
        if error.is_no_message:
            return None
        raise
    raw = decode(answer, _Found).message
    headers = _headers_in(base64.b64decode(raw.hdrs))
    return Stored(seq=raw.seq, subject=raw.subject, data=base64.b64decode(raw.data), headers=headers, time=raw.time)


async def stored_block(bus: Bus, stream: str, subject: str, start: int, *, count: int = _BLOCK) -> list[Stored]:
    """Up to `count` messages of a subject (wildcards permitted), 4 MiB at most, from number `start` on.

    Raises:
        BusError: There is no such stream, the server does not answer, or the connection broke in the middle.
    """
    question = {"seq": max(1, start), "next_by_subj": subject, "batch": count, "max_bytes": _BLOCK_BYTES}
    return await _read(bus, stream, question)


async def stored_last(bus: Bus, stream: str, subjects: Sequence[str]) -> list[Stored]:
    """The last message of each of these subjects that has one, in any order; 1000 subjects at most.

    Raises:
        BusError: There is no such stream, the server does not answer, or the connection broke in the middle.
    """
    found: dict[str, Stored] = {}
    wanted = list(subjects)
    while wanted:  # the server stops where an answer grows large
        part = await _read(bus, stream, {"multi_last": wanted, "batch": len(wanted), "max_bytes": _BLOCK_BYTES})
        found |= {one.subject: one for one in part}
        if not part or sum(len(one.data) for one in part) < _BLOCK_BYTES // 2:
            break
        wanted = [subject for subject in wanted if subject not in found]
    return list(found.values())


async def _read(bus: Bus, stream: str, question: Mapping[str, object]) -> list[Stored]:
    """What a direct get answers."""
    found: list[Stored] = []
    ended: list[BusError | None] = []
    is_over = asyncio.Event()

    def on_message(msg: Msg | BusError) -> None:
        if isinstance(msg, BusError) or (not msg.data and STATUS in (msg.headers or {})):
            ended.append(_failure_in(msg))
            is_over.set()
        else:
            found.append(_stored_of(msg))

    inbox = bus.reply_inbox(on_message)
    try:
        bus.publish(f"{bus.config.jetstream_api}.DIRECT.GET.{stream}", encode(question), reply=inbox.subject)
        if not await happens(is_over, _ANSWER_S):
            raise RequestTimedOut(f"stream {stream} does not answer")
    finally:
        inbox.close()
    if ended[0] is not None:
        raise ended[0]
    return found


async def stream_info(bus: Bus, stream: str, *, timeout_s: float = _ANSWER_S) -> StreamInfo:
    """What the server tells about a stream.

    Raises:
        BusError: There is no such stream, or the server does not answer.
    """
    return decode(await api(bus, f"STREAM.INFO.{stream}", timeout_s=timeout_s), StreamInfo)


async def delete_message(bus: Bus, stream: str, seq: int) -> None:
    """Removes a message; one that is gone already is no error."""
    try:
        await api(bus, f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    except JetStreamRefused as error:
        log.debug("message %d of %s: %s", seq, stream, error)


async def purge_subject(bus: Bus, stream: str, subject: str) -> None:
    """Removes every message of one subject."""
    await api(bus, f"STREAM.PURGE.{stream}", {"filter": subject})


def _failure_in(last: Msg | BusError) -> BusError | None:
    """Why a block ended before its end; None when it did not."""
    if isinstance(last, BusError):
        return last
    headers = last.headers or {}
    status = headers.get(STATUS, "")
    if status in _AT_END:
        return None
    if status == NO_RESPONDERS:
        return NoResponders("no such stream, or none that may be read directly")
    return BusError(f"the stream cannot be read: {status} {headers.get('Description', '')}")


def _stored_of(msg: Msg) -> Stored:
    headers = dict(msg.headers or {})
    return Stored(
        seq=int(headers.pop("Nats-Sequence", "0")),
        subject=headers.pop("Nats-Subject", ""),
        data=bytes(msg.data),
        headers=headers,
        time=headers.pop("Nats-Time-Stamp", ""),
    )


def _headers_in(block: bytes) -> dict[str, str]:
    lines = block.decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
