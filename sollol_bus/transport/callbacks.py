"""Who is called when something becomes of a connection."""

from __future__ import annotations

from collections.abc import Callable


class Callbacks:
    """The part of a connection with which others register for its news; the same callback is called once."""

    def __init__(self) -> None:
        # Each a dict without values: every request in flight has its own, and is to find them at once when it ends.
        self._on_disconnect: dict[Callable[[], None], None] = {}
        self._on_reconnect: dict[Callable[[], None], None] = {}
        self._on_closed_for_good: dict[Callable[[], None], None] = {}
        self._on_cluster_change: dict[Callable[[], None], None] = {}
        self._on_refused: dict[Callable[[str], None], None] = {}

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
