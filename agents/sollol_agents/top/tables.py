"""What the terminal shows: columns that fit its width, and the text and colour of every cell. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from sollol_agents.fleet_view.decisions import DecisionRow
from sollol_agents.fleet_view.jobs import JobsView
from sollol_agents.fleet_view.node_rows import NodeRow
from sollol_agents.fleet_view.terms import LEGEND, MATTERS_S, TERMS
from sollol_agents.fleet_view.timeline import Wait
from sollol_agents.fleet_view.view import Head
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.queries import WhyReply

PADDING: Final = 2
"""A column's own, left and right together."""
_MIB_PER_GIB: Final = 1024
_DOTS_MAX: Final = 6
_POOR: Final = 0.95
"""A lower share of successes is marked."""
_COLOURS: Final = {
    "up": "green",
    "suspect": "yellow",
    "draining": "yellow",
    "down": "red",
    "left": "bright_black",
    "asleep": "bright_black",
    "success": "green",
    "failed": "red",
    "presumed_lost": "red",
    "cancelled": "yellow",
    "client_error": "yellow",
    "moved": "cyan",
}
_MODES: Final = {
    "fast": ("FAST", "cyan"),
    "reliable": ("RELI", "magenta"),
    "async": ("ASYNC", "blue"),
    "cheap": ("CHEAP", "green"),
}


class Cell(NamedTuple):
    """One cell: its text, and its colour if it has one."""

    text: str
    colour: str = ""


class Column(NamedTuple):
    """One column: its heading, its width, and from which width of the terminal on it is shown."""

    name: str
    width: int
    from_width: int = 0
    is_right: bool = False


FLEET: Final = (
    Column("NODE", 14),
    Column("STATE", 10),
    Column("SLOTS", 7),
    Column("MEMORY GIB", 11, is_right=True),
    Column("TOK/S", 6, is_right=True),
    Column("OK", 5, is_right=True),
    Column("GPU", 4, from_width=96, is_right=True),
    Column("TEMP", 5, from_width=96, is_right=True),
    Column("BUS", 7, from_width=112, is_right=True),
    Column("WEIGHT", 6, from_width=120, is_right=True),
    Column("ENGINE", 16, from_width=140),
    Column("LOADED", 10),
)
"""The last column takes what is left of the width."""

DECISIONS: Final = (
    Column("TIME", 8),
    Column("MODE", 5),
    Column("NODE", 10),
    Column("MODEL", 12),
    Column("WAITED", 6, is_right=True),
    Column("PREDICT", 7, is_right=True),
    Column("TOOK", 7, is_right=True),
    Column("OUTCOME", 7),
    Column("PRIO", 4, from_width=100, is_right=True),
    Column("TOKENS", 6, from_width=110, is_right=True),
    Column("REASON", 20, from_width=120),
)

QUEUE: Final = (
    Column("PRIORITY", 10, is_right=True),
    Column("WAITED FOR A SLOT", 17, is_right=True),
    Column("MEAN", 8, is_right=True),
    Column("LONGEST", 8, is_right=True),
    Column("JOBS STORED", 11, is_right=True),
)


def fitting(columns: tuple[Column, ...], width: int) -> list[Column]:
    """The columns that a terminal of `width` shows, the last one as wide as there is room unless it is of numbers."""
    shown = [column for column in columns if column.from_width <= width]
    left = width - sum(column.width + PADDING for column in shown[:-1]) - PADDING - 1
    last = shown[-1]
    if last.is_right:
        return shown
    return [*shown[:-1], last._replace(width=max(last.width, left))]


ORDERS: Final = ("name", "state", "load", "memory", "speed")
"""By what the fleet is sorted, in the order in which the key goes through them."""


def sorted_fleet(machines: Mapping[str, NodeRow], order: str) -> list[tuple[str, NodeRow]]:
    """The nodes by name; by state, trouble first; or by load, memory in use or speed, the most first."""

    def rank(item: tuple[str, NodeRow]) -> tuple[float, str]:
        name, node = item
        used = node.vram_used_mib / node.vram_total_mib if node.vram_total_mib else 0.0
        ranks = {
            "state": float(node.state == "up" and node.breaker == "closed" and node.is_reachable),
            "load": -node.busy / max(1, node.slots),
            "memory": -used,
            "speed": -node.tps,
        }
        return ranks.get(order, 0.0), name

    return sorted(machines.items(), key=rank)


