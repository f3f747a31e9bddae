"""`sollol top`: its tables fit every width, and its keys do what they say."""

from __future__ import annotations

import time
from types import ModuleType
from typing import cast

import msgspec
import pytest

from sollol_agents.cli import __main__ as program
from sollol_agents.cli import exit_codes
from sollol_agents.fleet_view.decisions import DecisionRow
from sollol_agents.fleet_view.jobs import JobsView
from sollol_agents.fleet_view.node_rows import Loaded, NodeRow
from sollol_agents.fleet_view.timeline import Wait
from sollol_agents.fleet_view.view import FleetView, Head
from sollol_agents.lab.testing.messages import gpu, node_view, outcome, running, telemetry
from sollol_agents.top import tables
from sollol_bus.errors import SollolError, error_from
from sollol_schemas.decision import CandidateCost, Decision, DecisionEvent, Forecast, Rejection, RejectionReason
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import NodeEvent
from sollol_schemas.execution import Figures
from sollol_schemas.queries import NodesReply, WhyReply
from sollol_schemas.telemetry import NodeState

NODE = NodeRow(
    id="attic",
    state="up",
    slots=4,
    busy=1,
    vram_used_mib=6144,
    vram_total_mib=24576,
    tps=42.4,
    success_ratio=0.5,
    gpu_ratio=0.9,
    temperature_c=71,
    rtt_ms=0.4,
    engine="ollama 0.9",
    loaded=(Loaded("llama3.2:3b"),),
)
ROW = DecisionRow(
    id="r-1",
    request_id="r",
    at=0.0,
    mode="reliable",
    node_id="a-node-with-a-long-name",
    model="llama3.2:3b",
    queue_s=0.2,
    predicted_s=130.0,
    reason="the least predicted cost of all candidates",
    actual_s=99.99,
    status="presumed_lost",
)
SUMMARY = Decision(
    request_id="r",
    attempt_id="r-1",
    node_id="attic",
    model="llama3.2:3b",
    reason="the least cost",
    forecast=Forecast(total_s=1.5),
)
DECISION = DecisionEvent(
    decision=SUMMARY,
    candidates=(CandidateCost(node_id="cellar", total_s=3.0), CandidateCost(node_id="attic", total_s=1.5, decode_s=1)),
    rejections=(Rejection(node_id="barn", reason=RejectionReason.DRAINING),),
)


# -- tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 81, 100, 120, 143, 250])
@pytest.mark.parametrize("columns", [tables.FLEET, tables.DECISIONS, tables.QUEUE], ids=["fleet", "decisions", "queue"])
def test_what_is_shown_fits_the_terminal_from_80_columns_on(columns: tuple[tables.Column, ...], width: int) -> None:
    shown = tables.fitting(columns, width)
    assert sum(column.width + 2 for column in shown) <= max(width, 80)
    for cells in (
        tables.fleet_row(NODE, tables.fitting(tables.FLEET, width)),
        tables.decision_row(ROW, tables.fitting(tables.DECISIONS, width)),
    ):
        fitted = tables.fitting(tables.FLEET if cells[0].text == "attic" else tables.DECISIONS, width)
        assert all(len(cell.text) <= column.width for cell, column in zip(cells, fitted, strict=True))


def test_a_node_is_one_row_with_its_troubles_in_red() -> None:
    columns = tables.fitting(tables.FLEET, 160)
    row = {c.name: cell for c, cell in zip(columns, tables.fleet_row(NODE, columns), strict=True)}
    texts = {name: cell.text.strip() for name, cell in row.items()}
    assert texts["SLOTS"] == "●○○○"
    assert texts["MEMORY GIB"] == "6.0/24.0"
    assert (texts["TOK/S"], texts["OK"], texts["TEMP"], texts["BUS"]) == ("42", "50%", "71°C", "0.4ms")
    assert row["OK"].colour == "red"
    broken = tables.fleet_row(NodeRow(id="b", state="up", slots=16, busy=12, breaker="open"), columns)
    assert (broken[1], broken[2].text) == (tables.Cell("up!", "red"), "12/16")


def test_a_long_text_is_cut_with_a_mark() -> None:
    columns = tables.fitting(tables.DECISIONS, 80)
    texts = [cell.text for cell in tables.decision_row(ROW, columns)]
    assert texts[1:3] == ["RELI", "a-node-wi…"]
    assert texts[4:7] == [" 200ms", "   2min", "   2min"]
    assert texts[7].startswith("presum")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0ms"), (0.9994, "999ms"), (0.9996, "1.0s"), (99.94, "99.9s"), (99.96, "2min"), (36000, "10h")],
)
def test_a_duration_has_at_most_six_characters(value: float | None, text: str) -> None:
    assert tables.seconds(value) == text


