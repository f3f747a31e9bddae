"""Screens above the tables: a question to be confirmed, and an explanation to be read."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from sollol_bus.observe.harmless import in_line


class Confirm(ModalScreen[bool]):
    """Asks before something is done to the fleet."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "answer(True)", "Yes"),
        ("n", "answer(False)", "No"),
        ("escape", "answer(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question."""
        with Vertical(classes="box"):
            yield Static(in_line(self._question), markup=False)
            yield Static("y yes, n no", classes="keys")

    def action_answer(self, answer: bool) -> None:
        """Closes it with the answer."""
        self.dismiss(answer)


class Explanation(ModalScreen[None]):
    """Text to be read."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "leave", "Back"),
        ("q", "leave", "Back"),
        ("enter", "leave", "Back"),
    ]

    def __init__(self, title: str, lines: list[str]) -> None:
        super().__init__()
        self._title = title
        self._lines = lines

    def compose(self) -> ComposeResult:
        """The text."""
        with VerticalScroll(classes="box wide"):
            yield Static(in_line(self._title), classes="title", markup=False)
            yield Static("\n".join(map(in_line, self._lines)), markup=False)
            yield Static("Escape goes back", classes="keys")

    def action_leave(self) -> None:
        """Closes it."""
        self.dismiss(None)
