"""Modes of requests by what they are for: task types, complexity, and styles of reasoning."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from sollol_bus.compat.priorities import TaskPriority
from sollol_bus.compat.results import Result
from sollol_schemas.modes import MODE_OF_STYLE, mode_for
from sollol_schemas.routing import RoutingMode


class ReasoningMode(StrEnum):
    """How much thought an answer is worth."""

    DEEP_THINKING = "deep_thinking"  # reliable nodes, high priority
    FAST = "fast"  # the soonest answer, urgent
    EXTENDED = "extended"  # in the background, normal priority


class ModeAndPriority(NamedTuple):
    """What a style of reasoning asks for."""

    routing_mode: RoutingMode
    priority: int


class Generates(Protocol):
    """Whoever answers prompts: `SOLLOLIntegration`, and `SOLLOL` on a running loop."""

    async def generate(self, model: str, prompt: str, **said: Any) -> Result:  # noqa: ANN401 whoever it is may name some
        """The whole answer."""


def routing_mode_for(task_type: str, complexity: float | None = None) -> RoutingMode:
    """The mode of a task: by its type where that stands for one, else by its complexity.

    chat and quick_question are FAST; production_code and security_review RELIABLE; documentation, test_generation and
    analysis ASYNC. Any other is RELIABLE above a complexity of 8, ASYNC below 3, else FAST.
    """
    return mode_for(task_type, complexity)


def routing_for_style(style: ReasoningMode | str) -> ModeAndPriority:
    """Mode and priority of a style of reasoning.

    Raises:
        ValueError: There is no such style.
    """
    mode, priority = MODE_OF_STYLE[ReasoningMode(style.lower()).value]
    return ModeAndPriority(mode, TaskPriority(priority))


class ModelOrchestrator:
    """Asks each request in the mode that its task calls for.

    Args:
        load_balancer: Who answers; None: it only says which mode.
    """

    def __init__(self, load_balancer: Generates | None = None) -> None:
        self._load_balancer = load_balancer

    def get_routing_mode(self, task_type: str, complexity: float | None = None) -> RoutingMode:
        """The mode of a task; see `routing_mode_for`."""
        return routing_mode_for(task_type, complexity)

    _get_routing_mode = get_routing_mode

    async def orchestrate(
        self,
        prompt: str,
        *,
        model: str,
        task_type: str = "chat",
        complexity: float | None = None,
        context: Mapping[str, object] | None = None,
        **said: object,
    ) -> Result:
        """The answer to a prompt, in the mode of its task.

        Args:
            prompt: The prompt.
            model: The model, or the name of a group.
            task_type: What it is for.
            complexity: 0 to 10.
            context: Further keywords of the request.
            said: Further keywords of the request; they win.
        """
        asked: dict[str, object] = {
            "routing_mode": routing_mode_for(task_type, complexity),
            "task_type": task_type,
            **(context or {}),
            **said,
        }
        return await _who(self._load_balancer).generate(model, prompt, **asked)


class ReasoningEngine:
    """Asks each request in mode and priority of a style of reasoning.

    Args:
        load_balancer: Who answers.
        model: The model, or the name of a group.
    """

    def __init__(self, load_balancer: Generates, model: str) -> None:
        self._load_balancer = load_balancer
        self._model = model

    async def reason(self, task: str, mode: ReasoningMode | str = ReasoningMode.FAST, **said: object) -> Result:
        """The answer to a task, thought about as `mode` says."""
        routing_mode, priority = routing_for_style(mode)
        asked: dict[str, object] = {"routing_mode": routing_mode, "priority": priority, **said}
        return await self._load_balancer.generate(self._model, task, **asked)


def _who(load_balancer: Generates | None) -> Generates:
    if load_balancer is None:
        raise RuntimeError("ModelOrchestrator(sollol): nobody is named who answers")
    return load_balancer
