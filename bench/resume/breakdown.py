"""What a pause is made of, by the spans of the processes and the caller's own clock. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec

STAGES: Final = ("noticed", "sent_again", "decided", "elsewhere", "taken", "engine_asked", "first_token", "told")
"""In the order in which they follow each other; together they are the pause.

noticed       the last piece came .. a dispatcher has the request again
sent_again    .. it is there for the last time: refusals and waits in between
decided       .. it has a slot
elsewhere     .. it has the slot on which it goes on: attempts that failed before they said anything
taken         .. the node asks its engine
engine_asked  .. the engine is asked for the rest: prompt rendered, beginning looked at, tokens counted
first_token   .. the engine says something: it waits for a slot of the engine's, and reads prompt and text again
told          .. the caller has the next piece
"""


class Attempt(msgspec.Struct):
    """One attempt, as its engine's span tells it; seconds of the wall clock."""

    asked_s: float
    first_s: float
    seam_s: float
    prompt_s: float


class Sending(msgspec.Struct):
    """One sending of a request, as its dispatcher's span tells it."""

    came_s: float
    granted_s: list[tuple[float, str]] = []
    """When an attempt got a slot, and its id."""


class Spans:
    """What the processes said of each request."""

    def __init__(self) -> None:
        self.sendings: dict[str, list[Sending]] = defaultdict(list)
        self.attempts: dict[str, Attempt] = {}

    def read(self, log: str) -> None:
        """Takes in the spans that a process wrote among its log lines."""
        attempt_of: dict[str, str] = {}
        engines: list[dict[str, Any]] = []
        for span in _spans_of(log):
            told = span.get("attributes") or {}
            match told.get("sollol.actor"):
                case "dispatcher":
                    granted = [
                        (_seconds(event["timestamp"]), str(event["attributes"].get("sollol.attempt_id")))
                        for event in span["events"]
                        if event["name"] == "attempt"
                    ]
                    self.sendings[told["sollol.request_id"]].append(Sending(_seconds(span["start_time"]), granted))
                case "node":
                    attempt_of[span["context"]["span_id"]] = told["sollol.attempt_id"]
                case "engine":
                    engines.append(span)
        for span in engines:
            if (attempt := _attempt(span)) is not None and span["parent_id"] in attempt_of:
                self.attempts[attempt_of[span["parent_id"]]] = attempt

    def breakdown(self, request_id: str, began_s: float, ended_s: float) -> dict[str, float] | None:
        """Seconds of each stage of a pause; None: nobody said enough, or it was none that the fleet made.

        Args:
            request_id: Whose answer paused.
            began_s: When the last piece before it came, by the wall clock.
            ended_s: When the next one came.
        """
        sendings = [one for one in self.sendings.get(request_id, []) if began_s <= one.came_s <= ended_s]
        granted = sorted(grant for one in sendings for grant in one.granted_s if grant[0] <= ended_s)
        if not sendings or not granted or (attempt := self.attempts.get(granted[-1][1])) is None:
            return None
        came = sorted(one.came_s for one in sendings)
        first_grant = next(at for at, _ in granted if at >= came[-1]) if granted[-1][0] >= came[-1] else granted[-1][0]
        times = (
            began_s,
            came[0],
            came[-1],
            first_grant,
            granted[-1][0],
            attempt.asked_s,
            min(attempt.first_s, attempt.asked_s + attempt.seam_s),
            attempt.first_s,
            ended_s,
        )
        stages = {name: round(after - before, 3) for name, before, after in zip(STAGES, times, times[1:], strict=False)}
        return stages | {"prompt_read": round(attempt.prompt_s, 3)}


def _spans_of(log: str) -> Iterator[dict[str, Any]]:
    for line in log.splitlines():
        if line.startswith("{") and '"trace_id"' in line:
            try:
                yield msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue  # its process was killed while it wrote


def _attempt(span: dict[str, Any]) -> Attempt | None:
    first = next((event for event in span["events"] if event["name"] == "first token"), None)
    if first is None:
        return None
    return Attempt(
        asked_s=_seconds(span["start_time"]),
        first_s=_seconds(first["timestamp"]),
        seam_s=float(first["attributes"].get("sollol.seam_s", 0.0)),
        prompt_s=float(span["attributes"].get("sollol.prompt_s", math.nan)),
    )


def _seconds(told: str) -> float:
    return datetime.fromisoformat(told).timestamp()


def summary(pauses: Iterable[dict[str, float]]) -> dict[str, Any]:
    """The mean and the 99th of 100 of each stage, in seconds."""
    told = list(pauses)
    out: dict[str, Any] = {"n": len(told)}
    for name in (*STAGES, "prompt_read"):
        values = sorted(one[name] for one in told if not math.isnan(one[name]))
        if values:
            at = values[min(len(values) - 1, int(0.99 * len(values)))]
            out[name] = {"mean": round(sum(values) / len(values), 3), "p99": at}
    return out
