"""The open pages: each gets what changed since it last drew, when it is ready and not more often than set.

A page says which version it has drawn. Until then nothing more is sent to it, so a slow page gets fewer and larger
updates instead of a growing queue. Pages that have drawn the same version get the same text, made once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from sollol_agents.fleet_view.view import TOPICS, FleetView

log = logging.getLogger(__name__)

_MAX_PAGES: Final = 50
_LOST_S: Final = 10.0
"""A page that was not heard of for so long gets everything anew."""
_TIDY_S: Final = 5.0
"""How often, while no page is open, what is over is forgotten and the curves go on."""
_BEAT_S: Final = 1.0
"""After so long without a change a page is told that there is none, so that it can tell quiet from silence."""
_encode = msgspec.json.Encoder().encode


class Page:
    """One open page.

    Args:
        send: Sends one text to the page's `apply`; may drop it when the page is gone.
        may_look: Whether the person at the page may (still) see anything.
        leave: Sends the page away.
    """

    __slots__ = ("_send", "drawn", "head", "leave", "may_look", "sent", "sent_at", "topic")

    def __init__(
        self,
        send: Callable[[str], None],
        may_look: Callable[[], bool] = lambda: True,
        leave: Callable[[], None] = lambda: None,
    ) -> None:
        self._send = send
        self.may_look = may_look
        self.leave = leave
        self.topic = TOPICS[0]
        self.drawn = 0
        """Version that it shows; 0: nothing yet."""
        self.sent = 0
        """Version that is on its way to it; 0: none."""
        self.head = b""
        self.sent_at = 0.0
        """When it was sent something last."""

    def show(self, topic: str) -> None:
        """The page turned to another view and has nothing of it."""
        if topic in TOPICS:
            self.topic = topic
            self.forget()

    def forget(self) -> None:
        """The page has nothing any more."""
        self.drawn = self.sent = 0
        self.head = b""

    def on_drawn(self, version: int) -> None:
        """The page has drawn what was sent."""
        if version == self.sent:
            self.drawn, self.sent = version, 0

    def is_ready(self, now: float) -> bool:
        """Whether something may be sent to it."""
        if self.sent and now - self.sent_at > _LOST_S:
            self.forget()
        return not self.sent

    def send(self, text: str, version: int, head: bytes, now: float) -> None:
        """Sends an update."""
        self.sent, self.head, self.sent_at = version, head, now
        self._send(text)


class Pages:
    """All open pages."""

    def __init__(self, view: FleetView) -> None:
        self._view = view
        self._open: set[Page] = set()
        self._ticked_at = 0.0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Whether no further page may be opened."""
        return len(self._open) >= _MAX_PAGES

    def add(self, page: Page) -> None:
        """A page was opened."""
        self._open.add(page)

    def remove(self, page: Page) -> None:
        """A page was closed."""
        self._open.discard(page)

    def shows(self, topic: str) -> bool:
        """Whether any page shows this view."""
        return any(page.topic == topic for page in self._open)

    def tick(self, now: float, at: float) -> int:
        """Sends to every ready page what it has not drawn; returns how many texts were made for that."""
        view = self._view
        if not self._open:
            if now - self._ticked_at >= _TIDY_S:
                self._ticked_at = now
                view.tick(now, at)
            return 0
        self._ticked_at = now
        view.tick(now, at)
        version = view.version
        head = _encode(view.head(now, at))
        made: dict[tuple[str, int, bool, bool], str] = {}
        for page in list(self._open):
            if not page.may_look():
                self.remove(page)
                page.leave()
                continue
            if not page.is_ready(now):
                continue
            is_due = now - page.sent_at >= _BEAT_S
            key = (page.topic, page.drawn, page.head == head, is_due)
            text = made.get(key)
            if text is None:
                text = made[key] = self._text(page, version, head, at, is_due=is_due)
            if text:
                page.send(text, version, head, now)
        return len(made)

    def _text(self, page: Page, version: int, head: bytes, at: float, *, is_due: bool) -> str:
        """The update for a page, or nothing when nothing changed and nothing is due."""
        changes: dict[str, Any] = self._view.changes(page.topic, page.drawn, at)
        changes = {name: value for name, value in changes.items() if value or not page.drawn}
        if page.head != head:
            changes["head"] = msgspec.Raw(head)
        if not changes and not is_due:
            return ""
        return _encode({"v": version, "topic": page.topic, "at": at, "full": not page.drawn, **changes}).decode()
