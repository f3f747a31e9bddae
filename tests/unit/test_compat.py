"""The porting layer's own rules: settings, keywords, results, modes, and a program's book of its nodes."""

from __future__ import annotations

import json
import logging

import msgspec
import pytest

from sollol_bus import compat
from sollol_bus.compat import (
    ModelOrchestrator,
    NodeReliabilityTracker,
    ReasoningMode,
    Result,
    RoutingMode,
    SOLLOLConfig,
    TaskPriority,
    routing_for_style,
)
from sollol_bus.compat.fleet import paired
from sollol_bus.compat.own_fleet import node_configs, node_id_for
from sollol_bus.compat.priorities import split
from sollol_bus.compat.resources import cluster_of, health_of, meets_floor, node_rows
from sollol_bus.errors import BadRequest, ConfigError
from sollol_schemas.queries import NodesReply, NodeView
from sollol_schemas.telemetry import EngineInfo, EngineKind, Gpu, LoadedModel, NodeState, Telemetry


def test_everything_that_is_exported_is_there() -> None:
    assert all(hasattr(compat, name) for name in compat.__all__)


# -- settings ---------------------------------------------------------------------------------------------


def test_a_name_that_is_not_here_is_refused_with_what_takes_its_place() -> None:
    with pytest.raises(ImportError, match="no OllamaPool: SOLLOL, started, has its chat"):
        exec("from sollol_bus.compat import OllamaPool")
    assert not hasattr(compat, "nobody_ever_said_this")


def test_settings_of_the_documents_are_taken_and_those_without_effect_are_named() -> None:
    config = SOLLOLConfig(ray_workers=4, dask_workers=2, hosts=["gpu-node-1:11434"], routing_strategy="performance")
    assert (config.hosts, config.strategy, config.ray_workers) == (["gpu-node-1:11434"], "performance", 4)
    assert config.without_effect == ["ray_workers"]
    config.validate()


