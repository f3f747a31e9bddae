"""The bars that `plan` is held to, as ratios within one run; a bar without its cells in the run is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bench.routing.figures import Cell, against, batch_means, overall
from bench.routing.scenarios import SCENARIOS


class Bar(NamedTuple):
    """`plan` divided by another policy may not exceed `limit`; a throughput may not fall below it."""

    scenario: str
    fleet: str
    load: float
    other: str
    limit: float
    figure: str = "mean"


def _bars(scenario: str, fleet: str, other: str, limits: dict[float, float], figure: str = "mean") -> list[Bar]:
    return [Bar(scenario, fleet, load, other, limit, figure) for load, limit in limits.items()]


_LC, _RR, _ORACLE = "least_connections", "round_robin", "oracle"
_SEVEN, _SEVEN_OLD = "seven_factor_1s", "seven_factor_30s"
_SEVEN_RESPONSE = "seven_factor_response_1s"

BARS: tuple[Bar, ...] = (
    *_bars("uniform", "F3", _RR, {0.3: 1.02, 0.5: 1.02, 0.7: 1.02, 0.85: 1.02}),
    *_bars("uniform", "F3", _LC, {0.3: 1.02, 0.5: 1.02, 0.7: 1.02, 0.85: 1.02}),
    *_bars("uniform", "F3", _ORACLE, {0.3: 1.03, 0.5: 1.03, 0.7: 1.03, 0.85: 1.03}),
    *_bars("uniform", "F3", _SEVEN, {0.3: 0.85, 0.5: 0.85, 0.7: 0.85, 0.85: 0.85}),
    *_bars("uniform", "F3", _SEVEN_OLD, {0.3: 0.36, 0.5: 0.20, 0.7: 0.20, 0.85: 0.20}),
    *_bars("complex", "F1", _RR, {0.5: 0.10, 0.7: 0.10, 0.85: 0.10, 0.95: 0.12}),
    *_bars("complex", "F2", _RR, {0.5: 0.70, 0.7: 0.52, 0.85: 0.30}),
    *_bars("complex", "F1", _LC, {0.5: 0.62, 0.7: 0.65, 0.85: 0.70, 0.95: 0.75}),
    *_bars("complex", "F1", _SEVEN, {0.5: 0.82, 0.7: 0.77, 0.85: 0.75, 0.95: 0.74}),
    *_bars("complex", "F1", _SEVEN_OLD, {0.5: 0.25, 0.7: 0.18, 0.85: 0.13, 0.95: 0.13}),
    *_bars("complex", "F1", _ORACLE, {0.5: 1.05, 0.7: 1.05, 0.85: 1.08, 0.95: 1.08}),
    *_bars("complex", "F1", _ORACLE, {0.5: 1.05, 0.7: 1.08, 0.85: 1.05, 0.95: 1.05}, "p95"),
    *_bars("models", "F1", _RR, {0.5: 0.09, 0.7: 0.12, 0.85: 0.17}),
    *_bars("models", "F1", _LC, {0.5: 0.40, 0.7: 0.40, 0.85: 0.42}),
    *_bars("models", "F1", _SEVEN, {0.5: 0.47, 0.7: 0.40, 0.85: 0.32}),
    *_bars("models", "F1", _SEVEN_OLD, {0.5: 0.28, 0.7: 0.28, 0.85: 0.23}),
    *_bars("models", "F1", _ORACLE, {0.5: 1.10, 0.7: 1.15, 0.85: 1.30}),
    *_bars("chat", "F1", _RR, {0.5: 0.08, 0.7: 0.11, 0.85: 0.16}),
    *_bars("chat", "F1", _LC, {0.5: 0.48, 0.7: 0.55, 0.85: 0.63}),
    *_bars("chat", "F1", _SEVEN, {0.5: 0.63, 0.7: 0.56, 0.85: 0.60}),
    *_bars("chat", "F1", _SEVEN_OLD, {0.5: 0.24, 0.7: 0.25, 0.85: 0.30}),
    *_bars("chat", "F1", _ORACLE, {0.5: 1.03, 0.7: 1.05, 0.85: 1.08}),
    *_bars("agent", "F1", _RR, {0.5: 0.05, 0.85: 0.12}),
    *_bars("agent", "F1", _LC, {0.5: 0.30, 0.85: 0.42}),
    *_bars("agent", "F1", _SEVEN_RESPONSE, {0.5: 0.20, 0.85: 0.30}),
    *_bars("agent", "F1", _ORACLE, {0.5: 1.05, 0.85: 1.15}),
    *_bars("burst", "F1", _RR, {0.5: 0.08, 0.7: 0.14, 0.85: 0.20}),
    *_bars("burst", "F1", _LC, {0.5: 0.55, 0.7: 0.62, 0.85: 0.68}),
    *_bars("burst", "F1", _SEVEN, {0.5: 0.68, 0.7: 0.55, 0.85: 0.60}),
    *_bars("burst", "F1", _SEVEN_OLD, {0.5: 0.25, 0.7: 0.22, 0.85: 0.24}),
    *_bars("closed", "F2", _RR, {8: 1.25, 16: 1.30, 32: 1.28}, "throughput"),
    *_bars("closed", "F2", _LC, {8: 0.97, 16: 0.97, 32: 0.97}, "throughput"),
    *_bars("closed", "F2", _SEVEN, {8: 1.05, 16: 1.05, 32: 1.05}, "throughput"),
    *_bars("closed", "F2", _SEVEN_OLD, {8: 1.8, 16: 1.8, 32: 1.8}, "throughput"),
    *_bars("closed", "F2", _ORACLE, {8: 0.95, 16: 0.95, 32: 0.95}, "throughput"),
    *_bars("burst", "F1", _ORACLE, {0.5: 1.12, 0.7: 1.25, 0.85: 1.50}),
    *_bars("prio", "F1", _RR, {0.95: 0.10}, "p9"),
    *_bars("prio", "F1", _LC, {0.95: 0.42}, "p9"),
    *_bars("prio", "F1", _SEVEN, {0.95: 0.33}, "p9"),
    *_bars("prio", "F1", _SEVEN_OLD, {0.95: 0.12}, "p9"),
    *_bars("prio", "F1", _ORACLE, {0.95: 1.05}, "p9"),
    *_bars("faults", "F1", _ORACLE, {0.3: 1.15, 0.5: 1.15}, "p99"),
)
IDEAL_PER_S = {"steps@steps/12": 70.0}
"""Requests per second when no slot is ever idle: four each of 100, 200 and 400 ms."""
SHARE_OF_IDEAL = 0.9
_PRIO_LOAD = 0.95
LONGEST_P2_S = 300.0
"""What no request of priority 2 may reach at load 0.95 of `prio`; one that failed counts as so long."""
URGENT_LIMIT_S, PATIENT_LIMIT, HARM_LIMIT = 7.5, 1.10, 1.02
"""Of `plan+undo`: the mean of priority 9 at load 0.95 of `prio`; that of priority 2 there, and all means of `complex`
and `models`, against `plan`."""
LEAST_SUCCESS = 0.999
"""Share of answered requests under the schedule of faults."""
OVERALL = {"mean": 1.10, "p95": 1.05}
"""Geometric mean of `plan` against the oracle over all cells of the run up to this load:"""
OVERALL_UP_TO = 0.85
MAKESPAN_LIMIT, MEAN_LIMIT = 1.08, 1.05
"""Makespan and mean of batches and cold lengths against a list scheduler that sees the whole queue and the truth."""
SIMPLE_LIMIT = 1.01
"""The same against `least_loaded`, which knows nothing."""
WAIT_LIMIT = 3.0
"""The longest wait of cold lengths over the median of those that waited."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A bar and what was measured."""

    bar: str
    limit: float
    measured: float
    is_met: bool
    oracle: float | None = None
    """What the planner with perfect knowledge reaches, where it ran: if it misses the bar too, choices are not why."""


