"""NATS' protocol, written and read."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ProtocolError

from sollol_bus.transport.wire import MessageParser, block_of, plain_headers, publication

MESSAGES = [
    (1, b"news", b"", b"", b""),
    (2, b"news.of.today", b"_INBOX.x.7", b"some words", b""),
    (3, b"news", b"_INBOX.x.8", b"\r\nMSG news 1 5\r\nfalse\r\n", b"NATS/1.0\r\nSollol-Chunks: 3\r\n\r\n"),
    (12, b"news", b"", b"", b"NATS/1.0 503\r\n\r\n"),
    (4, b"news", b"", bytes(range(256)) * 40, b"NATS/1.0\r\nA: b\r\nC: d\r\n\r\n"),
]


def sent(sid: int, subject: bytes, reply: bytes, data: bytes, block: bytes) -> bytes:
    """A message as the server sends it."""
    answer = reply + b" " if reply else b""
    if not block:
        return b"MSG %b %d %b%d\r\n%b\r\n" % (subject, sid, answer, len(data), data)
    sizes = b"%d %d" % (len(block), len(block) + len(data))
    return b"HMSG %b %d %b%b\r\n%b%b\r\n" % (subject, sid, answer, sizes, block, data)


class Receiver:
    """A connection that notes what it gets, and takes every second message itself."""

    def __init__(self) -> None:
        self.parser = MessageParser(self)
        self.got: list[Any] = []

    def deliver(self, *message: Any) -> bool:
        if message[0] % 2:
            return False
        self.got.append(message)
        return True

    async def _process_msg(self, *message: Any) -> None:
        self.got.append(message)

    async def _process_ping(self) -> None:
        self.got.append("ping")

    async def _process_err(self, text: str) -> None:
        self.got.append(text)
        self.parser.reset()

    def feed(self, *pieces: bytes) -> list[Any]:
        async def run() -> None:
            for piece in pieces:
                await self.parser.parse(piece)

        asyncio.run(run())
        return self.got


def test_a_publication_is_what_the_protocol_asks_for() -> None:
    assert publication("a.b", "", b"xy") == b"PUB a.b  2\r\nxy\r\n"
    assert publication("a.b", "r", b"") == b"PUB a.b r 0\r\n\r\n"
    block = block_of({"Sollol-Part": "1/2", "Nats-Msg-Id": "ü"})
    assert block == "NATS/1.0\r\nSollol-Part: 1/2\r\nNats-Msg-Id: ü\r\n\r\n".encode()
    assert (
        publication("a.b", "r", b"xy", block)
        == b"HPUB a.b r %d %d\r\n" % (len(block), len(block) + 2) + block + b"xy\r\n"
    )


@pytest.mark.parametrize("value", ["x\r\nEvil: 1", "x\nEvil: 1", "x\rEvil: 1", "\r\n\r\nPING\r\n"])
def test_no_value_of_a_header_ends_its_line(value: str) -> None:
    block = block_of({"Sollol-Caller": value, "Last": "1"})
    assert block.count(b"\r\n") == 4
    assert plain_headers(block) == {"Sollol-Caller": value.translate({13: 32, 10: 32}).strip(), "Last": "1"}


@pytest.mark.parametrize("name", ["", " ", "a b", "a\r\nb", "é"])
def test_a_name_that_is_none_is_refused_and_left_to_the_library_when_it_comes(name: str) -> None:
    with pytest.raises(ValueError, match="name of a header"):
        block_of({name: "v"})
    assert plain_headers(f"NATS/1.0\r\n{name}: v\r\n\r\n".encode()) is None


def test_a_name_with_a_colon_is_refused() -> None:
    with pytest.raises(ValueError, match="name of a header"):
        block_of({"a:b": "v"})


@pytest.mark.parametrize(
    "block",
    [
        b'NATS/1.0\r\nSollol-Exec: {"a": "b:c"}\r\nSollol-Reply-To:_INBOX.x\r\nEmpty:\r\nSpaced: \t x y \r\n\r\n',
        b"NATS/1.0\r\nTwice: 1\r\nTwice: 2\r\n\r\n",
        b"NATS/1.0\r\nBroken: \xff\xc3\r\nUnicode: \xc3\xa9\xc2\xa0\r\n\r\n",
    ],
)
async def test_headers_are_read_as_the_library_reads_them(block: bytes) -> None:
    assert plain_headers(block) == await Client()._process_headers(block) != None  # noqa: E711 both are something


@pytest.mark.parametrize("block", [b"NATS/1.0 503\r\n\r\n", b"NATS/1.0", b"NATS/1.0\r\n", b"NATS/1.0\r\nA: b", b"\xff"])
def test_any_other_block_is_left_to_the_library(block: bytes) -> None:
    assert plain_headers(block) is None


@given(cuts=st.lists(st.integers(0, 12_000), max_size=12))
def test_messages_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join([sent(*MESSAGES[0]), b"PING\r\n", *(sent(*message) for message in MESSAGES[1:]), b"PING\r\n"])
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    got = Receiver().feed(*(stream[a:b] for a, b in pairwise(places)))
    assert got == [MESSAGES[0], "ping", *MESSAGES[1:], "ping"]


def test_many_messages_in_a_row_that_only_the_library_can_read_are_not_copied_for_each() -> None:
    receiver, odd = Receiver(), sent(1, b"news", b"", b"", b"")
    read = odd * 2
    assert not receiver.parser.feed(read)
    assert receiver.parser._behind[0] is read
    receiver.feed(sent(*MESSAGES[1])[:20])
    assert receiver.feed(sent(*MESSAGES[1])[20:]) == [(1, b"news", b"", b"", b"")] * 2 + [MESSAGES[1]]


def test_what_follows_the_end_of_a_connection_is_not_read() -> None:
    receiver = Receiver()
    stream = sent(*MESSAGES[0]) + b"-ERR 'Stale Connection'\r\n" + sent(*MESSAGES[1])
    assert receiver.feed(stream + b"MSG half") == [MESSAGES[0], "'stale connection'"]
    assert receiver.feed(sent(*MESSAGES[2]))[2:] == [MESSAGES[2]]


@pytest.mark.parametrize(
    "line", [b"MSG news", b"MSG news x 5", b"MSG news 1 -5", b"HMSG news 1 9 5", b"HMSG news 1 -1 5", b"NEWS 1", b""]
)
def test_what_is_not_the_protocol_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        Receiver().feed(line + b"\r\nabcde\r\n")
