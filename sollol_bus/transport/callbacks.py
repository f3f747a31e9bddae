"""Who is called when something becomes of a connection."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial

from sollol_bus.waiting import call_all


class Change(Enum):
    """What became of a connection."""

    LOST = "lost"
    BACK = "back"  # subscriptions are restored already
    CLOSED = "closed"  # for good, on purpose or not
    CLUSTER = "cluster"  # a server joined or left its cluster


class Callbacks:
    """The part of a connection with which others register for its news; the same callback is called once."""

    def __init__(self) -> None:
        # Each a dict without values: every request in flight has its own, and is to find them at once when it ends.
        self._on_disconnect: dict[Callable[[], None], None] = {}
        self._on_reconnect: dict[Callable[[], None], None] = {}
        self._on_closed_for_good: dict[Callable[[], None], None] = {}
        self._on_cluster_change: dict[Callable[[], None], None] = {}
        self._on_refused: dict[Callable[[str], None], None] = {}
        self._on_change: dict[Callable[[Change], None], None] = {}

    def on_change(self, callback: Callable[[Change], None]) -> None:
        """Calls `callback` with whatever becomes of the connection, behind those who asked for that alone."""
        self._on_change[callback] = None

    def forget_changes(self, callback: Callable[[Change], None]) -> None:
        """Undoes `on_change`; harmless for what was not registered."""
        self._on_change.pop(callback, None)

    def _tell(self, change: Change) -> None:
        registered = {
            Change.LOST: self._on_disconnect,
            Change.BACK: self._on_reconnect,
            Change.CLOSED: self._on_closed_for_good,
            Change.CLUSTER: self._on_cluster_change,
        }
        call_all(registered[change])
        call_all(partial(callback, change) for callback in self._on_change)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Calls `callback` at every loss of the connection."""
        self._on_disconnect[callback] = None

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the connection is back; subscriptions are restored already."""
        self._on_reconnect[callback] = None

    def on_closed(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the connection is closed for good, on purpose or not."""
        self._on_closed_for_good[callback] = None

    def on_cluster_change(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when a server joined or left the cluster: what was sent there just before may be lost."""
        self._on_cluster_change[callback] = None

    def on_refused(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Calls `callback` with each subject (in lower case) that the server refuses; returns how to undo it."""
        self._on_refused[callback] = None
        return lambda: self._on_refused.pop(callback, None)

    def forget_callbacks(self, *callbacks: Callable[[], None]) -> None:
        """Undoes what was asked for by `on_…`; harmless for what was not registered."""
        for registered in (self._on_disconnect, self._on_reconnect, self._on_closed_for_good, self._on_cluster_change):
            for callback in callbacks:
                registered.pop(callback, None)
