"""What is wrong with the fleet, the worst first, a sentence for each kind; and with one node. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from sollol_agents.fleet_view.node_rows import NodeRow
from sollol_schemas.events import BreakerState
from sollol_schemas.telemetry import NodeState

BAD: Final = "bad"
WARN: Final = "warn"
_SERVES_NOTHING: Final = 3
_NAMED: Final = 3
_HOT_C: Final = 85
_VERY_HOT_C: Final = 92
_FULL_RATIO: Final = 0.96
_ATTEMPTS_TELLING: Final = 20
_SUCCESS_LOW: Final = 0.9
_WAITING_TELLING: Final = 10
_FAILED_WARN: Final = 0.05
_FAILED_BAD: Final = 0.25
_FAILED_TELLING: Final = 3


class Trouble(msgspec.Struct, frozen=True):
    """One kind of trouble."""

    level: str
    """`bad` or `warn`."""
    text: str
    view: str
    """The view that shows more of it."""
    nodes: tuple[str, ...] = ()
    """Whom it concerns; empty: the fleet."""


class Load(msgspec.Struct, frozen=True):
    """What the whole fleet does, as far as it tells of trouble."""

    busy: int
    slots: int
    queued: int
    requests: int
    """Attempts that ended within the last minute."""
    failures: int


def concern_of(row: NodeRow) -> tuple[int, str]:
    """How much a node needs a person, from 0 (not at all) to 3 (it serves nothing), and why in a few words."""
    if row.state == NodeState.DOWN:
        return _SERVES_NOTHING, row.reason or "no heartbeat"
    if row.state not in (NodeState.UP, NodeState.SUSPECT, NodeState.DRAINING):
        return 0, ""
    if not row.is_reachable:
        return _SERVES_NOTHING, f"the engine does not answer: {row.engine_detail}".removesuffix(": ")
    if row.state == NodeState.SUSPECT:
        return 2, row.reason or "heartbeats are late"
    if row.breaker == BreakerState.OPEN:
        return 2, f"breaker open for {row.broken_models[0]}" if row.broken_models else "breaker open"
    return _strain(row)


def _strain(row: NodeRow) -> tuple[int, str]:
    heat_c = row.temperature_c or 0
    if heat_c >= _HOT_C:
        return (2 if heat_c >= _VERY_HOT_C else 1), f"GPU at {heat_c} °C"
    if row.ram_total_mib and row.ram_used_mib >= _FULL_RATIO * row.ram_total_mib:
        return 1, f"memory is {row.ram_used_mib / row.ram_total_mib:.0%} full"
    success = row.success_ratio
    if success is not None and row.attempts >= _ATTEMPTS_TELLING and success < _SUCCESS_LOW:
        return 1, f"{1 - success:.0%} of its attempts fail"
    if row.breaker == BreakerState.HALF_OPEN:
        return 1, "its breaker lets trials through"
    return 0, ""


def troubles(rows: Iterable[NodeRow], load: Load, *, bus: str = "", has_scorer: bool = True) -> tuple[Trouble, ...]:
    """Everything that is wrong now.

    Args:
        rows: The nodes.
        load: What the whole fleet does.
        bus: What is wrong with the connection to NATS; empty: nothing.
        has_scorer: Whether a scorer is in office.
    """
    if bus:
        return (Trouble(BAD, bus, "fleet"),)
    found = []
    if not has_scorer:
        found.append(Trouble(BAD, "No scorer is in office: nothing is decided.", "settings"))
    found += _of_nodes(list(rows))
    found += _of_load(load)
    return tuple(sorted(found, key=lambda one: one.level != BAD))


def _of_nodes(rows: Sequence[NodeRow]) -> list[Trouble]:
    kinds: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.concern:
            kinds.setdefault(_kind(row), []).append(row.id)
    found = [Trouble(level, _sentence(ids, what), "fleet", tuple(ids)) for (level, what), ids in kinds.items()]
    serving = [row for row in rows if row.state in (NodeState.UP, NodeState.SUSPECT) and row.is_reachable]
    if not serving and any(row.concern == _SERVES_NOTHING for row in rows):
        found.insert(0, Trouble(BAD, "No node is up: nothing can be served.", "fleet"))
    return found


def _kind(row: NodeRow) -> tuple[str, str]:
    if row.state == NodeState.DOWN:
        return BAD, "down"
    if not row.is_reachable:
        return BAD, "without an engine that answers"
    if row.state == NodeState.SUSPECT:
        return WARN, "suspect"
    if row.breaker == BreakerState.OPEN:
        return WARN, "shut off by a breaker"
    return WARN, "under strain"


def _sentence(ids: list[str], what: str) -> str:
    ids = sorted(ids)
    named, rest = ids[:_NAMED], len(ids) - _NAMED
    if rest > 0:
        return f"{len(ids)} nodes are {what}: {', '.join(named)} and {rest} more."
    if len(named) == 1:
        return f"{named[0]} is {what}."
    return f"{', '.join(named[:-1])} and {named[-1]} are {what}."


def _of_load(load: Load) -> list[Trouble]:
    found = []
    ratio = load.failures / load.requests if load.requests else 0.0
    if load.failures >= _FAILED_TELLING and ratio >= _FAILED_WARN:
        level = BAD if ratio >= _FAILED_BAD else WARN
        text = f"{load.failures} of {load.requests} attempts failed within the last minute."
        found.append(Trouble(level, text, "decisions"))
    if load.queued >= _WAITING_TELLING and load.queued >= load.slots:
        text = f"{load.queued} requests wait, and {load.busy} of {load.slots} slots are busy."
        found.append(Trouble(WARN, text, "queue"))
    return found
