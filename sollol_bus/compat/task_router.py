"""`TaskRouter`: picks a model for a prompt by its category, and learns from what it is told of the answer."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from sollol_agents.requests.detector import WordDetector
from sollol_bus.compat.fleet import Fleet
from sollol_bus.compat.results import Result
from sollol_bus.compat.router_group import LEARNED, RouterGroup
from sollol_bus.compat.router_ledger import CircuitBreakerConfig, Ledger, RoutingStrategy, Tally, TaskCategory
from sollol_bus.compat.shared import Shared
from sollol_bus.errors import BadRequest, Conflict, NoEligibleNode, UnknownModel
from sollol_schemas.events import BreakerState
from sollol_schemas.feedback import FeedbackRequest
from sollol_schemas.nearest import did_you_mean

_CATEGORY_MAX: Final = 64
_WORDS: Final = WordDetector(coding_floor=0)
_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


class CategoryDetector(Protocol):
    """Finds the category of a prompt."""

    def detect(self, prompt: str) -> str:
        """The category; one of `TaskCategory`, or a word of your own."""


class ModelMetrics(Result):
    """What is known of one model; its items are attributes in either spelling, `total_requests` and `TotalRequests`."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 as many kinds as there are items
        return super().__getattr__(_HUMP.sub("_", name).lower() if name[:1].isupper() else name)


def category_of(prompt: str) -> TaskCategory:
    """What a prompt asks for, by its words; `unknown` when none of them tells."""
    found = _WORDS.detect(prompt).coding_category
    return TaskCategory(found) if found is not None else TaskCategory.UNKNOWN


