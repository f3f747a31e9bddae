"""Ids that become tokens of subjects, and how the ids of attempts follow from those of requests."""

from __future__ import annotations

import re
import secrets
import time

_BUS_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_REQUEST_ID_MAX = 56  # leaves room for the attempt's number


def new_id() -> str:
    """An id for a request or a job that nothing else has: 23 characters, in the order of time.

    It begins with the millisecond in which it was made, and so what is kept by id is written where it wrote last:
    with random ids the recorder's database takes twice as long for each line.
    """
    return f"{time.time_ns() >> 20:011x}{secrets.token_hex(6)}"


def is_bus_id(text: str) -> bool:
    """Whether `text` may be one token of a subject: 1 to 64 of `A-Z a-z 0-9 _ -`."""
    return _BUS_ID.fullmatch(text) is not None


def is_request_id(text: str) -> bool:
    """Whether `text` may name a request: a bus id of at most 56 characters."""
    return len(text) <= _REQUEST_ID_MAX and is_bus_id(text)


def attempt_id(request_id: str, number: int) -> str:
    """The id of one attempt: the request's id and the attempt's number, counted from 1."""
    return f"{request_id}-{number}"


def request_id_of(attempt: str) -> str:
    """The id of the request that an attempt belongs to."""
    return attempt.rpartition("-")[0]