def help_lines() -> list[str]:
    """What the keys do and what the columns mean."""
    return [
        "1 2 3    fleet, queue, decisions",
        "enter    everything about a node, or why a request went where it went",
        f"s        sorts the fleet by {', '.join(ORDERS)}",
        "d u      drains a node, puts it back into service",
        "b        closes a node's circuit breakers",
        "q        leaves",
        "",
        "SLOTS    ● runs a request, ○ is free",
        "OK       share of the attempts that succeeded while this was open",
        "BUS      round trip between the node and the NATS server",
        "",
        LEGEND,
    ]


def fleet_row(node: NodeRow, columns: Iterable[Column]) -> list[Cell]:
    """One node."""
    is_broken = node.breaker != "closed"
    shown = "no engine" if node.state == "up" and not node.is_reachable else node.state
    state = f"{shown}!" if is_broken else shown
    used_mib, total_mib = node.ram_used_mib, node.ram_total_mib
    if node.vram_total_mib:
        used_mib, total_mib = node.vram_used_mib, node.vram_total_mib
    success = node.success_ratio
    is_poor = success is not None and success < _POOR
    cells = {
        "NODE": Cell(node.id),
        "STATE": Cell(state, "red" if is_broken or not node.is_reachable else _COLOURS.get(node.state, "")),
        "SLOTS": Cell(_slots(node.busy, node.slots)),
        "MEMORY GIB": Cell(f"{used_mib / _MIB_PER_GIB:.1f}/{total_mib / _MIB_PER_GIB:.1f}"),
        "TOK/S": Cell(f"{node.tps:.0f}" if node.tps else "-"),
        "OK": Cell(
            "-" if success is None else f"{success * 100:.0f}%",
            "red" if is_poor else "",
        ),
        "GPU": Cell("-" if node.gpu_ratio is None else f"{node.gpu_ratio * 100:.0f}%"),
        "TEMP": Cell("-" if node.temperature_c is None else f"{node.temperature_c}°C"),
        "BUS": Cell(f"{node.rtt_ms:.1f}ms"),
        "WEIGHT": Cell(f"{node.weight:g}"),
        "ENGINE": Cell(node.engine if node.is_reachable else node.engine_detail or "silent", ""),
        "LOADED": Cell(", ".join(model.name for model in node.loaded) or "-"),
    }
    return [_fitted(cells[column.name], column) for column in columns]


def decision_row(row: DecisionRow, columns: Iterable[Column]) -> list[Cell]:
    """One attempt."""
    at = datetime.fromtimestamp(row.at).astimezone()
    mode, colour = _MODES.get(row.mode, (row.mode, ""))
    cells = {
        "TIME": Cell(f"{at:%H:%M:%S}"),
        "MODE": Cell(mode, colour),
        "NODE": Cell(row.node_id or "-"),
        "MODEL": Cell(row.model),
        "WAITED": Cell(seconds(row.queue_s)),
        "PREDICT": Cell(seconds(row.predicted_s)),
        "TOOK": Cell(seconds(row.actual_s)),
        "OUTCOME": Cell(row.status or _running(row), _COLOURS.get(row.status, "cyan")),
        "PRIO": Cell(str(row.priority)),
        "TOKENS": Cell("-" if row.output_tokens is None else str(row.output_tokens)),
        "REASON": Cell(row.message or row.reason),
    }
    return [_fitted(cells[column.name], column) for column in columns]


def _running(row: DecisionRow) -> str:
    return "resumed" if row.continued_tokens else "runs"


def queue_rows(waits: Mapping[str, Wait], jobs: JobsView) -> list[list[Cell]]:
    """One row for each priority that anything waited at, the highest first."""
    priorities = sorted({*map(int, waits), *map(int, jobs.waiting)}, reverse=True)
    rows = []
    for priority in priorities:
        wait = waits.get(str(priority))
        stored = jobs.waiting.get(str(priority), 0)
        cells = (
            str(priority),
            str(wait.count) if wait else "-",
            seconds(wait.mean_s if wait else None),
            seconds(wait.max_s if wait else None),
            str(stored) if stored else "-",
        )
        rows.append([_fitted(Cell(text), column) for text, column in zip(cells, QUEUE, strict=True)])
    return rows