def verdicts(cells: Sequence[Cell]) -> list[Verdict]:
    """Every bar that this run measured."""
    ratios = {other: against(cells, other) for other in {b.other for b in BARS}}
    found = []
    for bar in BARS:
        cell_name = f"{bar.scenario}@{bar.fleet}/{bar.load:g}"
        ratio = ratios[bar.other].get("plan", {}).get(cell_name)
        if ratio is not None:
            measured: float = getattr(ratio, bar.figure)
            is_met = measured >= bar.limit if bar.figure == "throughput" else measured <= bar.limit
            name = f"{bar.scenario}@{bar.fleet}/{bar.load:g} {bar.figure} vs {bar.other}"
            best = ratios[bar.other].get(_ORACLE, {}).get(cell_name)
            oracle = round(getattr(best, bar.figure), 3) if best is not None else None
            found.append(Verdict(bar=name, limit=bar.limit, measured=round(measured, 3), is_met=is_met, oracle=oracle))
    found += [*_absolute(cells), *_of_undo(cells), *_of_batches(cells)]
    stable = [c for c in cells if (c.load <= OVERALL_UP_TO or _is_closed(c)) and c.batch is None]
    total = overall(against(stable, _ORACLE)).get("plan")
    if total is not None:
        for figure, limit in OVERALL.items():
            measured = getattr(total, figure)
            name = f"geometric mean up to load {OVERALL_UP_TO:g}, {figure} vs {_ORACLE}"
            found.append(Verdict(bar=name, limit=limit, measured=round(measured, 3), is_met=measured <= limit))
    return found


def _is_closed(cell: Cell) -> bool:
    return cell.scenario in SCENARIOS and SCENARIOS[cell.scenario].is_closed


