"""The time that no schedule of a batch can beat: work flows like water, on full slots, from the end of each load on.

For work of one model that is the least T with `sum of rate * (T - load) = work` over the machines. In general it is a
linear program: each machine gives each class of work no more than T less the class's load there, and all classes
together no more than T less the shortest of them; the least T for which all work fits is found by halving.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.routing.capacity import maximised
from bench.routing.fleets import MachineSpec, ModelSpec
from bench.routing.workloads import Request

_HALVINGS = 24


class _Kind(NamedTuple):
    """Work of one model and task on every machine: seconds of the whole machine for all of it, and of a load."""

    full_s: list[float]
    load_s: list[float]


def fluid_bound_s(requests: Sequence[Request], fleet: Sequence[MachineSpec], warm_machines: int) -> float:
    """Seconds that the requests take at least, all at once; the first so many machines hold their models already."""
    kinds = _kinds(requests, fleet, warm_machines)
    low, high = 0.0, sum(min(k.full_s) + max(k.load_s) for k in kinds)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _share_done(kinds, middle) >= 1.0 else (middle, high)
    return max([high, *(_alone_s(r, fleet, warm_machines) for r in requests)])


def _kinds(requests: Sequence[Request], fleet: Sequence[MachineSpec], warm_machines: int) -> list[_Kind]:
    by_kind: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        by_kind.setdefault((request.model.name, request.task), []).append(request)
    return [
        _Kind([_full_s(spec, group) for spec in fleet], _loads_s(group[0].model, fleet, warm_machines))
        for group in by_kind.values()
    ]


def _full_s(spec: MachineSpec, group: Sequence[Request]) -> float:
    """Seconds of a machine with all slots full for all these requests; infinite where the model does not fit."""
    model = group[0].model
    if not spec.fits(model):
        return float("inf")
    return sum(_work_s(spec, r) for r in group) * (1.0 + spec.beta * (model.slots - 1)) / model.slots


def _work_s(spec: MachineSpec, request: Request) -> float:
    return request.prompt_tokens / spec.prompt(request.model) + request.output_tokens / spec.decode(request.model)


def _loads_s(model: ModelSpec, fleet: Sequence[MachineSpec], warm_machines: int) -> list[float]:
    return [0.0 if n < warm_machines else spec.load_s(model) for n, spec in enumerate(fleet)]


def _alone_s(request: Request, fleet: Sequence[MachineSpec], warm_machines: int) -> float:
    """Seconds of one request where it ends first."""
    loads_s = _loads_s(request.model, fleet, warm_machines)
    fitting = [n for n, spec in enumerate(fleet) if spec.fits(request.model)]
    return min(loads_s[n] + _work_s(fleet[n], request) for n in fitting)


def _share_done(kinds: Sequence[_Kind], seconds: float) -> float:
    """The share of every kind of work that can be done in this time."""
    count, machines = len(kinds), len(kinds[0].full_s)
    width = count * machines + 1
    rows = []
    for k, kind in enumerate(kinds):
        done = [0.0] * (width + 1)
        done[-2] = 1.0
        for m in range(machines):
            done[k * machines + m] = -1.0 / kind.full_s[m]
            most = [0.0] * (width + 1)
            most[k * machines + m], most[-1] = 1.0, max(0.0, seconds - kind.load_s[m])
            rows.append(most)
        rows.append(done)
    for m in range(machines):
        both = [0.0] * (width + 1)
        both[-1] = max(0.0, seconds - min(kind.load_s[m] for kind in kinds))
        for k in range(count):
            both[k * machines + m] = 1.0
        rows.append(both)
    return maximised(rows, [0.0] * (width - 1) + [1.0])
