"""What JetStream says to a write."""

from __future__ import annotations

import pytest
from nats.aio.msg import Msg

from sollol_bus.errors import DecodeFailed, RequestTimedOut
from sollol_bus.jetstream.api import JetStreamRefused, PubAck, ack_of, refusal


def reply(data: bytes) -> Msg:
    return Msg(_client=None, subject="_INBOX.x", data=data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "ack"),
    [
        (b'{"stream":"S","seq":7}', PubAck("S", 7)),
        (b'{"stream":"S","domain":"hub","seq":8,"duplicate":true}', PubAck("S", 8, duplicate=True)),
    ],
)
def test_an_ack_tells_where_it_lies(data: bytes, ack: PubAck) -> None:
    assert ack_of(reply(data)) == ack


def test_a_refusal_is_raised_with_its_code() -> None:
    with pytest.raises(JetStreamRefused, match="full") as caught:
        ack_of(reply(refusal(10077, "it is full")))
    assert caught.value.err_code == 10077
    assert caught.value.is_full


@pytest.mark.parametrize("data", [b"{}", b'{"stream":"S"}', b'{"seq":1}', b"+OK", b'{"stream":"S","seq":"1"}'])
def test_what_is_neither_is_no_ack(data: bytes) -> None:
    with pytest.raises(DecodeFailed):
        ack_of(reply(data))


def test_no_reply_is_no_ack() -> None:
    with pytest.raises(RequestTimedOut):
        ack_of(RequestTimedOut("nothing came"))
