"""What counts of a batch: its length against what is possible, the fairness of waits, slots left idle."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.routing.bound import fluid_bound_s
from bench.routing.engine import Machine
from bench.routing.figures import Batch
from bench.routing.fleets import SLOTS
from bench.routing.workloads import Request

_LEAST_WAIT_S = 0.05  # what the way to the engine takes is no wait
_Change = tuple[float, int, str]


def batch_figures(requests: Sequence[Request], machines: Sequence[Machine], warm_machines: int) -> Batch:
    """The figures of a batch that was played to its end."""
    waits = [r.started_at - r.arrival_s for r in requests if r.started_at is not None]
    waited = [w for w in waits if w > _LEAST_WAIT_S]
    return Batch(
        makespan_s=max(r.done_at for r in requests) - min(r.arrival_s for r in requests),
        bound_s=fluid_bound_s(requests, [m.spec for m in machines], warm_machines),
        wait_ratio=max(waited) / statistics.median(waited) if waited else 0.0,
        idle_slot_s=idle_slot_s(requests, machines),
    )


def idle_slot_s(requests: Sequence[Request], machines: Sequence[Machine]) -> float:
    """Seconds of slots that were free while requests waited, as many slots as requests at most; every model fits.

    A machine that loads is not idle; one that holds no model and loads none is.
    """
    changes: list[_Change] = []
    for r in requests:
        if r.started_at is not None:
            changes += [(r.arrival_s, 1, ""), (r.started_at, -1, "")]
            changes += [(r.started_at, 1, r.machine_name), (r.done_at, -1, r.machine_name)]
    for machine in machines:
        for begins_at, ends_at in machine.load_spans:
            changes += [(begins_at, SLOTS, machine.name), (ends_at, -SLOTS, machine.name)]
    changes.sort()
    busy = dict.fromkeys((m.name for m in machines), 0)
    waiting, before, total = 0, 0.0, 0.0
    for at, change, name in changes:
        free = sum(max(0, SLOTS - n) for n in busy.values())
        total += (at - before) * min(free, waiting)
        before = at
        if name:
            busy[name] += change
        else:
            waiting += change
    return total