def test_the_queue_has_a_row_for_each_priority_that_anything_waits_at() -> None:
    jobs = JobsView(jobs=(), by_state={}, waiting={"2": 7, "5": 1}, delayed=3, dead=1)
    rows = tables.queue_rows({"9": Wait(4, 0.25, 1.0), "5": Wait(1, 2.0, 2.0)}, jobs)
    assert [[cell.text.strip() for cell in row] for row in rows] == [
        ["9", "4", "250ms", "1.0s", "-"],
        ["5", "1", "2.0s", "2.0s", "1"],
        ["2", "-", "-", "-", "7"],
    ]
    assert tables.queue_line(1, jobs).startswith("1 request waits for a slot; 8 jobs stored, 3 delayed, 1 dead.")


HEAD = Head(
    nodes=3,
    nodes_up=2,
    nodes_gpu=1,
    slots=8,
    busy=5,
    queued=2,
    tps=120.4,
    decisions_per_s=3.5,
    p95_s=1.25,
    requests=50,
    failures=1,
    strategy="plan",
    scorer="abc",
    is_connected=True,
)


@pytest.mark.parametrize("width", [20, 40, 78, 200])
def test_the_line_about_the_fleet_fits_and_begins_with_what_matters(width: int) -> None:
    line = tables.head_line(HEAD, width).text
    assert len(line) <= width
    assert line.startswith("2/3 nodes up")
    assert set(line.split("  ")) <= {
        "2/3 nodes up",
        "5/8 slots",
        "2 waiting",
        "120 tok/s",
        "3.5 req/s",
        "p95 1.2s",
        "1 failed",
        "plan",
    }
    assert ("1 failed" in line) is (width >= 78)


def test_the_line_about_the_fleet_says_when_nothing_works() -> None:
    assert "no connection" in tables.head_line(msgspec.structs.replace(HEAD, is_connected=False), 80).text
    silent = msgspec.structs.replace(HEAD, scorer="")
    assert "no scorer" in tables.head_line(silent, 80).text
    assert tables.head_line(silent, 80, has_asked=False).text == "asking the fleet ..."


def test_an_explanation_names_candidates_refusals_and_the_end() -> None:
    ended = outcome("r-1", "attic", code=ErrorCode.STALLED, message="silence", figures=Figures(actual_s=2.0))
    text = "\n".join(tables.explanation(WhyReply(request_id="r", decisions=(DECISION,), outcomes=(ended,))))
    assert text.index("attic          costs") < text.index("cellar         costs")
    assert "barn           draining" in text
    assert "failed after 2.0s: stalled silence" in text
    assert tables.explanation(WhyReply(request_id="r")) == ["nothing is recorded yet"]


def test_without_a_terminal_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("textual")
    assert program.run(["top", "--nats", "nats://127.0.0.1:9"]) == exit_codes.USAGE
    assert "needs a terminal" in capsys.readouterr().err


# -- keys -------------------------------------------------------------------------------------------------


