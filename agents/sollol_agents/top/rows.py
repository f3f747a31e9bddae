"""A table whose rows are rendered once: Textual's own renders every cell anew when rows move, ten times the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from sollol_agents.top.tables import PADDING, Cell, Column
from sollol_bus.observe.harmless import in_line

Content = Sequence[tuple[str, Sequence[Cell]]]
"""Rows with their keys, which differ."""

_KEPT: Final = 1024
"""Rendered rows: those of a few screens, each in a few styles."""
_FEW: Final = 8
"""Up to so many lines are drawn one by one; of more, all are."""


class Rows(ScrollView, can_focus=True):
    """A heading, and rows of which one may be chosen; the choice stays on its row while others come and go.

    Args:
        id: Its name in the screen.
        has_cursor: Whether a row can be chosen.
    """

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--heading", "rows--odd", "rows--even", "rows--cursor"}
    DEFAULT_CSS = """
    Rows { background: $surface; color: $foreground; height: 1fr; }
    Rows > .rows--heading { background: $panel; color: $foreground; text-style: bold; }
    Rows > .rows--odd { background: $surface; color: $foreground; }
    Rows > .rows--even { background: $surface-darken-1; color: $foreground; }
    Rows > .rows--cursor { background: $block-cursor-blurred-background; color: $block-cursor-blurred-foreground; }
    Rows:focus > .rows--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,ctrl+home", f"move(-{1 << 20})", show=False),
        Binding("end,ctrl+end", f"move({1 << 20})", show=False),
    ]

    class Selected(Message):
        """Somebody clicked on the chosen row."""

    def __init__(self, *, id: str, has_cursor: bool = True) -> None:  # noqa: A002 as Textual calls it
        super().__init__(id=id)
        self._has_cursor = has_cursor
        self._columns: Sequence[Column] = ()
        self._content: Content = ()
        self._row = 0
        self._strips: LRUCache[tuple[tuple[Cell, ...], str], Strip] = LRUCache(_KEPT)

    # -- content ------------------------------------------------------------------------------------------

    @property
    def columns(self) -> Sequence[Column]:
        """What is shown of each row."""
        return self._columns

    @property
    def content(self) -> Content:
        """The rows, from the top."""
        return self._content

    @property
    def chosen(self) -> str | None:
        """The key of the row under the cursor."""
        return self._content[self._row][0] if self._has_cursor and self._row < len(self._content) else None

    def show(self, columns: Sequence[Column], content: Content) -> None:
        """Shows these rows; draws the lines that differ from those before."""
        before, chosen, was = self._content, self.chosen, self._row
        self._content = content
        self._row = next((row for row, (key, _) in enumerate(content) if key == chosen), 0)
        if columns != self._columns:
            self._columns = columns
            self._strips.clear()
            self.refresh()
        else:
            top = self._top
            seen = range(top, min(top + self.size.height, max(len(before), len(content))))
            moved = {was, self._row} if was != self._row else set()
            self._draw(moved | {row for row in seen if before[row : row + 1] != content[row : row + 1]})
        width = sum(column.width + PADDING for column in columns)
        self.virtual_size = Size(width, 1 + len(content))

    def _draw(self, rows: set[int]) -> None:
        top, size = self._top, self.size
        lines = [row - top + 1 for row in rows if 0 <= row - top < size.height - 1]
        if len(lines) > _FEW:
            self.refresh()
        elif lines:
            self.refresh(*(Region(0, line, size.width, 1) for line in lines))

    @property
    def _top(self) -> int:
        return round(self.scroll_y)

    # -- rendering ----------------------------------------------------------------------------------------

    def notify_style_update(self) -> None:
        """Colours changed."""
        super().notify_style_update()
        self._strips.clear()

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines as they are kept: no border and no padding is drawn around them."""
        filters, (_, background) = self.get_line_filters(), self.background_colors
        strips = []
        for y in crop.line_range:
            strip = self.render_line(y)
            for one in filters:
                strip = strip.apply_filter(one, background)
            strips.append(strip.crop(crop.x, crop.right))
        return strips

    def render_line(self, y: int) -> Strip:
        """One line of the window: the heading, a row, or nothing."""
        row = self._top + y - 1
        if y == 0:
            names = (column.name.rjust(column.width) if column.is_right else column.name for column in self._columns)
            cells, kind = tuple(map(Cell, names)), "heading"
        elif row >= len(self._content):
            cells, kind = (), "odd"
        else:
            cells = tuple(self._content[row][1])
            kind = "cursor" if self._has_cursor and row == self._row else "even" if row % 2 else "odd"
        strip = self._strips.get((cells, kind))
        if strip is None:
            strip = self._strips[cells, kind] = self._rendered(cells, kind)
        width, x = self.region.width, round(self.scroll_x)
        return strip if x == 0 and strip.cell_length == width else strip.crop_extend(x, x + width, self._style_of(kind))

    def _style_of(self, kind: str) -> Style:
        return self.get_component_rich_style(f"rows--{kind}")

    def _rendered(self, cells: Sequence[Cell], kind: str) -> Strip:
        """Neighbours of one colour are one piece: each costs when it is drawn."""
        base = self._style_of(kind)
        segments: list[Segment] = []
        text, colour = "", ""
        for cell, column in zip(cells, self._columns, strict=False):
            own = "" if kind == "cursor" else cell.colour
            if own != colour and text:
                segments.append(Segment(text, base + Style.parse(colour)))
                text = ""
            colour = own
            text += f" {set_cell_size(in_line(cell.text), column.width)} "
        segments.append(Segment(text, base + Style.parse(colour)))
        width = self.region.width
        strip = Strip(segments)
        return strip.extend_cell_length(width, base) if strip.cell_length < width else strip

    # -- keys and clicks ----------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        """Moves the cursor by some rows, as far as there are any; without a cursor, the window."""
        if not self._has_cursor:
            self.scroll_relative(y=by, animate=False)
            return
        was, self._row = self._row, max(0, min(self._row + by, len(self._content) - 1))
        height = max(1, self.size.height - 1)
        if self._row < self._top:
            self.scroll_to(y=self._row, animate=False)
        elif self._row >= self._top + height:
            self.scroll_to(y=self._row - height + 1, animate=False)
        self._draw({was, self._row})

    def action_page(self, by: int) -> None:
        """Moves the cursor by some windows."""
        self.action_move(by * max(1, self.size.height - 2))

    def on_click(self, event: events.Click) -> None:
        """A click chooses a row; one on the chosen row explains it."""
        row = self._top + event.y - 1
        if event.y < 1 or row >= len(self._content) or not self._has_cursor:
            return
        if row == self._row:
            self.post_message(self.Selected())
        else:
            self.action_move(row - self._row)
