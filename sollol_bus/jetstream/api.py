"""JetStream's interface over the bus: questions in JSON, and publishes that are acked.

Speaks over `Bus.request`. The client library's own layer would wait for its timeout through an outage that
`Bus.request` reports at once, and changes the headers that are passed to it.
"""

from __future__ import annotations

import msgspec

from sollol_bus.errors import BusError
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode

TEMPORARY = frozenset({10004, 10005, 10008, 10009, 10023})
"""Codes of a server that is still coming up, or has no leader or room now."""

_NO_MESSAGE = 10037
_NOT_FOUND = frozenset({10014, _NO_MESSAGE, 10059})
_WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
_FULL = frozenset({10077, 10047, 10028, 10023})


class JetStreamRefused(BusError):
    """JetStream answered with an error."""

    def __init__(self, *, err_code: int, description: str) -> None:
        super().__init__(f"JetStream refused: {description} ({err_code})")
        self.err_code = err_code

    @property
    def is_no_message(self) -> bool:
        """Whether the stream is there, and has no such message."""
        return self.err_code == _NO_MESSAGE

    @property
    def is_not_found(self) -> bool:
        """Whether the stream, consumer or message does not exist."""
        return self.err_code in _NOT_FOUND

    @property
    def is_lost_race(self) -> bool:
        """Whether the subject's last revision is not the expected one: somebody wrote first."""
        return self.err_code in _WRONG_LAST_SEQUENCE

    @property
    def is_full(self) -> bool:
        """Whether the stream, or the server, takes no more."""
        return self.err_code in _FULL


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    error: _ApiError | None = None


class _Stored(_Answer):
    """An ack or a refusal, whichever it is: every write waits for one."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False


class PubAck(msgspec.Struct, frozen=True):
    """JetStream's promise that it stored a message."""

    stream: str
    seq: int
    duplicate: bool = False
    """Whether a message with this id had been stored before, so that this one was not."""


async def api(bus: Bus, what: str, request: object = None, *, timeout_s: float = 5.0) -> bytes:
    """The answer to a request to JetStream's interface, as JSON.

    Raises:
        JetStreamRefused: It answered with an error.
        NoResponders: JetStream is off, or not up yet.
        RequestTimedOut, NotConnected: The server did not answer.
    """
    payload = b"" if request is None else encode(request)
    msg = await bus.request(f"{bus.config.jetstream_api}.{what}", payload, timeout_s=timeout_s)
    _raise_refusal(msg.data)
    return bytes(msg.data)


async def publish_acked(
    bus: Bus, subject: str, payload: bytes, *, headers: dict[str, str] | None = None, timeout_s: float = 5.0
) -> PubAck:
    """Stores a message and returns JetStream's ack.

    Raises:
        JetStreamRefused: The stream refused it.
        NoResponders: No stream takes this subject now.
        RequestTimedOut, NotConnected: It may or may not have been stored.
    """
    return ack_of(await bus.request(subject, payload, headers=headers, timeout_s=timeout_s))


def ack_of(reply: Msg | BusError) -> PubAck:
    """The ack in a reply to a publish.

    Raises:
        JetStreamRefused: The reply is a refusal.
        BusError: There is no reply; the message may or may not have been stored.
    """
    if isinstance(reply, BusError):
        raise reply
    told = decode(reply.data, _Stored)
    if told.error is not None:
        raise _refused(told.error)
    if not told.stream or not told.seq:
        return decode(reply.data, PubAck)  # which says what it lacks
    return PubAck(told.stream, told.seq, told.duplicate)


def refusal(err_code: int, description: str) -> bytes:
    """What JetStream would answer to a publish that it refuses."""
    error = {"code": 400, "err_code": err_code, "description": description}
    return encode({"type": "io.nats.jetstream.api.v1.pub_ack_response", "error": error, "stream": "", "seq": 0})


def _raise_refusal(data: bytes) -> None:
    error = decode(data, _Answer).error
    if error is not None:
        raise _refused(error)


def _refused(error: _ApiError) -> JetStreamRefused:
    return JetStreamRefused(err_code=error.err_code, description=error.description)