def queue_line(queued: int, jobs: JobsView) -> str:
    """The queue in a sentence."""
    stored = sum(jobs.waiting.values())
    return (
        f"{queued} {_plural(queued, 'request waits', 'requests wait')} for a slot; "
        f"{stored} {_plural(stored, 'job', 'jobs')} stored, {jobs.delayed} delayed, {jobs.dead} dead. Ten minutes:"
    )


def head_line(head: Head, width: int, *, has_asked: bool = True) -> Cell:
    """The fleet on one line, as much of it as fits; `has_asked`: whether it was asked once who is in office."""
    if not head.is_connected:
        return Cell("no connection to the bus; what is shown is old", "red")
    if not head.scorer and not has_asked:
        return Cell("asking the fleet ...", "")
    if not head.scorer:
        return Cell("no scorer in office: no request gets a node; `sollol doctor` says why", "red")
    parts = [
        f"{head.nodes_up}/{head.nodes} nodes up",
        f"{head.busy}/{head.slots} slots",
        f"{head.queued} waiting",
        f"{head.tps:.0f} tok/s",
        f"{head.decisions_per_s:g} req/s",
        f"p95 {seconds(head.p95_s)}",
        f"{head.failures} failed",
        head.strategy,
    ]
    line = parts[0]
    for part in parts[1:]:
        if part and len(line) + 2 + len(part) <= width:
            line += f"  {part}"
    return Cell(line, "" if head.nodes_up else "red")


def explanation(reply: WhyReply) -> list[str]:
    """Why a request went where it went, and what became of it."""
    lines: list[str] = []
    for decision in reply.decisions:
        lines += [*_explained(decision), ""]
    for outcome in reply.outcomes:
        took = seconds(outcome.figures.actual_s if outcome.figures else None)
        code = f": {outcome.code.value} {outcome.message}" if outcome.code else ""
        lines.append(f"attempt {outcome.decision.attempt}: {outcome.end} after {took}{code}")
    return [*lines, "", LEGEND] if lines else ["nothing is recorded yet"]


def seconds(value: float | None) -> str:
    """A duration in at most six characters."""
    if value is None:
        return "-"
    if value < 0.9995:
        return f"{value * 1000:.0f}ms"
    if value < 99.95:
        return f"{value:.1f}s"
    return f"{value / 60:.0f}min" if value < 5970 else f"{value / 3600:.0f}h"


def _explained(event: DecisionEvent) -> list[str]:
    made = event.decision
    lines = [
        f"attempt {made.attempt}: {made.model} on {made.node_id} ({made.mode}, {made.strategy})",
        f"  {made.reason}",
        f"  waited {seconds(made.queue_s)}, predicted {seconds(made.forecast.total_s)}",
        *([f"  resumed after {made.continued_tokens} tokens of the answer"] if made.continued_tokens else []),
    ]
    for cost in sorted(event.candidates, key=lambda c: c.total_s):
        terms = ((name.lower(), getattr(cost, term)) for term, name in TERMS.items())
        told = ", ".join(f"{name} {_signed(value)}" for name, value in terms if abs(value) >= MATTERS_S)
        lines.append(f"  {cost.node_id:<14} costs {cost.total_s:8.3f} s{told and f': {told}'}")
    lines += [
        f"  {refused.node_id:<14} {refused.reason.value} {refused.detail}".rstrip() for refused in event.rejections
    ]
    return lines


def _signed(value: float) -> str:
    return seconds(value) if value >= 0 else f"-{seconds(-value)}"


def _slots(busy: int, slots: int) -> str:
    return "●" * busy + "○" * (slots - busy) if busy <= slots <= _DOTS_MAX else f"{busy}/{slots}"


def _fitted(cell: Cell, column: Column) -> Cell:
    text = cell.text if len(cell.text) <= column.width else cell.text[: column.width - 1] + "…"
    return cell._replace(text=text.rjust(column.width) if column.is_right else text)


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
