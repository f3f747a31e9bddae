"""What happened to the fleet lately, in one sentence each."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from sollol_schemas.events import BreakerEvent, NodeEvent, OfficeEvent
from sollol_schemas.steering import StrategyEvent

KEPT: Final = 100


class Notice(msgspec.Struct, frozen=True):
    """One thing that happened."""

    id: int
    at: float
    kind: str
    """`node`, `breaker`, `scorer` or `strategy`."""
    state: str
    """`good`, `warn`, `bad` or `info`: how it is marked."""
    text: str


_OF_STATE: Final = {
    "up": "good",
    "closed": "good",
    "suspect": "warn",
    "draining": "info",
    "half_open": "warn",
    "down": "bad",
    "open": "bad",
}


class Notices:
    """The last `KEPT` notices, oldest first; a notice's id is the version at which it came."""

    def __init__(self) -> None:
        self._kept: deque[Notice] = deque(maxlen=KEPT)

    def on_node(self, event: NodeEvent, at: float, version: int) -> None:
        """A node changed its state."""
        if event.has_left:
            self._add("node", "left", f"{event.node_id} left", at, version)
            return
        if event.is_asleep:
            self._add("node", "asleep", f"{event.node_id} sleeps", at, version)
            return
        was = f" (was {event.previous.value})" if event.previous else ""
        why = f": {event.reason}" if event.reason else ""
        self._add("node", event.state.value, f"{event.node_id} is {event.state.value}{was}{why}", at, version)

    def on_breaker(self, event: BreakerEvent, at: float, version: int) -> None:
        """A breaker changed its state."""
        whose = f"{event.model} on {event.node_id}" if event.model else event.node_id
        state = event.state.value.replace("_", "-")
        why = f": {event.reason}" if event.reason else ""
        self._add("breaker", event.state.value, f"Breaker of {whose} is {state}{why}", at, version)

    def on_office(self, event: OfficeEvent, at: float, version: int) -> None:
        """A scorer took or left office."""
        what = "took office" if event.is_leader else "left office"
        why = f": {event.reason}" if event.reason else ""
        self._add("scorer", "info", f"Scorer {event.instance} {what}{why}", at, version)

    def on_strategy(self, event: StrategyEvent, known: Mapping[str, float], at: float, version: int) -> None:
        """The strategy or a setting changed; `known` are the settings before."""
        if event.strategy != event.previous:
            text = f"Strategy is {event.strategy} (was {event.previous})"
        else:
            changed = {name: value for name, value in event.settings.items() if known.get(name) != value}
            text = "Settings changed: " + ", ".join(f"{k} = {v:g}" for k, v in sorted(changed.items()))
            if not changed:
                return
        self._add("strategy", "info", text, at, version)

    def changes(self, since: int) -> list[Notice]:
        """Those that came after `since`, oldest first."""
        return [notice for notice in self._kept if notice.id > since]

    def _add(self, kind: str, state: str, text: str, at: float, version: int) -> None:
        notice = Notice(id=version, at=round(at, 1), kind=kind, state=_OF_STATE.get(state, "info"), text=text)
        self._kept.append(notice)
