"""What of the fleet needs a person: machines that are away or slow, and GPUs with little memory left. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from sollol_schemas.queries import NodeView
from sollol_schemas.telemetry import Gpu, NodeState

SLOW_BELOW_RATIO = 0.6
"""A pace below this part of what was learnt of a node is worth telling; noise and company stay above it."""
FREE_MIB = 2048.0
_FAILS_BELOW_RATIO = 0.9
_ATTEMPTS_TELLING = 20
_OWN_MIB = 1024.0
_MIB = 1024.0 * 1024.0


class AlertKind(StrEnum):
    """What is wrong."""

    UNAVAILABLE = "unavailable"  # it serves nothing
    DEGRADED = "degraded"  # it is slower than it was, or fails too often
    LOW_VRAM = "low_vram"  # less than 2 GiB of a GPU's memory is free


class AlertLevel(StrEnum):
    """How much it matters."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"  # as it must be: models that the engine loaded fill the memory


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with one node."""

    kind: AlertKind
    level: AlertLevel
    node_id: str
    host: str
    text: str


def alerts(views: Iterable[NodeView]) -> tuple[Alert, ...]:
    """Everything that needs a person, the worst first; a node that left in order is missed by nobody."""
    found = [alert for view in views if not view.has_left for alert in (*_health(view), *_memory(view))]
    order = list(AlertLevel)
    return tuple(sorted(found, key=lambda alert: (order.index(alert.level), alert.kind, alert.node_id)))


def _alert(view: NodeView, kind: AlertKind, level: AlertLevel, text: str) -> Alert:
    return Alert(kind=kind, level=level, node_id=view.node_id, host=view.telemetry.host, text=text)


def _health(view: NodeView) -> Iterable[Alert]:
    if view.state is NodeState.DOWN:
        text = f"{view.node_id} is down: nothing was heard of it for {view.heartbeat_age_s:.0f} s"
        yield _alert(view, AlertKind.UNAVAILABLE, AlertLevel.CRITICAL, text)
        return
    engine = view.telemetry.engine
    if not engine.is_reachable:
        text = f"the engine of {view.node_id} does not answer: {engine.detail}".removesuffix(": ")
        yield _alert(view, AlertKind.UNAVAILABLE, AlertLevel.CRITICAL, text)
    elif view.state is NodeState.SUSPECT:
        text = f"{view.node_id} is suspect: its heartbeats are late, or an attempt there was just lost"
        yield _alert(view, AlertKind.UNAVAILABLE, AlertLevel.WARNING, text)
    if view.pace_ratio < SLOW_BELOW_RATIO:
        text = f"{view.node_id} runs at {view.pace_ratio:.0%} of the speed that was learnt of it"
        yield _alert(view, AlertKind.DEGRADED, AlertLevel.WARNING, text)
    if view.attempts >= _ATTEMPTS_TELLING and view.success_ratio < _FAILS_BELOW_RATIO:
        text = f"{1 - view.success_ratio:.0%} of the attempts on {view.node_id} fail"
        yield _alert(view, AlertKind.DEGRADED, AlertLevel.WARNING, text)


def _memory(view: NodeView) -> Iterable[Alert]:
    if view.state is NodeState.DOWN:
        return
    for gpu in view.telemetry.gpus:
        if gpu.memory_total_mib > FREE_MIB and gpu.memory_free_mib < FREE_MIB:
            level = AlertLevel.INFO if _is_full_of_models(view) else AlertLevel.WARNING
            yield _alert(view, AlertKind.LOW_VRAM, level, _lack(view, gpu))


def _is_full_of_models(view: NodeView) -> bool:
    """Whether the models that the engine tells of take what is taken."""
    used_mib = sum(max(0.0, gpu.memory_total_mib - gpu.memory_free_mib) for gpu in view.telemetry.gpus)
    models_mib = sum(model.vram_bytes for model in view.telemetry.loaded) / _MIB
    return used_mib - models_mib <= _OWN_MIB * len(view.telemetry.gpus)


def _lack(view: NodeView, gpu: Gpu) -> str:
    which = f"GPU {gpu.index} of {view.node_id}" if len(view.telemetry.gpus) > 1 else view.node_id
    free, total = gpu.memory_free_mib / 1024.0, gpu.memory_total_mib / 1024.0
    return f"{which} has {free:.1f} of {total:.1f} GiB of video memory free"
