"""Automatic modes: from what the caller declares to a routing mode and a priority; never from the prompt's length."""

from __future__ import annotations

from typing import Final

import msgspec

from sollol_schemas.routing import DEFAULT_PRIORITY, PRIORITY_NAMES, Routing, RoutingMode

MODE_OF_TASK: Final[dict[str, RoutingMode]] = {
    "chat": RoutingMode.FAST,
    "quick_question": RoutingMode.FAST,
    "production_code": RoutingMode.RELIABLE,
    "security_review": RoutingMode.RELIABLE,
    "documentation": RoutingMode.ASYNC,
    "test_generation": RoutingMode.ASYNC,
    "analysis": RoutingMode.ASYNC,
}
MODE_OF_STYLE: Final[dict[str, tuple[RoutingMode, int]]] = {
    "deep_thinking": (RoutingMode.RELIABLE, PRIORITY_NAMES["high"]),
    "fast": (RoutingMode.FAST, PRIORITY_NAMES["urgent"]),
    "extended": (RoutingMode.ASYNC, PRIORITY_NAMES["normal"]),
}
_RELIABLE_ABOVE = 8.0
_ASYNC_BELOW = 3.0


def mode_for_task(task_type: str) -> RoutingMode | None:
    """The mode of a declared task type; None for one that stands for no mode."""
    return MODE_OF_TASK.get(task_type)


def mode_for_complexity(complexity: float) -> RoutingMode:
    """The mode of a declared complexity of 0 to 10: above 8 RELIABLE, below 3 ASYNC, else FAST."""
    if complexity > _RELIABLE_ABOVE:
        return RoutingMode.RELIABLE
    return RoutingMode.ASYNC if complexity < _ASYNC_BELOW else RoutingMode.FAST


def resolve(routing: Routing) -> Routing:
    """The routing with `auto` replaced by a mode; anything else is returned as it is.

    A reasoning style says most, then the task type, then the complexity; without any of them it is FAST. A
    priority that the caller chose is kept.
    """
    if routing.routing_mode is not RoutingMode.AUTO:
        return routing
    style = MODE_OF_STYLE.get(routing.reasoning_style or "")
    if style is not None:
        mode, priority = style
        kept = priority if routing.priority == DEFAULT_PRIORITY else routing.priority
        return msgspec.structs.replace(routing, routing_mode=mode, priority=kept)
    mode_of_task = mode_for_task(routing.task_type or "")
    if mode_of_task is None and routing.complexity is not None:
        mode_of_task = mode_for_complexity(routing.complexity)
    return msgspec.structs.replace(routing, routing_mode=mode_of_task or RoutingMode.FAST)
