"""What becomes of a node that sleeps while nobody needs it: as it tells, and as time passes."""

from __future__ import annotations

from typing import Final

import msgspec

from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.sleeper import Phase, Sleeper
from sollol_schemas.scaling import SleepEvent, SleepNews

_KEPT_S: Final = 30 * 86_400.0


def take_back(node: Node, now: float) -> list[SleepEvent]:
    """A heartbeat came: the node is there, if it is not one of the last before it sleeps."""
    sleeper = node.sleeper
    if sleeper is None:
        if node.telemetry.sleeper is not None:
            node.sleeper = Sleeper(now)
        return []
    if sleeper.phase is Phase.AWAKE:
        if node.telemetry.sleeper is None:
            node.sleeper = None
        return []
    if not sleeper.has_stayed(now):
        return []
    was_away = sleeper.is_away
    took_s = sleeper.come_back(now)
    note_change(node)
    if not was_away:
        return []
    reason = "" if took_s is None else f"woken {took_s:.0f} s ago"
    return [
        SleepEvent(
            node_id=node.node_id,
            news=SleepNews.AWAKE,
            reason=reason,
            wake_s=round(sleeper.wake_s, 1),
            took_s=round(took_s or 0.0, 1),
        )
    ]


def fall_asleep(node: Node, now: float, reason: str = "nobody needs it") -> list[SleepEvent]:
    """It said that it goes to sleep: what lay in its memory is taken to be gone, what it can do is remembered."""
    sleeper = node.sleeper = node.sleeper or Sleeper(now)
    sleeper.fall_asleep(now, reason)
    node.is_failing = False
    told = msgspec.structs.replace(node.telemetry, is_draining=False, takes_rests=False)
    node.report_load(told, loaded=(), max_slots=max(node.slots, told.slots))
    note_change(node)
    return [
        SleepEvent(node_id=node.node_id, news=SleepNews.ASLEEP, reason=sleeper.reason, wake_s=round(sleeper.wake_s, 1))
    ]


def leave(node: Node, sleeper: Sleeper, now: float) -> None:
    """It was told that it may sleep, and gets no work from now on."""
    sleeper.leave(now)
    note_change(node)


def wake(node: Node, sleeper: Sleeper, now: float, reason: str) -> SleepEvent:
    """It is woken."""
    sleeper.wake(now, reason)
    note_change(node)
    return SleepEvent(node_id=node.node_id, news=SleepNews.WAKING, reason=reason, wake_s=round(sleeper.wake_s, 1))


def look_at(node: Node, now: float) -> list[SleepEvent]:
    """Applies the passing of time: who does not come is late, and then has failed."""
    sleeper = node.sleeper
    if sleeper is None or sleeper.phase is Phase.AWAKE:
        return []
    has_failed = sleeper.has_failed(now)
    if sleeper.look(now) or has_failed:
        note_change(node)
    if not has_failed:
        return []
    return [
        SleepEvent(
            node_id=node.node_id,
            news=SleepNews.FAILED,
            reason=sleeper.reason,
            wake_s=round(sleeper.wake_s, 1),
            retry_in_s=round(sleeper.retry_in_s(now), 1),
        )
    ]


def is_kept_for_long(node: Node, now: float) -> bool:
    """Whether a node is remembered although nothing was heard of it for long: it sleeps."""
    return node.is_asleep and now - node.seen_at < _KEPT_S


def note_change(node: Node) -> None:
    """Whom it may serve, and when, is another thing than before."""
    node.load_version += 1
    node.reshape()