class TaskRouter:
    """Picks among registered models. Safe to use from several threads.

        router = TaskRouter("affinity")
        router.register_model("coder")
        router.register_model("tester")
        model = router.route_task("Write unit tests for the parser")
        router.record_task_result(model, True, 0.1, router.get_task_category("Write unit tests for the parser"))

    Every method has its name in Go as well: `RouteTask`, `RecordTaskResult` and so on; errors are raised.

    With a fleet the models are those of a group of it, `group`, which a request may name in place of a model: then
    model and node are picked together. Results are feedback, from which the fleet learns for everybody;
    performance, affinity and hybrid are the fleet's own there, and metrics are what this program reported.

    Args:
        strategy: A `RoutingStrategy`, or its name.
        sollol: A fleet that has the models, started; None: names are all that is known of them.
        group: Name of the router's group there.
        circuit_breaker: When a model is left out, and when it comes back.
        rng: Source of chance.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        strategy: RoutingStrategy | str = RoutingStrategy.ROUND_ROBIN,
        sollol: Shared | None = None,
        *,
        group: str = "task-router",
        circuit_breaker: CircuitBreakerConfig | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._strategy = _strategy_of(strategy)
        self._detect: Callable[[str], str] = category_of
        self._breakers = circuit_breaker or CircuitBreakerConfig()
        self._ledger = Ledger(self._breakers, rng or random.Random())
        self._instances: dict[str, object] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._group = RouterGroup(sollol.house, group) if sollol is not None else None

    @property
    def group(self) -> str:
        """The name that a request may bear in place of a model; empty without a fleet."""
        return self._group.name if self._group is not None else ""

    @property
    def strategy(self) -> RoutingStrategy:
        """How models are picked now."""
        return self._strategy

    @property
    def circuit_breaker_config(self) -> CircuitBreakerConfig:
        """When a model is left out, and when it comes back; may be set at any time."""
        return self._breakers

    @circuit_breaker_config.setter
    def circuit_breaker_config(self, config: CircuitBreakerConfig) -> None:
        with self._lock:
            self._breakers = config
            self._ledger.follow(config)

    # -- models -------------------------------------------------------------------------------------------

    def register_model(self, model: str, instance: object = None) -> None:
        """Adds a model.

        Args:
            model: Its name.
            instance: Whatever goes with it; `get_instance` gives it back.

        Raises:
            BadRequest: The name is empty, or there are 256 models.
            Conflict: It is registered already.
        """
        if not model:
            raise BadRequest("a model needs a name")
        with self._lock:
            if model in self._ledger.tallies:
                raise Conflict(f"model {model!r} is registered already")
            if not self._ledger.add(model):
                raise BadRequest(f"no room for {model!r}: unregister_model() another one first")
            self._instances[model] = instance

    def unregister_model(self, model: str) -> None:
        """Removes a model with all that was counted of it.

        Raises:
            UnknownModel: It is not registered.
        """
        with self._lock:
            self._of(model)
            del self._ledger.tallies[model], self._instances[model]

    def get_instance(self, model: str) -> object:
        """What was registered with a model."""
        with self._lock:
            self._of(model)
            return self._instances[model]

    # -- tasks --------------------------------------------------------------------------------------------

    def route_task(self, prompt: str) -> str:
        """The model for a prompt; with a fleet, on a running loop, a coroutine, to be awaited.

        Raises:
            NoEligibleNode: No model is registered, or the breaker of each is open, or the fleet has none of them.
        """
        group = self._group
        if group is None:
            return self._given(self._chosen(self.get_task_category(prompt), self._healthy()))
        return group.house.either(lambda fleet: self._route_on(fleet, group, prompt))

    async def _route_on(self, fleet: Fleet, group: RouterGroup, prompt: str) -> str:
        """The model for a prompt, of those that a fleet has."""
        await group.house.settled()
        category = self.get_task_category(prompt)
        healthy = self._healthy()
        await group.keep(fleet, healthy, self._strategy)
        if self._strategy in LEARNED:
            return self._given(await group.learned(fleet, prompt, category, healthy))
        return self._given(self._chosen(category, await group.able(fleet, healthy)))

    def record_task_result(
        self, model: str, success: bool, latency: float | timedelta, category: TaskCategory | str = ""
    ) -> None:
        """Tells what became of a task, from which the strategies, the breaker and the fleet learn.

        With a fleet it is feedback, which is on its way when this returns on a running loop, else kept.

        Args:
            model: Who did it.
            success: Whether the answer was good.
            latency: Seconds that it took.
            category: What it was.

        Raises:
            UnknownModel: The model is not registered.
            BadRequest: The latency is negative or no number.
        """
        latency_s = latency.total_seconds() if isinstance(latency, timedelta) else float(latency)
        if not 0.0 <= latency_s < float("inf"):
            raise BadRequest(f"latency must be 0 or more seconds, not {latency!r}")
        kind = str(category or TaskCategory.UNKNOWN)[:_CATEGORY_MAX]
        with self._lock:
            tally = self._of(model)
            tally.count(is_success=success, latency_s=latency_s, category=kind, now=self._clock())
        if self._group is not None:
            said = "" if kind == TaskCategory.UNKNOWN else kind
            self._group.tell(FeedbackRequest(model=model, category=said, success=success, latency_s=latency_s))

    def get_task_category(self, prompt: str) -> TaskCategory | str:
        """What a prompt asks for: `coding`, `testing` and so on, `unknown` when its words do not tell."""
        found = str(self._detect(prompt))[:_CATEGORY_MAX]
        return TaskCategory(found) if found in frozenset(TaskCategory) else found

    def set_task_category_detector(self, detector: CategoryDetector | Callable[[str], str]) -> None:
        """Replaces what finds categories: an object with `detect(prompt)`, or a function.

        Raises:
            BadRequest: It is neither.
        """
        detect = getattr(detector, "detect", None) or getattr(detector, "Detect", None) or detector
        if not callable(detect):
            raise BadRequest(f"a detector is a function, or has detect(prompt); {type(detector).__name__} has none")
        self._detect = detect

    def set_routing_strategy(self, strategy: RoutingStrategy | str) -> None:
        """Picks differently from now on; what was learnt stays.

        Raises:
            BadRequest: There is no such strategy.
        """
        self._strategy = _strategy_of(strategy)

    # -- looking ------------------------------------------------------------------------------------------

    def get_model_metrics(self, model: str) -> ModelMetrics:
        """What is known of a model.

        `total_requests`, `successful_tasks`, `failed_tasks`, `success_rate`, `average_latency` in seconds, `last_used`,
        `circuit_breaker_open`, `failure_count` and `success_count` (both in a row), `pending_tasks`, `affinity`.

        Raises:
            UnknownModel: It is not registered.
        """
        with self._lock:
            return _metrics(model, self._of(model), self._clock())

    def get_all_metrics(self) -> dict[str, ModelMetrics]:
        """The metrics of every model by its name."""
        with self._lock:
            return {model: _metrics(model, tally, self._clock()) for model, tally in self._ledger.tallies.items()}

    def health_check(self) -> dict[str, bool]:
        """Whether each model may be given a task."""
        with self._lock:
            healthy = set(self._ledger.healthy(self._clock()))
            return {model: model in healthy for model in self._ledger.tallies}

    def get_circuit_breaker_status(self, model: str) -> bool:
        """Whether the breaker of a model is open, so that it is left out."""
        return bool(self.get_model_metrics(model)["circuit_breaker_open"])

    def get_affinity(self, category: TaskCategory | str) -> dict[str, float]:
        """The points of every model that has some in a category."""
        with self._lock:
            points = {model: tally.points.get(str(category), 0.0) for model, tally in self._ledger.tallies.items()}
            return {model: value for model, value in points.items() if value}

    # -- steering -----------------------------------------------------------------------------------------

    def force_health_recovery(self, model: str) -> None:
        """Closes the breaker of a model."""
        with self._lock:
            self._of(model).breaker.close()
        if self._group is not None:
            self._group.close_breaker(model)

    def reset_metrics(self) -> None:
        """Forgets all that was counted, and with a fleet what feedback taught it of these models; the models stay."""
        with self._lock:
            self._ledger.reset()
        if self._group is not None:
            self._group.forget()

    def close(self) -> None:
        """Removes its group from the fleet; without a fleet there is nothing to do."""
        if self._group is not None:
            self._group.remove()

    def _healthy(self) -> list[str]:
        with self._lock:
            if not self._ledger.tallies:
                raise NoEligibleNode("no model is registered: call register_model() first")
            healthy = self._ledger.healthy(self._clock())
        if not healthy:
            raise NoEligibleNode(
                "no model is well: force_health_recovery() brings one back, or wait until it is tried again"
            )
        return healthy

    def _chosen(self, category: str, models: list[str]) -> str:
        with self._lock:
            return self._ledger.choose(self._strategy, category, models)

    def _given(self, model: str) -> str:
        with self._lock:
            if model in self._ledger.tallies:
                self._ledger.give(model, self._clock(), time.time())  # noqa: TID251 it dates, and decides nothing
        return model

    def _of(self, model: str) -> Tally:
        tally = self._ledger.tallies.get(model)
        if tally is None:
            raise UnknownModel(f"model {model!r} is not registered{did_you_mean(model, self._ledger.tallies)}")
        return tally

    def __repr__(self) -> str:
        """Its strategy and its models, on one line."""
        return f"TaskRouter({self._strategy.value!r}, models={list(self._ledger.tallies)})"

    RegisterModel = register_model
    UnregisterModel = unregister_model
    GetInstance = get_instance
    RouteTask = route_task
    RecordTaskResult = record_task_result
    GetTaskCategory = get_task_category
    SetTaskCategoryDetector = set_task_category_detector
    SetRoutingStrategy = set_routing_strategy
    GetModelMetrics = get_model_metrics
    GetAllMetrics = get_all_metrics
    HealthCheck = health_check
    GetCircuitBreakerStatus = get_circuit_breaker_status
    GetAffinity = get_affinity
    ForceHealthRecovery = force_health_recovery
    ResetMetrics = reset_metrics


def _strategy_of(strategy: RoutingStrategy | str) -> RoutingStrategy:
    names = [one.value for one in RoutingStrategy]
    name = strategy.lower().replace("-", "_")
    if name not in names:
        raise BadRequest(f"no strategy {strategy!r}{did_you_mean(name, names)}; there are: {', '.join(names)}")
    return RoutingStrategy(name)


def _metrics(model: str, tally: Tally, now: float) -> ModelMetrics:
    tally.breaker.refresh(now)
    last = tally.last_used_unix_s
    return ModelMetrics(
        model_id=model,
        total_requests=tally.total,
        successful_tasks=tally.succeeded,
        failed_tasks=tally.failed,
        success_rate=tally.success_rate,
        average_latency=tally.latency_s,
        last_used=datetime.fromtimestamp(last, UTC) if last is not None else None,
        circuit_breaker_open=tally.breaker.state is BreakerState.OPEN,
        failure_count=tally.breaker.failures,
        success_count=tally.row,
        pending_tasks=tally.pending,
        affinity=Result(tally.points),
    )
