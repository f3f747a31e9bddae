"""The terminal application: draws what a `FleetView` knows, twice a second, and passes an operator's keys on."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Final, Protocol, TypeVar

from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Sparkline, Static, TabbedContent, TabPane

from sollol_agents.fleet_view.decisions import DecisionRow
from sollol_agents.fleet_view.node_rows import NodeRow
from sollol_agents.fleet_view.view import FleetView
from sollol_agents.top import tables
from sollol_agents.top.rows import Rows
from sollol_agents.top.screens import Confirm, Explanation
from sollol_bus.errors import SollolError
from sollol_bus.observe.harmless import in_line
from sollol_bus.transport.clock import wall_s
from sollol_schemas.queries import WhyReply

T = TypeVar("T")
DRAW_EVERY_S: Final = 0.5
DECISIONS_EVERY_S: Final = 0.9
"""Each new decision moves all the others: a whole screen to draw."""
_DECISIONS_SHOWN: Final = 100


class Operator(Protocol):
    """What an operator may ask of the fleet; `sollol_bus.Client` can."""

    def drain(self, node_id: str) -> Awaitable[object]:
        """Takes a node out of service."""

    def undrain(self, node_id: str) -> Awaitable[object]:
        """Puts it back."""

    def reset_breakers(self, node_id: str = "", model: str = "") -> Awaitable[object]:
        """Closes circuit breakers by force."""

    def why(self, request_id: str) -> Awaitable[WhyReply]:
        """Explains a request."""


class TopApp(App[None]):
    """Fleet, queue and decisions.

    Args:
        operator: Does what keys ask for.
        view: What is known, kept current by somebody else.
    """

    TITLE = "sollol top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: 1; text-style: bold; padding: 0 1; }
    #notice { height: 1; color: $text-muted; padding: 0 1; }
    TabbedContent { height: 1fr; }
    TabPane { padding: 0; height: 1fr; }
    #waiting { height: 1; padding: 0 1; }
    Sparkline { height: 3; margin: 0 1; }
    Confirm, Explanation { align: center middle; }
    .box { width: auto; max-width: 90%; height: auto; max-height: 90%; padding: 0 1; }
    .box { border: round $primary; background: $surface; }
    .box Static { width: auto; max-width: 100%; }
    .wide { width: 95%; }
    .title { text-style: bold; }
    .keys { color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "show('fleet')", "Fleet"),
        Binding("2", "show('queue')", "Queue"),
        Binding("3", "show('decisions')", "Decisions"),
        Binding("d", "drain", "Drain"),
        Binding("u", "undrain", "Undrain", show=False),
        Binding("b", "breaker", "Breaker"),
        Binding("enter", "explain", "Why", show=False),
        Binding("s", "sort", "Sort"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, operator: Operator, view: FleetView) -> None:
        super().__init__()
        self._operator = operator
        self._view = view
        self._machines: dict[str, NodeRow] = {}
        self._attempts: dict[str, DecisionRow] = {}
        self._drawn_version = 0
        self._decisions_at = 0.0
        self._order = 0
        self._cells: dict[str, dict[str, tuple[object, list[tables.Cell]]]] = {}
        """Of each table that was drawn, by the key of its rows: what was known, and what was made of it."""
        self._written: dict[str, tuple[str, str]] = {}

    def compose(self) -> ComposeResult:
        """One line about the fleet, the three views, what happened last, the keys."""
        yield Static(id="head", markup=False)
        with TabbedContent(initial="fleet"):
            with TabPane("Fleet", id="fleet"):
                yield Rows(id="nodes")
            with TabPane("Queue", id="queue"):
                yield Static(id="waiting", markup=False)
                yield Sparkline([0], id="depth")
                yield Rows(id="priorities", has_cursor=False)
            with TabPane("Decisions", id="decisions"):
                yield Rows(id="attempts")
        yield Static(id="notice", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begins to draw."""
        self._draw()
        self.set_interval(DRAW_EVERY_S, self._draw)
        self.query_one("#nodes").focus()

    def on_resize(self, _event: events.Resize) -> None:
        """Draws with the columns that fit now."""
        self.call_after_refresh(self._draw)

    # -- drawing ------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        if not self.query("#head"):
            return  # a resize may come before the screen is composed, and the clock's tick while it is taken down
        now, at = time.monotonic(), wall_s()
        view = self._view
        view.tick(now, at)
        self._learn()
        head = tables.head_line(view.head(now, at), self.size.width - 2, has_asked=view.has_asked)
        self._write("#head", in_line(head.text), head.colour)
        self._draw_active(at)
        notices = view.notices.changes(0)
        if notices:
            last = notices[-1]
            self._write("#notice", f"{time.strftime('%H:%M:%S', time.localtime(last.at))} {in_line(last.text)}")

    def _draw_active(self, at: float) -> None:
        """Fills the table that is seen; the others cost nothing until they are."""
        match self._active:
            case "fleet":
                rows = tables.sorted_fleet(self._machines, tables.ORDERS[self._order])
                self._draw_table("#nodes", tables.FLEET, rows, tables.fleet_row)
            case "queue":
                self._draw_queue(at)
            case _ if time.monotonic() - self._decisions_at >= DECISIONS_EVERY_S or "#attempts" not in self._cells:
                self._decisions_at = time.monotonic()
                latest = sorted(self._attempts.items(), key=lambda item: item[1].at, reverse=True)
                self._draw_table("#attempts", tables.DECISIONS, latest[:_DECISIONS_SHOWN], tables.decision_row)

    def _learn(self) -> None:
        """Takes over what changed since the last time."""
        view, since = self._view, self._drawn_version
        rows, gone = view.nodes.changes(since)
        self._machines |= {row.id: row for row in rows}
        for node_id in gone:
            self._machines.pop(node_id, None)
        self._attempts |= {row.id: row for row in view.decisions.changes(since)}
        while len(self._attempts) > 2 * _DECISIONS_SHOWN:
            del self._attempts[min(self._attempts, key=lambda key: self._attempts[key].at)]
        self._drawn_version = view.version

    def _draw_queue(self, at: float) -> None:
        view = self._view
        jobs = view.jobs.view()
        self._write("#waiting", tables.queue_line(view.timeline.queued, jobs))
        depths = [float(queued) for queued in view.timeline.depths()] or [0.0]
        curve = self.query_one("#depth", Sparkline)
        if curve.data != depths:
            curve.data = depths
        rows = [(row[0].text, row) for row in tables.queue_rows(view.timeline.summary(at).waits, jobs)]
        self._draw_table("#priorities", tables.QUEUE, rows, lambda row, _columns: row)

    def _draw_table(
        self,
        name: str,
        columns: tuple[tables.Column, ...],
        rows: Sequence[tuple[str, T]],
        cells_of: Callable[[T, list[tables.Column]], list[tables.Cell]],
    ) -> None:
        """Shows these rows; the cells of those that are the same as before are not made again."""
        table, shown = self.query_one(name, Rows), tables.fitting(columns, self.size.width)
        before = self._cells.get(name, {}) if table.columns == shown else {}
        cells = self._cells[name] = {}
        for key, row in rows:
            known = before.get(key)
            cells[key] = known if known is not None and known[0] is row else (row, cells_of(row, shown))
        table.show(shown, [(key, made) for key, (_, made) in cells.items()])

    def _write(self, name: str, text: str, colour: str = "") -> None:
        """Shows a line of text; what is around it need not be laid out anew."""
        if self._written.get(name) != (text, colour):
            self._written[name] = (text, colour)
            self.query_one(name, Static).update(Text(text, style=colour), layout=False)

    # -- keys ---------------------------------------------------------------------------------------------

    def action_show(self, name: str) -> None:
        """Shows one of the views."""
        self.query_one(TabbedContent).active = name
        table = {"fleet": "#nodes", "queue": "#priorities", "decisions": "#attempts"}[name]
        self.query_one(table).focus()
        self.call_after_refresh(self._draw)

    def on_rows_selected(self, _event: Rows.Selected) -> None:
        """A click on the chosen row explains it."""
        self.action_explain()

    def action_explain(self) -> None:
        """Explains what is under the cursor."""
        if self._active == "decisions":
            row = self._attempts.get(self.query_one("#attempts", Rows).chosen or "")
            if row is not None:
                self._explain_request(row.request_id)
        elif (node := self._node()) is not None:
            self.push_screen(Explanation(f"Node {node.id}", _about(node)))

    def action_sort(self) -> None:
        """Sorts the fleet by the next of the orders."""
        self._order = (self._order + 1) % len(tables.ORDERS)
        self.notify(f"the fleet is sorted by {tables.ORDERS[self._order]}", timeout=2)
        self._draw()

    def action_help(self) -> None:
        """Says what the keys do and what the columns mean."""
        self.push_screen(Explanation("sollol top", tables.help_lines()))

    def action_drain(self) -> None:
        """Takes the node under the cursor out of service."""
        node = self._node()
        if node is not None:
            self._operate(f"Drain {node.id}? What runs there finishes.", node.id, self._operator.drain)

    def action_undrain(self) -> None:
        """Puts the node under the cursor back into service."""
        node = self._node()
        if node is not None:
            self._operate(f"Put {node.id} back into service?", node.id, self._operator.undrain)

    def action_breaker(self) -> None:
        """Closes the circuit breakers of the node under the cursor."""
        node = self._node()
        if node is not None:
            self._operate(f"Close all circuit breakers of {node.id}?", node.id, self._operator.reset_breakers)

    @property
    def _active(self) -> str:
        return self.query_one(TabbedContent).active

    def _node(self) -> NodeRow | None:
        if self._active != "fleet":
            self.notify("choose a node in the fleet first (key 1)", severity="warning")
            return None
        return self._machines.get(self.query_one("#nodes", Rows).chosen or "")

    @work
    async def _operate(self, question: str, node_id: str, operation: Callable[[str], Awaitable[object]]) -> None:
        if not await self.push_screen_wait(Confirm(question)):
            return
        try:
            await operation(node_id)
        except SollolError as error:
            self.notify(error.message, severity="error", timeout=10)
        else:
            self.notify(f"{node_id}: done")

    @work
    async def _explain_request(self, request_id: str) -> None:
        try:
            lines = tables.explanation(await self._operator.why(request_id))
        except SollolError as error:
            self.notify(error.message, severity="error", timeout=10)
        else:
            self.push_screen(Explanation(f"Request {request_id}", lines))


def _about(node: NodeRow) -> list[str]:
    """Everything that a row has no room for."""
    running = ", ".join(f"{one.model} ({one.phase}, {one.tokens} tokens)" for one in node.running)
    loaded = ", ".join(f"{one.name} ({one.vram_ratio * 100:.0f} % in video memory)" for one in node.loaded)
    bound = "" if node.success_bound is None else f", at least {node.success_bound * 100:.1f} % by 95 % confidence"
    return [
        f"state    {node.state} {node.reason}".rstrip(),
        f"engine   {node.engine}{'' if node.is_reachable else ': ' + node.engine_detail}",
        f"host     {node.host}, {node.gpu or 'no GPU'}",
        f"breaker  {node.breaker} {', '.join(node.broken_models)}".rstrip(),
        f"record   {node.attempts} attempts{bound}",
        f"running  {running or 'nothing'}",
        f"loaded   {loaded or 'nothing'}",
    ]
