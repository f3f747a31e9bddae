"""The tables of `sollol top`: what they draw, what they need not draw, and the cursor in them."""

from __future__ import annotations

import time
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from sollol_agents.fleet_view.view import FleetView
from sollol_agents.lab.testing.messages import gpu, node_view, running, telemetry
from sollol_schemas.decision import Decision, DecisionEvent, Forecast
from sollol_schemas.queries import NodesReply

if TYPE_CHECKING:
    from textual.geometry import Region

SUMMARY = Decision(
    request_id="r",
    attempt_id="r-1",
    node_id="attic",
    model="llama3.2:3b",
    reason="the least cost",
    forecast=Forecast(total_s=1.5),
)
DECISION = DecisionEvent(decision=SUMMARY)


@pytest.fixture
def view() -> FleetView:
    made, now = FleetView(), time.monotonic()
    nodes = tuple(node_view(n, slots=2, gpus=(gpu(),)) for n in "ab")
    made.on_nodes(NodesReply(nodes=nodes, scorer="abc"), now, 1.0)
    made.on_decision(DECISION, now, 1.0)
    return made


@pytest.fixture
def textual() -> ModuleType:
    """The terminal, which needs the extra `top`; imported here, where no loop waits for the files."""
    return cast("ModuleType", pytest.importorskip("sollol_agents.top.app"))


class Nobody:
    """An operator who is asked nothing."""


def decide(view: FleetView, request_id: str, at: float) -> None:
    made = msgspec.structs.replace(SUMMARY, request_id=request_id, attempt_id=f"{request_id}-1")
    view.on_decision(msgspec.structs.replace(DECISION, decision=made), time.monotonic(), at)


def drawn(table: Any) -> list[str]:
    """What the terminal shows of a table."""
    return ["".join(segment.text for segment in table.render_line(y)).rstrip() for y in range(table.size.height)]


async def test_only_what_changed_in_a_table_is_drawn_anew(
    textual: ModuleType, view: FleetView, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sollol_agents.top.rows import Rows

    app = textual.TopApp(Nobody(), view)
    async with app.run_test(size=(80, 24)) as pilot:
        table = app.query_one("#nodes", Rows)
        before = drawn(table)
        regions: list[tuple[Region, ...]] = []
        monkeypatch.setattr(table, "refresh", lambda *given, **_: regions.append(given))
        app._draw()
        assert regions == [], "nothing changed"
        view.on_telemetry(telemetry("b", slots=2, gpus=(gpu(),), in_flight=running("x"), seq=9), time.monotonic())
        app._draw()
        await pilot.pause()
        after = drawn(table)
        assert [[region.y for region in given] for given in regions] == [[2]]
    assert [y for y, (was, now) in enumerate(zip(before, after, strict=True)) if was != now] == [2]
    assert "●○" in after[2]


async def test_rows_that_move_are_not_rendered_again(
    textual: ModuleType, view: FleetView, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sollol_agents.top.rows import Rows

    rendered: list[str] = []
    original = Rows._rendered

    def counted(self: Rows, cells: Any, kind: str) -> Any:
        rendered.append(kind)
        return original(self, cells, kind)

    app = textual.TopApp(Nobody(), view)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("3")
        for number in range(12):
            decide(view, f"n{number}", 2.0 + number)
            monkeypatch.setattr(app, "_decisions_at", 0.0)
            app._draw()
            await pilot.pause()
        monkeypatch.setattr(Rows, "_rendered", counted)
        decide(view, "last", 60.0)
        monkeypatch.setattr(app, "_decisions_at", 0.0)
        app._draw()
        await pilot.pause()
        lines = drawn(app.query_one("#attempts", Rows))
    assert len(rendered) <= 3, "the new row, and the row under the cursor with its neighbour"
    assert sum("attic" in line for line in lines) == 14


async def test_the_cursor_moves_by_rows_and_by_windows_and_the_window_follows(
    textual: ModuleType, view: FleetView
) -> None:
    from sollol_agents.top.rows import Rows

    for number in range(40):
        decide(view, f"n{number}", 2.0 + number)
    app = textual.TopApp(Nobody(), view)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("3")
        table = app.query_one("#attempts", Rows)
        keys = [key for key, _ in table.content]
        assert table.chosen == keys[0] == "n39-1"
        await pilot.press("down", "down", "up")
        assert table.chosen == keys[1]
        await pilot.press("pagedown")
        assert table.chosen == keys[1 + table.size.height - 2]
        await pilot.press("end", "down")
        assert table.chosen == keys[-1] == "r-1"
        assert table.scroll_y == len(keys) - (table.size.height - 1)
        await pilot.press("home")
        assert (table.chosen, table.scroll_y) == (keys[0], 0)


async def test_a_click_chooses_a_row_and_a_second_one_explains_it(textual: ModuleType, view: FleetView) -> None:
    from sollol_agents.top.rows import Rows

    app = textual.TopApp(Nobody(), view)
    async with app.run_test(size=(80, 24)) as pilot:
        table = app.query_one("#nodes", Rows)
        await pilot.click(Rows, offset=(3, 0))
        await pilot.click(Rows, offset=(3, 9))
        assert table.chosen == "a", "there is nothing to choose"
        await pilot.click(Rows, offset=(3, 2))
        assert table.chosen == "b"
        assert type(app.screen).__name__ == "Screen"
        await pilot.click(Rows, offset=(3, 2))
        await pilot.pause()
        assert type(app.screen).__name__ == "Explanation"
