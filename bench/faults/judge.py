"""Judges a case: what its calls, its jobs and its engines say about a fault. Pure: it is given every instant."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

import msgspec

HANG_S = 5.0
"""A call without a sign for so long after the end of a fault hangs."""
CUT_OFF = "own connection lost"
LOST = "lost with a server"
"""Why a plain call has no answer whose request nobody in the system has ever had: NATS delivers at most once."""
SLOW_S = 2.0
"""A short call that takes longer is disturbed."""


class Sample(msgspec.Struct, kw_only=True):
    """One call as its caller saw it; instants are seconds of one clock."""

    way: str
    """How it went in, such as `http` or `nats@leaf`."""
    prompt: str
    wanted: int
    """It counts down from here."""
    is_short: bool
    began_s: float
    request_id: str = ""
    """Of a plain call, by which the system is asked about it."""
    heard: list[float] = []
    """When each piece came."""
    ended_s: float | None = None
    """None: it was still open when the case ended."""
    error: str = ""
    """Why it ended without an answer."""
    is_cut_off: bool = False
    """Its caller's own connection broke meanwhile: that caller knows that it need not wait."""
    words: list[str] = []

    def hear(self, now: float, text: str) -> None:
        """A piece came."""
        self.heard.append(now)
        self.words += text.split()

    def end(self, now: float, error: str = "") -> None:
        """It is over; a second end changes nothing."""
        if self.ended_s is None:
            self.ended_s, self.error = now, error

    @property
    def is_right(self) -> bool:
        """Whether the whole answer came."""
        return self.words == [str(n) for n in range(self.wanted - 1, -1, -1)]

    @property
    def gap_s(self) -> float:
        """The longest silence between two pieces."""
        return max((after - before for before, after in pairwise(self.heard)), default=0.0)

    @property
    def is_answered(self) -> bool:
        """Whether it ended with an answer."""
        return self.ended_s is not None and not self.error


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a case's jobs."""

    acked: int
    lost: tuple[str, ...]
    """Acked, and without a result when the case ended."""
    wrong: tuple[str, ...]
    """With a result that is not their answer."""
    answered: int
    """Jobs that have a result, those included whose caller never heard that they were stored."""
    written: int
    """Results that were ever stored."""
    settled_s: float
    """From the end of the calls until every result was there."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """When the fault began, when it was undone, until when calls were begun, and when the last was given up."""

    began_s: float
    undone_s: float
    asked_until_s: float
    ended_s: float


def judge(samples: Iterable[Sample], jobs: Jobs, finished: Mapping[str, int], span: Span) -> dict[str, object]:
    """The figures of a case.

    Args:
        samples: Every call.
        jobs: What became of the jobs.
        finished: How often the engines answered each prompt to its end.
        span: When the fault was.
    """
    calls = list(samples)
    ways: dict[str, list[Sample]] = defaultdict(list)
    for call in calls:
        if call.is_short:
            ways[call.way].append(call)
    touched = [c for c in calls if (c.ended_s is None or c.ended_s >= span.began_s) and c.is_answered]
    disturbed = [e for c in calls if c.is_short and (e := _disturbed_until(c, span)) is not None]
    return {
        "calls": len(calls),
        "errors": dict(Counter(f"{c.way}: {c.error}" for c in calls if c.error)),
        "hangs": dict(Counter(f"{c.way}{'' if c.is_short else ' stream'}" for c in calls if hangs(c, span))),
        "wrong": sum(c.is_answered and not c.is_right for c in calls),
        "stream_gap_s": _rounded(max((c.gap_s for c in touched if not c.is_short), default=0.0)),
        "service_gap_s": {way: _rounded(longest_gap(those, span)) for way, those in sorted(ways.items())},
        "service_s": {way: _rounded(until_service(those, span)) for way, those in sorted(ways.items())},
        "calm_s": _rounded(max(disturbed, default=span.began_s) - span.began_s),
        "jobs": jobs.acked,
        "jobs_lost": len(jobs.lost),
        "jobs_wrong": len(jobs.wrong),
        "results_doubled": jobs.written - jobs.answered,
        "jobs_settled_s": _rounded(jobs.settled_s),
        "work_doubled": sum(count - 1 for count in finished.values() if count > 1),
    }


def hangs(call: Sample, span: Span) -> bool:
    """Whether the first sign of life of a call after the fault was undone, if any, took more than `HANG_S`.

    A request that a server took along is none; from the end of the fault on no server may.
    """
    if call.error == LOST:
        return call.began_s > span.undone_s
    if call.error == CUT_OFF or (call.ended_s is not None and call.ended_s < span.undone_s):
        return False
    from_s = max(call.began_s, span.undone_s)
    signs = [*call.heard, span.ended_s if call.ended_s is None else call.ended_s]
    return next(at for at in signs if at >= from_s) - from_s > HANG_S


def longest_gap(calls: Iterable[Sample], span: Span) -> float:
    """The longest time, from the fault on, in which nobody on this way got an answer."""
    ends = sorted(c.ended_s for c in calls if c.ended_s is not None and not c.error and c.ended_s > span.began_s)
    marks = [span.began_s, *(end for end in ends if end < span.asked_until_s), span.asked_until_s]
    return max(after - before for before, after in pairwise(marks))


def until_service(calls: Iterable[Sample], span: Span) -> float | None:
    """From the fault to the first answer to a call begun after it; None: there was none."""
    ends = [c.ended_s for c in calls if c.ended_s is not None and not c.error and c.began_s >= span.began_s]
    return min(ends) - span.began_s if ends else None


def _disturbed_until(call: Sample, span: Span) -> float | None:
    """When a short call that failed, or took long, was over; None for one that was not disturbed."""
    end = span.ended_s if call.ended_s is None else call.ended_s
    if end < span.began_s or not (call.error or end - call.began_s > SLOW_S):
        return None
    return end


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
