"""Metrics: their names, their documents, and the board and alerts that are made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.lab.testing.messages import outcome
from sollol_agents.metering.catalog import Listed, counted_by, of_actors
from sollol_agents.metering.labels import MAX_NODES
from sollol_agents.metering.requests import RequestMeter
from sollol_schemas.decision import Decision, DecisionEvent
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome
from sollol_schemas.execution import Figures

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
BOARD = ROOT / "deploy" / "grafana" / "boards" / "sollol.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
KNOWN = {metric.name: metric for metric in (*of_actors(), *counted_by(Metrics()))}
UNITS = {
    *("attempts", "breakers", "bytes", "celsius", "connections", "engines", "events", "info", "jobs", "models"),
    *("nodes", "offices", "ratio", "requests"),
    *("seconds", "slots", "total", "watts"),
}
UNBOUNDED = {"model", "request", "request_id", "attempt", "attempt_id", "job_id", "key", "prompt", "reason"}
_PART_OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")

in_the_checkout = pytest.mark.skipif(not PAGE.is_file(), reason="documents and boards are in the checkout only")


@pytest.mark.parametrize("metric", KNOWN.values(), ids=lambda metric: metric.name)
def test_a_metric_ends_in_its_unit_and_has_no_label_without_bounds(metric: Listed) -> None:
    assert metric.name.rpartition("_")[2] in UNITS
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert not UNBOUNDED & set(metric.labels)
    assert metric.help.endswith(".")


@in_the_checkout
def test_the_document_lists_every_alert() -> None:
    documented = dict(re.findall(r"^\| `([A-Z]\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert documented == {rule["alert"]: rule["labels"]["severity"] for rule in rules()}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Every query of the board and of the alerts, with its place."""
    for panel in json.loads(BOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]


@in_the_checkout
@pytest.mark.parametrize(("place", "query"), list(queries()) if BOARD.is_file() else [])
def test_a_query_uses_metrics_and_labels_that_exist(place: str, query: str) -> None:
    promql_parser.parse(query.replace("$__rate_interval", "5m"))
    named = re.findall(r"\b(?:sollol|process)_\w+", query)
    assert named, place
    labels: set[str] = set()
    for name in named:
        metric = KNOWN.get(name) or KNOWN.get(_PART_OF_HISTOGRAM.sub("", name))
        assert metric is not None, f"{place}: nothing exports {name}"
        is_part = name != metric.name
        assert is_part == (metric.kind == "histogram"), f"{place}: {name} of a {metric.kind}"
        labels |= {*metric.labels, *(("le",) if is_part else ())}
    used = set(re.findall(r"(\w+)\s*(?:=~|!=|=|!~)\s*\"", query))
    for grouped in re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", query):
        used |= {label.strip() for label in grouped.split(",")}
    assert used <= labels, place
    if metric_kinds(named) == {"counter"}:
        assert re.search(r"\b(rate|increase)\(", query), f"{place}: a counter is read by its rate"


def metric_kinds(names: list[str]) -> set[str]:
    return {KNOWN[name].kind if name in KNOWN else "histogram" for name in names}


@in_the_checkout
def test_the_board_is_whole() -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, f"{panel['title']} lies over another"
        assert max(x for x, _ in own) < 24
        cells |= own
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]


@in_the_checkout
def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert re.fullmatch(r"\d+[smh]", rule["for"])


def ended(node_id: str, code: ErrorCode | None = None) -> Outcome:
    figures = Figures(actual_s=2.0, ttft_s=0.5, prompt_tokens=7, output_tokens=3)
    return outcome("r-1", node_id, code=code, figures=figures, predicted_s=1.0)


def test_outcomes_are_counted_by_node_and_the_number_of_series_is_bounded() -> None:
    registry = CollectorRegistry(auto_describe=False)
    meter = RequestMeter(registry)
    for number in range(MAX_NODES + 44):
        meter.ended(ended(f"n{number}"))
    meter.ended(ended("n0", ErrorCode.STALLED))
    text = generate_latest(registry).decode()
    assert text.count("sollol_attempts_total{") == MAX_NODES + 2
    assert 'sollol_attempts_total{mode="fast",node="other",status="success"} 44.0' in text
    assert 'sollol_attempt_failures_total{code="stalled",node="n0"} 1.0' in text
    assert 'sollol_attempt_tokens_total{kind="output",node="n0"} 6.0' in text
    assert 'sollol_attempt_seconds_count{mode="fast",node="n0"} 1.0' in text
    assert 'sollol_attempt_forecast_ratio_sum{node="n0"} 2.0' in text


def test_decisions_are_counted_by_mode_and_strategy() -> None:
    registry = CollectorRegistry(auto_describe=False)
    meter = RequestMeter(registry)
    decision = Decision(request_id="r", attempt_id="r-1", node_id="attic", queue_s=0.2)
    meter.decided(DecisionEvent(decision=decision))
    meter.considered(0.0002)
    text = generate_latest(registry).decode()
    assert 'sollol_scorer_decisions_total{mode="fast",strategy="plan"} 1.0' in text
    assert 'sollol_scorer_queue_seconds_sum{mode="fast"} 0.2' in text
    assert 'sollol_scorer_decision_seconds_bucket{le="0.00025"} 1.0' in text


@in_the_checkout
def test_the_compose_profile_mounts_what_is_there_and_asks_every_actor() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    observers = {name: service for name, service in services.items() if "observe" in service.get("profiles", ())}
    assert set(observers) == {"prometheus", "grafana"}
    for service in observers.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for mount in service["volumes"]:
            source = mount.partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).is_dir(), mount
    actors = {name for name, service in services.items() if "SOLLOL_METRICS_PORT" in service.get("environment", {})}
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert [Path(rule).name for rule in scrape["rule_files"]] == [ALERTS.name]
    asked = {
        target.partition(":")[0]
        for job in scrape["scrape_configs"]
        for config in (*job.get("static_configs", ()), *job.get("dns_sd_configs", ()))
        for target in config.get("targets", config.get("names", ()))
    }
    assert asked == actors
    port = services["scorer"]["environment"]["SOLLOL_METRICS_PORT"]
    assert all(target.endswith(f":{port}") for target in scrape["scrape_configs"][0]["static_configs"][0]["targets"])


@in_the_checkout
def test_grafana_finds_the_board_and_its_source() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "sollol.yml").read_text())["providers"]
    grafana = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["grafana"]
    assert any(
        mount.startswith("./deploy/grafana/boards:" + provider["options"]["path"]) for mount in grafana["volumes"]
    )
    assert json.loads(BOARD.read_text(encoding="utf-8"))["templating"]["list"][0]["current"]["value"] == source["uid"]
