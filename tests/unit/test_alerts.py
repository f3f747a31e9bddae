"""What of a fleet needs a person, and the overview that tells it beside what was learnt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sollol_agents.cli.commands.doctor import alert_findings
from sollol_agents.fleet_view.alerts import AlertKind, AlertLevel, alerts
from sollol_agents.gateway.pages.overview import overview
from sollol_agents.lab.testing.messages import engine, node_view
from sollol_agents.lab.testing.scorer_stage import Fleet
from sollol_agents.recorder.statistics import HourRow, PatternRow, stats_reply, with_patterns
from sollol_agents.scorer.office.views import nodes_reply
from sollol_schemas.queries import GroupStats, NodesReply, NodeView, StatsReply
from sollol_schemas.telemetry import Gpu, LearnedSpeed, LoadedModel, NodeState

GIB = 1 << 30


def view(
    node_id: str = "n1", state: NodeState = NodeState.UP, *, told: dict[str, Any] | None = None, **more: Any
) -> NodeView:
    return msgspec.structs.replace(node_view(node_id, state, **(told or {})), **more)


def gpu(free_mib: float, total_mib: float = 24_576.0) -> Gpu:
    return Gpu(index=0, name="G", memory_total_mib=total_mib, memory_free_mib=free_mib)


CASES: list[tuple[NodeView, AlertKind | None, AlertLevel | None, str]] = [
    (view(), None, None, ""),
    (view(state=NodeState.DOWN, heartbeat_age_s=90.0), AlertKind.UNAVAILABLE, AlertLevel.CRITICAL, "for 90 s"),
    (view(state=NodeState.DOWN, has_left=True), None, None, ""),
    (view(state=NodeState.DRAINING), None, None, ""),
    (view(state=NodeState.SUSPECT), AlertKind.UNAVAILABLE, AlertLevel.WARNING, "suspect"),
    (
        view(told={"engine": engine(is_reachable=False, detail="refused")}),
        AlertKind.UNAVAILABLE,
        AlertLevel.CRITICAL,
        "does not answer: refused",
    ),
    (view(pace_ratio=0.59), AlertKind.DEGRADED, AlertLevel.WARNING, "59% of the speed that was learnt"),
    (view(pace_ratio=0.61), None, None, ""),
    (view(success_ratio=0.5, attempts=20), AlertKind.DEGRADED, AlertLevel.WARNING, "50% of the attempts"),
    (view(success_ratio=0.5, attempts=19), None, None, ""),
    (view(told={"gpus": (gpu(2047.0),)}), AlertKind.LOW_VRAM, AlertLevel.WARNING, "2.0 of 24.0 GiB"),
    (view(told={"gpus": (gpu(2048.0),)}), None, None, ""),
    (view(told={"gpus": (gpu(500.0, 2000.0),)}), None, None, ""),
    (view(told={"gpus": (gpu(100.0),)}, state=NodeState.DOWN), AlertKind.UNAVAILABLE, AlertLevel.CRITICAL, "down"),
    (
        view(told={"gpus": (gpu(1024.0),), "loaded": (LoadedModel(name="m", vram_bytes=23 * GIB),)}),
        AlertKind.LOW_VRAM,
        AlertLevel.INFO,
        "1.0 of 24.0 GiB",
    ),
]


@pytest.mark.parametrize(("seen", "kind", "level", "words"), CASES)
def test_a_node_is_alerted_of_by_what_is_wrong_with_it(
    seen: NodeView, kind: AlertKind | None, level: AlertLevel | None, words: str
) -> None:
    found = alerts([seen])
    assert [(alert.kind, alert.level, alert.node_id) for alert in found] == ([(kind, level, "n1")] if kind else [])
    assert all(words in alert.text for alert in found)


def test_the_worst_comes_first_and_doctor_tells_what_it_does_not_say_otherwise() -> None:
    views = [
        view("a", told={"gpus": (gpu(1.0),)}),
        view("b", pace_ratio=0.2),
        view("c", NodeState.DOWN),
        view("d", told={"gpus": (gpu(1.0),), "loaded": (LoadedModel(name="m", vram_bytes=24 * GIB),)}),
    ]
    assert [alert.node_id for alert in alerts(views)] == ["c", "b", "a", "d"]
    assert [finding.found[:8] for finding in alert_findings(views)] == ["b runs a", "a has 0."]
    assert all(finding.remedy for finding in alert_findings(views))


def test_a_node_that_falls_behind_what_was_learnt_of_it_is_told_with_its_pace() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.core.fleet.nodes["gpu1"].pace.value = 0.4
    (seen,) = nodes_reply(fleet.core, fleet.now, "s").nodes
    assert seen.pace_ratio == 0.4
    assert [alert.kind for alert in alerts([seen])] == [AlertKind.DEGRADED]


def learnt() -> StatsReply:
    rows = [
        PatternRow("coding", "m", "n1", 6, 5, 10.0),
        PatternRow("coding", "m", "n2", 2, 0, 0.0),
        PatternRow("", "m", "n1", 2, 2, 1.0),
    ]
    speed = LearnedSpeed(model="m", decode_tps=40.0, samples=3)
    nodes = NodesReply(nodes=(view("n1", told={"speeds": (speed,)}), view("n2", NodeState.DOWN)))
    empty = stats_reply([], [], fleet=None, window_s=0.0)
    return with_patterns(empty, rows, [HourRow("n1", 2, 5, 1, None)], nodes)


def test_what_was_learnt_is_told_by_category_pattern_baseline_and_hour() -> None:
    told = learnt()
    coding = told.categories["coding"]
    assert (coding.requests, coding.share_ratio, coding.successes, coding.mean_s) == (8, 0.8, 5, 2.0)
    assert told.categories["unknown"].share_ratio == 0.2
    assert [(p.category, p.node_id, p.requests, p.mean_s) for p in told.patterns] == [
        ("coding", "n1", 6, 2.0),
        ("unknown", "n1", 2, 0.5),
        ("coding", "n2", 2, 0.0),
    ]
    assert [(b.node_id, b.model, b.decode_tps, b.samples) for b in told.baselines] == [("n1", "m", 40.0, 3)]
    assert (told.history[0].begins_at, told.history[0].failures) == ("1970-01-01T02:00:00.000Z", 1)
    assert with_patterns(told, [], [], None).categories == {}


def test_the_overview_sums_up_health_speed_and_what_was_learnt() -> None:
    stats = msgspec.structs.replace(learnt(), by_node={"n1": GroupStats(requests=8, failures=1)})
    page = overview(NodesReply(nodes=(view("n1", told={"gpus": (gpu(8192.0),)}), view("n2", NodeState.DOWN))), stats)
    assert (page.status.healthy, page.status.available_hosts, page.status.total_hosts) == (False, 1, 2)
    assert page.routing_intelligence.task_types_learned == ("coding",)
    assert (page.routing_intelligence.patterns_available, page.routing_intelligence.baselines) == (3, 1)
    first, second = page.hosts
    assert (first.status, first.available, first.requests, first.failures, first.vram_free_gb) == (
        "up",
        True,
        8,
        1,
        8.0,
    )
    assert second.alerts == (page.alerts[0].text,)
    alone = overview(NodesReply(nodes=(view(),)), stats)
    assert alone.status.healthy
    assert not overview(NodesReply(nodes=()), stats).status.healthy
