"""How jobs are kept in JetStream: written once, through any outage.

A write whose answer was lost may have happened. Every write here therefore says what must be there before, and when
it is refused looks at what is there: if it is what was to be written, it had happened.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from nats.errors import Error as ClientError

from sollol_bus.errors import BusError, PayloadTooLarge
from sollol_bus.jetstream.api import JetStreamRefused, api
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode

log = logging.getLogger(__name__)

T = TypeVar("T")
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
ANSWER_S = 3.0


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A message as a stream keeps it."""

    seq: int
    subject: str
    data: bytes
    headers: dict[str, str]
    time: str


class _Raw(msgspec.Struct):
    seq: int
    subject: str
    time: str
    hdrs: str = ""
    data: str = ""


class _Found(msgspec.Struct):
    message: _Raw


async def persistently(act: Callable[[], Awaitable[T]], what: str) -> T:
    """The result of `act`, tried again until JetStream takes it.

    Raises:
        PayloadTooLarge: It can never be taken.
    """
    delay_s = _FIRST_RETRY_S
    while True:
        try:
            return await act()
        except PayloadTooLarge:
            raise
        except (BusError, ClientError, TimeoutError) as error:
            level = logging.WARNING if isinstance(error, JetStreamRefused) else logging.DEBUG
            log.log(level, "%s: again in %.1f s: %s", what, delay_s, error, extra={"action": "job_store_retry"})
        await asyncio.sleep(delay_s)
        delay_s = min(_LAST_RETRY_S, 2 * delay_s)


async def stored_message(bus: Bus, stream: str, *, subject: str = "", seq: int = 0) -> Stored | None:
    """The last message of a subject (wildcards permitted), or the one with a number; None when there is none."""
    question: dict[str, object] = {"last_by_subj": subject} if subject else {"seq": seq}
    try:
        raw = decode(await api(bus, f"STREAM.MSG.GET.{stream}", question), _Found).message
    except JetStreamRefused as error:
        if error.is_not_found:
            return None
        raise
    return Stored(
        seq=raw.seq,
        subject=raw.subject,
        data=base64.b64decode(raw.data),
        headers=_headers(base64.b64decode(raw.hdrs)),
        time=raw.time,
    )


async def delete_message(bus: Bus, stream: str, seq: int) -> None:
    """Removes a message; one that is gone already is no error."""
    try:
        await api(bus, f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    except JetStreamRefused as error:
        log.debug("message %d of %s: %s", seq, stream, error)


async def purge_subject(bus: Bus, stream: str, subject: str) -> None:
    """Removes every message of one subject."""
    await api(bus, f"STREAM.PURGE.{stream}", {"filter": subject})


def _headers(block: bytes) -> dict[str, str]:
    """The headers in a message's header block."""
    lines = block.decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
