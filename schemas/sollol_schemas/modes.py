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
_DEFAULT: Final = RoutingMode.FAST


def mode_for_task(task_type: str) -> RoutingMode | None:
    """The mode of a declared task type; None for one that stands for no mode."""
    return MODE_OF_TASK.get(task_type.lower())


def mode_for_style(reasoning_style: str) -> tuple[RoutingMode, int] | None:
    """Mode and priority of a declared style of reasoning; None for one that is not known."""
    return MODE_OF_STYLE.get(reasoning_style.lower())


def mode_for_complexity(complexity: float) -> RoutingMode:
    """The mode of a declared complexity of 0 to 10: above 8 RELIABLE, below 3 ASYNC, else FAST."""
    if complexity > _RELIABLE_ABOVE:
        return RoutingMode.RELIABLE
    return RoutingMode.ASYNC if complexity < _ASYNC_BELOW else RoutingMode.FAST


def mode_for(
    task_type: str = "", complexity: float | None = None, reasoning_style: str = "", *, default: RoutingMode = _DEFAULT
) -> RoutingMode:
    """The mode of a request by what its caller declares, as the fleet chooses it for `auto`.

    A reasoning style says most, then the task type, then the complexity; what stands for no mode says nothing.

    Args:
        task_type: chat and quick_question are FAST; production_code and security_review RELIABLE; documentation,
            test_generation and analysis ASYNC.
        complexity: 0 to 10: above 8 RELIABLE, below 3 ASYNC, else FAST.
        reasoning_style: deep_thinking is RELIABLE, fast FAST, extended ASYNC.
        default: Where nothing that is declared says which.
    """
    style = mode_for_style(reasoning_style)
    if style is not None:
        return style[0]
    mode = mode_for_task(task_type)
    if mode is None and complexity is not None:
        mode = mode_for_complexity(complexity)
    return mode or default


def resolve(routing: Routing) -> Routing:
    """The routing with `auto` replaced by a mode; anything else is returned as it is.

    A reasoning style brings a priority, too; one that the caller chose is kept.
    """
    if routing.routing_mode is not RoutingMode.AUTO:
        return routing
    style = mode_for_style(routing.reasoning_style or "")
    priority = style[1] if style is not None and routing.priority == DEFAULT_PRIORITY else routing.priority
    mode = mode_for(routing.task_type or "", routing.complexity, routing.reasoning_style or "")
    return msgspec.structs.replace(routing, routing_mode=mode, priority=priority)
