"""The task router: how it picks a model, learns from results, and leaves out what fails."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

import pytest

from sollol_bus.compat import CircuitBreakerConfig, RoutingStrategy, TaskCategory, TaskRouter
from sollol_bus.errors import BadRequest, Conflict, NoEligibleNode, UnknownModel

TASK = "Implement a trie"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def router_of(strategy: str, *models: str, clock: Clock | None = None, **more: int) -> TaskRouter:
    rules = CircuitBreakerConfig(**more)
    router = TaskRouter(strategy, circuit_breaker=rules, rng=random.Random(1), clock=clock or Clock())
    for model in models:
        router.register_model(model)
    return router


def test_round_robin_takes_each_in_turn() -> None:
    router = router_of("round_robin", "a", "b", "c")
    assert [router.route_task(TASK) for _ in range(6)] == ["a", "b", "c"] * 2


def test_least_loaded_takes_whoever_has_fewest_tasks_unreported() -> None:
    router = router_of("least_loaded", "a", "b")
    assert sorted(router.route_task(TASK) for _ in range(2)) == ["a", "b"]
    router.record_task_result("a", True, 0.1)
    assert router.route_task(TASK) == "a"
    assert router.get_model_metrics("a")["pending_tasks"] == 1


def test_random_takes_all_of_them() -> None:
    router = router_of("random", "a", "b")
    assert set(Counter(router.route_task(TASK) for _ in range(50))) == {"a", "b"}


def test_performance_prefers_success_and_then_speed() -> None:
    router = router_of("performance", "fast", "slow", "wrong")
    for model, success, latency in (("fast", True, 0.1), ("slow", True, 3.0), ("wrong", False, 0.01)):
        router.record_task_result(model, success, latency)
    assert {router.route_task(TASK) for _ in range(5)} == {"fast"}
    router.record_task_result("fast", False, 0.1)
    router.record_task_result("fast", False, 0.1)
    assert router.route_task(TASK) == "slow"


def test_affinity_is_by_category_one_for_a_success_and_minus_two_for_a_failure() -> None:
    router = router_of("affinity", "a", "b")
    for _ in range(3):
        router.record_task_result("a", True, 0.1, TaskCategory.TESTING)
    router.record_task_result("b", True, 0.1, "coding")
    router.record_task_result("a", False, 0.1, TaskCategory.TESTING)
    assert router.get_affinity("testing") == {"a": 1.0}
    assert {router.route_task("Write unit tests for the trie") for _ in range(5)} == {"a"}
    assert {router.route_task("Implement a function") for _ in range(5)} == {"b"}
    router.record_task_result("a", False, 0.1, TaskCategory.TESTING)
    assert router.get_affinity("testing") == {}


def test_hybrid_goes_by_both_and_explores_a_little() -> None:
    router = router_of("hybrid", "a", "b")
    for _ in range(5):
        router.record_task_result("a", True, 0.1, "coding")
        router.record_task_result("b", True, 0.1, "testing")
    share = Counter(router.route_task(TASK) for _ in range(400))
    assert 0.9 < share["a"] / 400 < 1.0


def test_a_model_that_fails_five_times_is_left_out_and_tried_after_half_a_minute() -> None:
    clock = Clock()
    router = router_of("round_robin", "a", "b", clock=clock)
    for _ in range(4):
        router.record_task_result("a", False, 0.1)
    assert not router.get_circuit_breaker_status("a")
    router.record_task_result("a", False, 0.1)
    assert router.get_circuit_breaker_status("a")
    assert router.health_check() == {"a": False, "b": True}
    assert {router.route_task(TASK) for _ in range(4)} == {"b"}
    clock.now_s += 30.0
    assert Counter(router.route_task(TASK) for _ in range(10))["a"] == 2  # on trial
    for _ in range(3):
        assert not router.get_circuit_breaker_status("a")
        router.record_task_result("a", True, 0.1)
    assert Counter(router.route_task(TASK) for _ in range(10))["a"] == 5


def test_a_trial_that_fails_opens_the_breaker_again() -> None:
    clock = Clock()
    router = router_of("round_robin", "a", clock=clock, failure_threshold=2)
    router.record_task_result("a", False, 0.1)
    router.record_task_result("a", False, 0.1)
    with pytest.raises(NoEligibleNode, match="force_health_recovery"):
        router.route_task(TASK)
    clock.now_s += 30.0
    assert router.route_task(TASK) == "a"
    router.record_task_result("a", False, 0.1)
    assert router.get_circuit_breaker_status("a")
    router.force_health_recovery("a")
    assert router.route_task(TASK) == "a"


def test_metrics_are_read_in_either_spelling_and_begin_anew_after_a_reset() -> None:
    router = router_of("performance", "a")
    router.RecordTaskResult(router.RouteTask(TASK), True, timedelta(milliseconds=100), router.GetTaskCategory(TASK))
    router.RecordTaskResult("a", False, 0.3, "coding")
    metrics = router.GetModelMetrics("a")
    assert (metrics.ModelID, metrics.TotalRequests, metrics.SuccessfulTasks, metrics.FailedTasks) == ("a", 2, 1, 1)
    assert metrics.AverageLatency == metrics["average_latency"] == pytest.approx(0.2)
    assert (metrics.FailureCount, metrics.SuccessCount, metrics.CircuitBreakerOpen) == (1, 0, False)
    assert metrics.last_used is not None
    router.ResetMetrics()
    assert router.GetAllMetrics()["a"].total_requests == 0
    assert router.GetAffinity("coding") == {}


def test_the_strategy_changes_while_it_runs() -> None:
    router = router_of("round_robin", "a", "b")
    router.record_task_result("b", False, 0.1)
    router.SetRoutingStrategy(RoutingStrategy.PERFORMANCE)
    assert {router.route_task(TASK) for _ in range(4)} == {"a"}
    assert repr(router) == "TaskRouter('performance', models=['a', 'b'])"
    with pytest.raises(BadRequest, match="did you mean 'round_robin'"):
        router.set_routing_strategy("round-robbin")


def test_categories_come_from_words_or_from_whatever_is_set() -> None:
    router = TaskRouter()
    assert router.get_task_category("optimize the trie") is TaskCategory.REFACTORING
    assert router.get_task_category("hello") is TaskCategory.UNKNOWN

    class Detector:
        def Detect(self, prompt: str) -> str:  # noqa: N802 as in Go
            return "poetry" if "rhyme" in prompt else "testing"

    router.SetTaskCategoryDetector(Detector())  # type: ignore[arg-type]  # as somebody from Go would write it
    assert router.GetTaskCategory("a rhyme") == "poetry"
    assert router.GetTaskCategory("x") is TaskCategory.TESTING
    with pytest.raises(BadRequest, match="detect"):
        router.set_task_category_detector("words")  # type: ignore[arg-type]  # the mistake meant here


def test_mistakes_are_said() -> None:
    router = router_of("round_robin")
    with pytest.raises(NoEligibleNode, match="register_model"):
        router.route_task(TASK)
    router.register_model("llama3", instance={"path": "x"})
    assert router.GetInstance("llama3") == {"path": "x"}
    with pytest.raises(Conflict, match="registered already"):
        router.register_model("llama3")
    with pytest.raises(BadRequest):
        router.register_model("")
    with pytest.raises(UnknownModel, match="did you mean 'llama3'"):
        router.record_task_result("lama3", True, 0.1)
    with pytest.raises(BadRequest, match="latency"):
        router.record_task_result("llama3", True, -0.1)
    router.UnregisterModel("llama3")
    with pytest.raises(UnknownModel):
        router.get_model_metrics("llama3")


def test_rules_of_the_breaker_may_be_set_while_it_counts() -> None:
    clock = Clock()
    router = TaskRouter(clock=clock)
    router.register_model("a")
    router.record_task_result("a", False, 0.1)
    router.circuit_breaker_config = CircuitBreakerConfig(failure_threshold=2, timeout=timedelta(seconds=5))
    router.register_model("b")
    assert router.circuit_breaker_config.failure_threshold == 2
    for model, failures in (("a", 1), ("b", 2)):
        for _ in range(failures):
            router.record_task_result(model, False, 0.1)
        assert router.get_circuit_breaker_status(model)