def _absolute(cells: Sequence[Cell]) -> list[Verdict]:
    """Bars that need no other policy."""
    found = []
    for name, ideal in IDEAL_PER_S.items():
        rates = [c.throughput_rps for c in cells if c.policy == "plan" and f"{c.scenario}@{c.fleet}/{c.load:g}" == name]
        if rates:
            share = round(sum(rates) / len(rates) / ideal, 3)
            bar = f"{name} throughput, share of the ideal {ideal:g}/s"
            found.append(Verdict(bar=bar, limit=SHARE_OF_IDEAL, measured=share, is_met=share >= SHARE_OF_IDEAL))
    mine = [c for c in cells if c.policy == "plan"]
    longest = [c.by_priority_max_s.get("2", 0.0) for c in mine if c.scenario == "prio" and c.load == _PRIO_LOAD]
    if longest:
        most_s = round(max(longest), 1)
        bar = f"prio@F1/{_PRIO_LOAD:g} longest of priority 2, seconds"
        found.append(Verdict(bar=bar, limit=LONGEST_P2_S, measured=most_s, is_met=most_s < LONGEST_P2_S))
    for load in sorted({c.load for c in mine if c.scenario == "faults"}):
        share = min(c.success_ratio for c in mine if c.scenario == "faults" and c.load == load)
        bar = f"faults@F1/{load:g} share of answered requests, worst seed"
        found.append(Verdict(bar=bar, limit=LEAST_SUCCESS, measured=round(share, 5), is_met=share >= LEAST_SUCCESS))
    return found


def _of_undo(cells: Sequence[Cell]) -> list[Verdict]:
    """What moving running answers may cost, and what it must win."""
    found = []
    ratios = against(cells, "plan").get("plan+undo", {})
    for name, ratio in ratios.items():
        if name.startswith(("complex@", "models@")):
            found.append(_at_most(f"{name} mean of plan+undo vs plan", ratio.mean, HARM_LIMIT))
    prio = [c for c in cells if c.scenario == "prio" and c.load == _PRIO_LOAD]
    mine, other = ([c for c in prio if c.policy == name] for name in ("plan+undo", "plan"))
    if mine:
        name = f"prio@F1/{_PRIO_LOAD:g}"
        found.append(
            _at_most(f"{name} mean of priority 9 of plan+undo, seconds", _of_priority(mine, "9"), URGENT_LIMIT_S)
        )
        longest = max(c.by_priority_max_s.get("2", 0.0) for c in mine)
        bar = f"{name} longest of priority 2 of plan+undo, seconds"
        found.append(Verdict(bar=bar, limit=LONGEST_P2_S, measured=round(longest, 1), is_met=longest < LONGEST_P2_S))
        if other:
            harm = _of_priority(mine, "2") / max(1e-9, _of_priority(other, "2"))
            found.append(_at_most(f"{name} mean of priority 2 of plan+undo vs plan", harm, PATIENT_LIMIT))
    return found


def _of_priority(cells: Sequence[Cell], priority: str) -> float:
    """The mean over the seeds of what requests of a priority take."""
    return sum(c.by_priority_mean_s.get(priority, 0.0) for c in cells) / len(cells)


def _at_most(bar: str, measured: float, limit: float) -> Verdict:
    return Verdict(bar=bar, limit=limit, measured=round(measured, 3), is_met=measured <= limit)


def _of_batches(cells: Sequence[Cell]) -> list[Verdict]:
    """Bars of every cell of batches and cold lengths, over the seeds."""
    names = dict.fromkeys((c.scenario, c.fleet, c.load) for c in cells if c.batch is not None)
    return [
        verdict for name in names for verdict in _of_batch([c for c in cells if (c.scenario, c.fleet, c.load) == name])
    ]


def _of_batch(cells: Sequence[Cell]) -> list[Verdict]:
    name = f"{cells[0].scenario}@{cells[0].fleet}/{cells[0].load:g}"
    means = {p: batch_means([c for c in cells if c.policy == p]) for p in dict.fromkeys(c.policy for c in cells)}
    if "plan" not in means:
        return []
    found = []
    for other, limits in (("list", (MAKESPAN_LIMIT, MEAN_LIMIT)), ("least_loaded", (SIMPLE_LIMIT, SIMPLE_LIMIT))):
        for figure, limit in zip(("makespan", "mean"), limits, strict=True):
            if other in means:
                ratio, best = (
                    round(means[p][figure] / means[other][figure], 3) if p in means else None for p in ("plan", _ORACLE)
                )
                assert ratio is not None
                bar = f"{name} {figure} vs {other}"
                found.append(Verdict(bar=bar, limit=limit, measured=ratio, is_met=ratio <= limit, oracle=best))
    if name.startswith("cold_lengths"):
        wait = round(means["plan"]["wait"], 3)
        bar = f"{name} longest wait over the median"
        found.append(Verdict(bar=bar, limit=WAIT_LIMIT, measured=wait, is_met=wait <= WAIT_LIMIT))
    return found
