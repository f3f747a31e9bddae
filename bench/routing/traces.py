"""Replaying a recorded trace: one JSON object per line.

    {"t": 12.5, "model": "base:8b", "prompt_tokens": 400, "output_tokens": 180, "task": "chat", "priority": 5,
     "session": "s1"}

`t` is the arrival in seconds; `model`, `task`, `priority` and `session` may be left out. Models must be among the
simulated ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.routing.fleets import MODELS
from bench.routing.workloads import Request


class TraceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded request."""

    t: Annotated[float, Meta(ge=0)]
    prompt_tokens: Annotated[int, Meta(ge=1)]
    output_tokens: Annotated[int, Meta(ge=0)]
    model: str = "base:8b"
    task: str = "chat"
    priority: Annotated[int, Meta(ge=0, le=10)] = 5
    session: str | None = None


class BadTrace(ValueError):
    """A line of the trace is not usable; the message names the line."""


def read(path: Path, *, speed_up: float = 1.0) -> list[Request]:
    """The requests of a trace file, in the order of arrival.

    Raises:
        BadTrace: A line is not such an object, or names a model that is not simulated.
    """
    return parse(path.read_bytes().splitlines(), speed_up=speed_up)


def parse(lines: Iterable[bytes], *, speed_up: float = 1.0) -> list[Request]:
    """The requests of the lines of a trace."""
    decoder = msgspec.json.Decoder(TraceLine)
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise BadTrace(f"line {number}: {error}") from error
        if entry.model not in MODELS:
            raise BadTrace(f"line {number}: model '{entry.model}' is not one of {', '.join(MODELS)}")
        entries.append(entry)
    entries.sort(key=lambda e: e.t)
    return [
        Request(
            i,
            e.t / speed_up,
            MODELS[e.model],
            e.task,
            e.prompt_tokens,
            e.output_tokens,
            priority=e.priority,
            session=e.session,
        )
        for i, e in enumerate(entries)
    ]


def write(path: Path, requests: Iterable[Request]) -> None:
    """Writes requests as a trace file that `read` reads."""
    lines = [
        TraceLine(
            t=round(r.arrival_s, 6),
            model=r.model.name,
            task=r.task,
            prompt_tokens=r.prompt_tokens,
            output_tokens=r.output_tokens,
            priority=r.priority,
            session=r.session,
        )
        for r in requests
    ]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
