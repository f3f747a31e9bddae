"""Latency, throughput, queue and prediction error over time: ten minutes in slots of five seconds.

Everything is fed by events, in any order; times are wall-clock seconds that the caller passes. Memory is bounded by
the number of slots.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from sollol_agents.fleet_view.histogram import Histogram
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus

SLOT_S: Final = 5
SLOTS: Final = 120
SUMMARY_S: Final = 60
_MAX_SPREAD_S: Final = SLOT_S * SLOTS


class ModeFigures(msgspec.Struct, frozen=True, omit_defaults=True):
    """One mode in one span of time."""

    requests: int = 0
    failures: int = 0
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    tps: float = 0.0


class Wait(msgspec.Struct, frozen=True):
    """How long requests of one priority waited for a slot."""

    count: int
    mean_s: float
    max_s: float


class Point(msgspec.Struct, frozen=True, omit_defaults=True):
    """One slot."""

    t: int
    """When it began, in seconds since 1970."""
    modes: dict[str, ModeFigures] = {}
    queued: int = 0
    """Most requests that waited in it."""
    error_ratio: float | None = None
    """Median of |actual - predicted| / actual."""


class Summary(msgspec.Struct, frozen=True):
    """The last minute."""

    modes: dict[str, ModeFigures]
    waits: dict[str, Wait]
    """By priority, over the last ten minutes."""
    error_ratio: float | None
    requests: int
    failures: int
    p95_s: float | None


class _Mode:
    __slots__ = ("failures", "latency", "requests", "tokens")

    def __init__(self) -> None:
        self.latency = Histogram()
        self.tokens = 0.0
        self.requests = 0
        self.failures = 0

    def merge(self, other: _Mode) -> None:
        self.latency.merge(other.latency)
        self.tokens += other.tokens
        self.requests += other.requests
        self.failures += other.failures

    def figures(self, span_s: float) -> ModeFigures:
        p50, p95, p99 = (_rounded(self.latency.quantile(share)) for share in (0.5, 0.95, 0.99))
        return ModeFigures(self.requests, self.failures, p50, p95, p99, round(self.tokens / span_s, 1))


class _Slot:
    __slots__ = ("changed", "errors", "modes", "number", "queued", "waits")

    def __init__(self, number: int, queued: int) -> None:
        self.number = number
        self.queued = queued
        self.modes: dict[str, _Mode] = {}
        self.errors = Histogram()
        self.waits: dict[int, list[float]] = {}
        self.changed = 0

    def mode(self, name: str) -> _Mode:
        return self.modes.setdefault(name, _Mode())

    def point(self) -> Point:
        return Point(
            t=self.number * SLOT_S,
            modes={name: mode.figures(SLOT_S) for name, mode in self.modes.items()},
            queued=self.queued,
            error_ratio=_rounded(self.errors.quantile(0.5)),
        )


class Timeline:
    """The last ten minutes."""

    def __init__(self) -> None:
        self.queued = 0
        """Requests that wait, as last heard."""
        self._slots: dict[int, _Slot] = {}
        self._newest = 0

    def tick(self, at: float, version: int) -> None:
        """Opens the slot of `at`, so that quiet times are drawn too."""
        self._slot(at, version, mark=False)

    def on_queue(self, queued: int, at: float, version: int) -> None:
        """So many requests wait."""
        self.queued = queued
        slot = self._slot(at, version, mark=False)
        if slot is not None and queued > slot.queued:
            slot.queued, slot.changed = queued, version

    def on_decision(self, event: DecisionEvent, at: float, version: int) -> None:
        """A request got its node."""
        self.on_queue(event.queued, at, version)
        slot = self._slot(at, version)
        if slot is None:
            return
        waited_s = event.decision.queue_s
        wait = slot.waits.setdefault(event.decision.priority, [0, 0.0, 0.0])
        wait[0] += 1
        wait[1] += waited_s
        wait[2] = max(wait[2], waited_s)

    def on_outcome(self, outcome: Outcome, at: float, version: int) -> None:
        """An attempt ended."""
        slot, decision = self._slot(at, version), outcome.decision
        is_counted = outcome.status not in (OutcomeStatus.CANCELLED, OutcomeStatus.CLIENT_ERROR)
        if slot is None or not is_counted or outcome.code is ErrorCode.MOVED:
            return
        mode = slot.mode(decision.mode.value)
        mode.requests += 1
        if outcome.status is not OutcomeStatus.SUCCESS:
            mode.failures += 1
            return
        figures = outcome.figures
        if figures is None:
            return
        mode.latency.add(decision.queue_s + figures.actual_s)
        predicted_s = decision.forecast.total_s
        if predicted_s > 0 and figures.actual_s > 0:
            slot.errors.add(abs(figures.actual_s - predicted_s) / figures.actual_s)
        self._spread(decision.mode.value, figures.output_tokens or 0, figures.decode_s or figures.actual_s, at, version)

    def changes(self, since: int) -> list[Point]:
        """The slots that changed after `since`, oldest first."""
        return [slot.point() for _, slot in sorted(self._slots.items()) if slot.changed > since]

    def depths(self) -> list[int]:
        """Most requests that waited, by slot, oldest first."""
        return [slot.queued for _, slot in sorted(self._slots.items())]

    def summary(self, at: float) -> Summary:
        """The last minute that ends at `at`."""
        first = int((at - SUMMARY_S) // SLOT_S) + 1
        recent = [slot for number, slot in self._slots.items() if number >= first]
        modes: dict[str, _Mode] = {}
        errors, everything = Histogram(), _Mode()
        for slot in recent:
            errors.merge(slot.errors)
            for name, mode in slot.modes.items():
                modes.setdefault(name, _Mode()).merge(mode)
                everything.merge(mode)
        return Summary(
            modes={name: mode.figures(SUMMARY_S) for name, mode in sorted(modes.items())},
            waits=_waits(self._slots.values()),
            error_ratio=_rounded(errors.quantile(0.5)),
            requests=everything.requests,
            failures=everything.failures,
            p95_s=_rounded(everything.latency.quantile(0.95)),
        )

    def _spread(self, mode: str, tokens: float, over_s: float, at: float, version: int) -> None:
        """Counts tokens when they were made, not all of them when the last one was."""
        over_s = min(max(over_s, 0.001), _MAX_SPREAD_S)
        for number, share in _shares(at - over_s, at):
            slot = self._slot(number * SLOT_S, version)
            if slot is not None:
                slot.mode(mode).tokens += tokens * share

    def _slot(self, at: float, version: int, *, mark: bool = True) -> _Slot | None:
        """The slot of `at`, or None when that is too long ago."""
        number = int(at // SLOT_S)
        slot = self._slots.get(number)
        if slot is None:
            if number <= self._newest - SLOTS:
                return None
            slot = self._slots[number] = _Slot(number, self.queued)
            slot.changed = version
            self._newest = max(self._newest, number)
            for old in [n for n in self._slots if n <= self._newest - SLOTS]:
                del self._slots[old]
        if mark:
            slot.changed = version
        return slot


def _shares(begin: float, end: float) -> Iterator[tuple[int, float]]:
    """Slots between two times, and the share of the time that lies in each."""
    first, last = math.floor(begin / SLOT_S), math.floor(end / SLOT_S)
    for number in range(first, last + 1):
        share = (min(end, (number + 1) * SLOT_S) - max(begin, number * SLOT_S)) / (end - begin)
        yield number, max(0.0, share)


def _waits(slots: Iterable[_Slot]) -> dict[str, Wait]:
    sums: dict[int, list[float]] = {}
    for slot in slots:
        for priority, (count, total_s, max_s) in slot.waits.items():
            known = sums.setdefault(priority, [0, 0.0, 0.0])
            known[0] += count
            known[1] += total_s
            known[2] = max(known[2], max_s)
    return {
        str(priority): Wait(int(count), round(total_s / count, 4), round(max_s, 4))
        for priority, (count, total_s, max_s) in sorted(sums.items(), reverse=True)
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