@pytest.mark.parametrize(
    ("said", "meant"),
    [("routing_strateg", "routing_strategy"), ("enable_dashbord", "enable_dashboard"), ("host", "hosts")],
)
def test_an_unknown_setting_is_told_with_the_nearest_and_harms_nothing(
    said: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sollol_bus.compat.config"):
        config = SOLLOLConfig(**{said: "x"})
    assert f"no setting '{said}'; did you mean '{meant}'?" in caplog.text
    assert config.to_dict() == SOLLOLConfig().to_dict()


@pytest.mark.parametrize(
    "wrong",
    [
        {"gateway_port": 99_999},
        {"hosts": 7},
        {"hosts": [{"port": 11434}]},
        {"enable_dashboard": "perhaps"},
        {"health_check_interval": 0},
        {"default_routing_mode": "quick"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_value_that_cannot_be_used_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"SOLLOLConfig: "):
        SOLLOLConfig(**wrong)


def test_hosts_are_texts_mappings_or_one_text() -> None:
    assert SOLLOLConfig(hosts="a:1, b:2").hosts == ["a:1", "b:2"]
    assert SOLLOLConfig(ollama_nodes=[{"host": "a"}, {"host": "b", "port": 2}]).hosts == ["a:11434", "b:2"]


def test_what_is_assigned_later_is_checked_by_validate_and_kept_by_changed() -> None:
    config = SOLLOLConfig(hosts=["a:1"])
    config.ray_workers = 8
    assert config.changed(gateway_port=0).to_dict() == {**config.to_dict(), "gateway_port": 0}
    config.gateway_port = -1
    with pytest.raises(ConfigError, match="gateway_port"):
        config.validate()


@pytest.mark.parametrize(
    ("host", "node_id"),
    [
        ("gpu-node-1:11434", "gpu-node-1"),
        ("10.9.66.250", "10-9-66-250"),
        ("http://10.0.0.2:11435/", "10-0-0-2-11435"),
        ("[::1]:11434", "1"),
        ("https://llm.example", "llm-example"),
    ],
)
def test_a_node_is_called_after_the_host_of_its_engine(host: str, node_id: str) -> None:
    assert node_id_for(host) == node_id


def test_hosts_become_nodes_once_each_and_the_first_ranks_best() -> None:
    nodes = node_configs(["a:11434", "http://a:11434", "a", "b:11435"])
    assert [(n.node_id, n.url, n.host_priority) for n in nodes] == [
        ("a", "http://a:11434", 0),
        ("b-11435", "http://b:11435", 3),
    ]
    assert [n.machine for n in node_configs(["a"], reads_gpus=False)] == ["remote"]


@pytest.mark.parametrize("host", ["", ":11434", "http://", "a:port", "a:99999"])
def test_a_host_that_is_no_address_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match="is no address; write 'gpu-node-1:11434'"):
        node_configs([host])


# -- keywords ---------------------------------------------------------------------------------------------


def test_priorities_are_those_of_the_documents() -> None:
    assert {one.name: one.value for one in TaskPriority} == {
        "URGENT": 10,
        "HIGH": 8,
        "NORMAL": 5,
        "LOW": 2,
        "DEFERRED": 0,
    }


def test_the_keywords_of_a_request_go_to_the_fleet_or_to_the_engine() -> None:
    routing, fields = split(
        {
            "routing_mode": "RELIABLE",
            "priority": TaskPriority.HIGH,
            "min_success_rate": 0.98,
            "min_vram_gb": 32.0,
            "prefer_cpu": True,
            "timeout": 30,
            "temperature": 0.7,
            "system": "be brief",
        }
    )
    assert (routing.routing_mode, routing.priority, routing.min_success_rate) == (RoutingMode.RELIABLE, 8, 0.98)
    assert (routing.min_vram_gb, routing.prefer_cpu, routing.deadline_s) == (32.0, True, 30.0)
    assert fields == {"temperature": 0.7, "system": "be brief"}


@pytest.mark.parametrize(
    ("said", "priority"),
    [(TaskPriority.LOW, 2), (10, 10), ("urgent", 10), ("HIGH", 8), (None, 5)],
    ids=str,
)
def test_a_priority_is_a_member_a_number_or_a_name(said: object, priority: int) -> None:
    assert split({"priority": said})[0].priority == priority


def test_a_success_rate_of_nothing_asks_for_nothing() -> None:
    assert split({"min_success_rate": 0.0})[0].min_success_rate is None


@pytest.mark.parametrize("wrong", [{"priority": 11}, {"routing_mode": "quick"}, {"min_success_rate": 98}], ids=str)
def test_a_keyword_out_of_range_is_a_bad_request(wrong: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match=next(iter(wrong))):
        split(wrong)


def test_a_keyword_that_nobody_knows_is_told_and_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sollol_bus.compat.priorities"):
        assert split({"temprature": 1})[1] == {"temprature": 1}
    assert "did you mean 'temperature'?" in caplog.text


def test_prompts_and_models_go_together_pair_by_pair() -> None:
    pairs, rest = paired({"prompts": ["p", "q"], "temperature": 0.1}, ["a", "b"])
    assert (pairs, rest) == ([("a", "p"), ("b", "q")], {"temperature": 0.1})
    assert paired({"prompts": ["p", "q"]}, ["a"])[0] == [("a", "p"), ("a", "q")]
    assert paired({"prompt": "p"}, ["a", "b"])[0] == [("a", "p"), ("b", "p")]
    assert paired({"prompts": ["p"], "models": ["a"]}, None)[0] == [("a", "p")]


@pytest.mark.parametrize(
    ("task", "models"),
    [({}, ["a"]), ({"prompts": []}, ["a"]), ({"prompts": [1]}, ["a"]), ({"prompts": ["p", "q", "r"]}, ["a", "b"])],
    ids=["none", "empty", "no-texts", "uneven"],
)
def test_prompts_and_models_that_do_not_go_together_are_a_bad_request(
    task: dict[str, object], models: list[str]
) -> None:
    with pytest.raises(BadRequest, match="prompts"):
        paired(task, models)


# -- results ----------------------------------------------------------------------------------------------


def test_a_result_is_read_by_item_by_attribute_and_by_get() -> None:
    result = Result.of({"a": {"b": [{"c": 1}]}})
    assert result["a"]["b"][0]["c"] == result.a.b[0].c == result.a.get("b")[0].get("c") == 1
    assert result.get("z", 2) == 2
    assert json.loads(json.dumps(result)) == {"a": {"b": [{"c": 1}]}}
    with pytest.raises(AttributeError, match="no 'z' here; there are: a"):
        _ = result.z
    with pytest.raises(KeyError):
        _ = result["z"]


def _view(node_id: str, *, vram_mib: float = 0.0, is_up: bool = True) -> NodeView:
    gpus = (Gpu(index=0, name="g", memory_total_mib=24_576, memory_free_mib=vram_mib),) if vram_mib else ()
    telemetry = Telemetry(
        node_id=node_id,
        instance="i",
        revision=1,
        seq=1,
        engine=EngineInfo(kind=EngineKind.OLLAMA, url=f"http://{node_id}:11434"),
        slots=1,
        gpus=gpus,
        loaded=(LoadedModel(name="m"),) if gpus else (),
    )
    return NodeView(
        node_id=node_id, state=NodeState.UP if is_up else NodeState.DOWN, heartbeat_age_s=0.0, telemetry=telemetry
    )


def test_a_floor_leaves_out_nobody_until_somebody_falls_below_it() -> None:
    good, flaky = _view("a"), msgspec.structs.replace(_view("b"), success_ratio=0.9)
    gone = msgspec.structs.replace(flaky, has_left=True)
    assert meets_floor(NodesReply(nodes=(good,)), 0.99)
    assert meets_floor(NodesReply(nodes=(good, flaky)), 0.9)
    assert meets_floor(NodesReply(nodes=(good, gone)), 0.98)
    assert not meets_floor(NodesReply(nodes=(good, flaky)), 0.98)
    assert not meets_floor(NodesReply(nodes=()), 0.5)
    assert not meets_floor(NodesReply(nodes=(good,)), None)


def test_nodes_and_cluster_are_flat() -> None:
    reply = NodesReply(nodes=(_view("gpu", vram_mib=2048.0), _view("cpu", is_up=False)))
    cpu, gpu = node_rows(reply)
    assert (gpu["id"], gpu["url"], gpu["type"], gpu["healthy"]) == ("gpu", "http://gpu:11434", "gpu", True)
    assert (gpu["vram_available_gb"], gpu["vram_available_mb"], gpu["vram_total_mb"]) == (2.0, 2048.0, 24_576)
    assert (gpu["models_loaded"], gpu["models_loaded_count"]) == (["m"], 1)
    assert (cpu["type"], cpu["healthy"], cpu["vram_available_gb"]) == ("cpu", False, 0.0)
    stats = cluster_of(reply)
    assert (stats.total_nodes, stats.healthy_nodes, stats.gpu_nodes, stats.cpu_nodes) == (2, 1, 1, 1)
    assert health_of(reply)["status"] == "degraded"


# -- modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task_type", "complexity", "mode"),
    [
        ("chat", 9.5, "fast"),
        ("quick_question", 1.0, "fast"),
        ("production_code", 5.0, "reliable"),
        ("security_review", 1.0, "reliable"),
        ("documentation", 9.0, "async"),
        ("test_generation", 5.0, "async"),
        ("analysis", 5.0, "async"),
        ("anything", 8.1, "reliable"),
        ("anything", 8.0, "fast"),
        ("anything", 3.0, "fast"),
        ("anything", 2.9, "async"),
    ],
)
def test_an_orchestrator_knows_the_mode_of_a_task(task_type: str, complexity: float, mode: str) -> None:
    assert ModelOrchestrator()._get_routing_mode(task_type, complexity) == RoutingMode(mode)


@pytest.mark.parametrize(
    ("style", "mode", "priority"),
    [("deep_thinking", "reliable", 8), ("FAST", "fast", 10), (ReasoningMode.EXTENDED, "async", 5)],
)
def test_a_style_of_reasoning_stands_for_mode_and_priority(style: str, mode: str, priority: int) -> None:
    assert routing_for_style(style) == (RoutingMode(mode), priority)


# -- a program's own book -----------------------------------------------------------------------------------


def test_a_tracker_rates_nodes_by_success_and_then_by_steadiness() -> None:
    tracker = NodeReliabilityTracker(wall_s=lambda: 0.0)
    for time_s in (1.0, 3.0, 1.0, 3.0):
        tracker.record_request("restless", True, time_s)
        tracker.record_request("steady", True, 2.0)
    tracker.record_request("flaky", True, 1.0)
    tracker.record_request("flaky", False, 30.0, error_type="ReadTimeout")
    assert tracker.get_success_rate("flaky") == 0.5
    assert tracker.get_success_rate("unheard-of") == 1.0
    assert tracker.get_most_reliable_nodes() == ["steady", "restless"]
    assert tracker.get_most_reliable_nodes(min_success_rate=0.5) == ["steady", "restless", "flaky"]
    seen = tracker.node_stats["flaky"]
    assert (seen.total_requests, seen.successful, seen.failed, seen.timeouts) == (2, 1, 1, 1)
    assert (seen["success_rate"], seen["avg_response_time"], seen["response_times"]) == (0.5, 15.5, [1.0, 30.0])
    assert tracker.get_variance("restless") == 1.0
    tracker.reset("flaky")
    assert tracker.get_success_rate("flaky") == 1.0


def test_a_tracker_keeps_the_last_hundred_times_and_a_thousand_nodes() -> None:
    tracker = NodeReliabilityTracker(wall_s=lambda: 0.0)
    for number in range(1100):
        tracker.record_request("n", True, float(number))
        tracker.record_request(f"n{number}", True, 1.0)
    assert tracker.node_stats["n"]["response_times"] == [float(number) for number in range(1000, 1100)]
    assert len(tracker.node_stats) == 1024
    assert "n0" not in tracker.node_stats


@pytest.mark.parametrize("time_s", [-1.0, float("nan")])
def test_a_time_that_is_none_is_refused(time_s: float) -> None:
    with pytest.raises(ValueError, match="0 or more seconds"):
        NodeReliabilityTracker().record_request("n", True, time_s)