class Recorded:
    """An operator who notes what is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.error: SollolError | None = None

    async def drain(self, node_id: str) -> None:
        self._note("drain", node_id)

    async def undrain(self, node_id: str) -> None:
        self._note("undrain", node_id)

    async def reset_breakers(self, node_id: str = "", model: str = "") -> None:
        self._note("breaker", node_id)

    async def why(self, request_id: str) -> WhyReply:
        self._note("why", request_id)
        return WhyReply(request_id=request_id, decisions=(DECISION,))

    def _note(self, what: str, about: str) -> None:
        self.asked.append((what, about))
        if self.error is not None:
            raise self.error


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


async def test_who_just_started_is_not_told_that_nobody_is_in_office(textual: ModuleType) -> None:
    app = textual.TopApp(Recorded(), FleetView())
    async with app.run_test(size=(100, 30)):
        assert "asking" in str(app.query_one("#head").render())


async def test_keys_drain_the_chosen_node_once_it_is_confirmed(textual: ModuleType, view: FleetView) -> None:
    operator = Recorded()
    app = textual.TopApp(operator, view)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("down", "d", "n")
        assert operator.asked == []
        await pilot.press("d", "y")
        await app.workers.wait_for_complete()
        await pilot.press("up", "u", "y")
        await app.workers.wait_for_complete()
        await pilot.press("b", "y")
        await app.workers.wait_for_complete()
    assert operator.asked == [("drain", "b"), ("undrain", "a"), ("breaker", "a")]


async def test_a_refusal_is_shown_and_ends_nothing(textual: ModuleType, view: FleetView) -> None:
    operator = Recorded()
    operator.error = error_from(ErrorBody(code=ErrorCode.FORBIDDEN, message="these credentials may not"))
    app = textual.TopApp(operator, view)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("d", "y")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert [notice.message for notice in app._notifications] == ["these credentials may not"]
        assert app.is_running


async def test_enter_explains_a_decision_and_escape_goes_back(textual: ModuleType, view: FleetView) -> None:
    operator = Recorded()
    app = textual.TopApp(operator, view)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("3", "enter")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert type(app.screen).__name__ == "Explanation"
        await pilot.press("escape")
        assert type(app.screen).__name__ == "Screen"
        await pilot.press("1", "enter")
        assert type(app.screen).__name__ == "Explanation"
    assert operator.asked == [("why", "r")]


@pytest.mark.parametrize(
    ("order", "names"),
    [("name", "abc"), ("state", "bac"), ("load", "cab"), ("memory", "acb"), ("speed", "bca")],
)
def test_the_fleet_is_sorted_by_what_matters(order: str, names: str) -> None:
    machines = {
        "a": NodeRow(id="a", state="up", slots=4, busy=1, vram_used_mib=9, vram_total_mib=10, tps=1.0),
        "b": NodeRow(id="b", state="down", slots=4, busy=0, tps=9.0),
        "c": NodeRow(id="c", state="up", slots=2, busy=2, vram_used_mib=1, vram_total_mib=10, tps=5.0),
    }
    assert "".join(name for name, _ in tables.sorted_fleet(machines, order)) == names


async def test_keys_sort_the_fleet_and_explain_themselves(textual: ModuleType, view: FleetView) -> None:
    from sollol_agents.top.rows import Rows

    app = textual.TopApp(Recorded(), view)
    async with app.run_test(size=(80, 24)) as pilot:
        view.on_telemetry(telemetry("b", slots=2, in_flight=running("x"), seq=9), time.monotonic())
        await pilot.press("s", "s")
        assert [key for key, _ in app.query_one("#nodes", Rows).content] == ["b", "a"]
        await pilot.press("question_mark")
        assert type(app.screen).__name__ == "Explanation"
        await pilot.press("escape")
        assert type(app.screen).__name__ == "Screen"


async def test_a_table_that_is_not_seen_is_not_drawn(textual: ModuleType, view: FleetView) -> None:
    from sollol_agents.top.rows import Rows

    app = textual.TopApp(Recorded(), view)
    async with app.run_test(size=(80, 24)) as pilot:
        assert len(app.query_one("#attempts", Rows).content) == 0
        await pilot.press("3")
        await pilot.pause()
        assert len(app.query_one("#attempts", Rows).content) == 1


async def test_a_screen_that_is_not_composed_is_not_drawn_on(textual: ModuleType, view: FleetView) -> None:
    app = textual.TopApp(Recorded(), view)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.query_one("#head").remove()
        app._draw()
        await pilot.pause()
        assert app.is_running


async def test_the_cursor_stays_on_its_node_while_others_come_and_the_width_changes(
    textual: ModuleType, view: FleetView
) -> None:
    from sollol_agents.top.rows import Rows

    app = textual.TopApp(Recorded(), view)
    async with app.run_test(size=(80, 24)) as pilot:
        table = app.query_one("#nodes", Rows)
        narrow = len(table.columns)
        await pilot.press("down")
        view.on_telemetry(telemetry("aa", slots=2, gpus=(gpu(),)), time.monotonic())
        view.on_node(NodeEvent(node_id="aa", state=NodeState.UP), time.monotonic(), 2.0)
        app._draw()
        assert [key for key, _ in table.content] == ["a", "aa", "b"]
        assert table.chosen == "b"
        assert "aa is up" in str(app.query_one("#notice").render())
        await pilot.resize_terminal(140, 40)
        await pilot.pause()
        assert len(table.columns) > narrow
        assert table.chosen == "b"
        await pilot.resize_terminal(40, 12)
        await pilot.pause()
        assert len(table.columns) == narrow
