"""What listings and checks of the command line show, and what they leave out."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.cli.commands.doctor import without_need
from sollol_agents.cli.commands.findings import Finding, Level
from sollol_agents.cli.commands.jobs_views import show_jobs, show_status
from sollol_agents.cli.commands.listings import show_nodes, show_stats
from sollol_agents.cli.output import on_screen
from sollol_agents.lab.testing.messages import engine, node_view
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import JobListReply, JobState, JobStatus
from sollol_schemas.queries import GroupStats, NodesReply, NodeView, StatsReply
from sollol_schemas.subjects import NO_NODE

NO_ENGINE = Finding(check="engine", level=Level.WARNING, found="none at x", remedy="start one")


def view(**fields: Any) -> NodeView:
    return node_view("desk", engine=engine(version="0.33.0"), **fields)


@pytest.mark.parametrize(
    ("fields", "noted"),
    [({}, ""), ({"weight": 2.0}, "weight 2"), ({"weight": 0.5, "labels": {"site": "den"}}, "weight 0.5, site=den")],
    ids=["neither", "weight", "both"],
)
def test_nodes_show_weight_and_labels_where_an_operator_set_some(
    fields: dict[str, Any], noted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_nodes(NodesReply(nodes=(view(**fields),)))
    shown = capsys.readouterr().out
    assert ("NOTES" in shown) == bool(noted)
    assert noted in shown


def test_what_is_not_known_of_a_machine_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    show_nodes(NodesReply(nodes=(view(cpu_count=0),)))
    cells = capsys.readouterr().out.splitlines()[1].split()
    assert cells == ["desk", "up", "0/1", "-", "-", "-", "-", "ollama", "0.33.0", "-", "-", "100", "ms"]


def test_a_node_without_its_engine_is_not_up(capsys: pytest.CaptureFixture[str]) -> None:
    show_nodes(NodesReply(nodes=(node_view("desk", engine=engine(is_reachable=False)),)))
    assert "no engine" in capsys.readouterr().out


def test_requests_that_reached_no_node_are_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_stats(StatsReply(total=GroupStats(requests=1), by_node={NO_NODE: GroupStats(requests=1)}))
    shown = capsys.readouterr().out
    assert "no node" in shown
    assert NO_NODE not in shown


@pytest.mark.parametrize("level", [Level.OK, Level.WARNING])
def test_no_engine_here_is_a_trouble_only_while_the_fleet_has_none(level: Level) -> None:
    node = Finding(check="node", level=level, found="desk")
    assert without_need(NO_ENGINE, [node]).level is (Level.OK if level is Level.OK else Level.WARNING)


def test_a_status_tells_the_usual_priority_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_status(JobStatus(job_id="a", state=JobState.QUEUED))
    assert "priority      5" in capsys.readouterr().out


def test_a_long_error_is_seen_to_be_cut(capsys: pytest.CaptureFixture[str]) -> None:
    error = ErrorBody(code=ErrorCode.UNKNOWN_MODEL, message="x" * 100)
    with on_screen(width=80):
        show_jobs(JobListReply(jobs=(JobStatus(job_id="a", state=JobState.FAILED, error=error),)))
    assert "unknown_model…" in capsys.readouterr().out
