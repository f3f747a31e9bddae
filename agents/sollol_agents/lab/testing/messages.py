"""Messages of a fleet for tests: what a test does not name has a usual value.

Every builder takes further fields of its message by name.
"""

# ruff: noqa: ANN401 fields of messages are passed on by name

from __future__ import annotations

from typing import Any, Final

from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import Decision, Forecast
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.grant import GrantRequest
from sollol_schemas.ids import request_id_of
from sollol_schemas.queries import NodeView
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LoadedModel,
    LoadUpdate,
    NodeState,
    Telemetry,
)

MODEL: Final = "llama3:8b"


def model(name: str = MODEL, size_gb: float = 4.9, **more: Any) -> InstalledModel:
    """A model on disk."""
    return InstalledModel(name=name, size_bytes=int(size_gb * 1e9), **more)


def loaded(name: str = MODEL, size_gb: float = 5.5, **more: Any) -> LoadedModel:
    """A model in video memory."""
    return LoadedModel(name=name, size_bytes=int(size_gb * 1e9), **{"vram_bytes": int(size_gb * 1e9), **more})


def gpu(name: str = "RTX 3090", total_gb: float = 24.0, free_gb: float = 18.0) -> Gpu:
    """A card; sizes in GiB."""
    return Gpu(
        index=0,
        name=name,
        memory_total_mib=total_gb * 1024,
        memory_free_mib=free_gb * 1024,
        memory_used_mib=(total_gb - free_gb) * 1024,
    )


def engine(kind: EngineKind = EngineKind.OLLAMA, **more: Any) -> EngineInfo:
    """An engine that answers."""
    return EngineInfo(kind=kind, **{"url": "http://127.0.0.1:11434", **more})


def running(*attempt_ids: str, name: str = MODEL, **more: Any) -> tuple[InFlight, ...]:
    """Attempts in slots."""
    return tuple(InFlight(attempt_id=attempt_id, model=name, **more) for attempt_id in attempt_ids)


def telemetry(node_id: str = "n1", **more: Any) -> Telemetry:
    """A heartbeat of a node with one slot, no GPU and no models, before an Ollama."""
    usual = {"instance": f"{node_id}-a", "revision": 1, "seq": 1, "engine": engine(), "slots": 1}
    return Telemetry(node_id=node_id, **{**usual, **more})


def load_update(node_id: str = "n1", **more: Any) -> LoadUpdate:
    """What a node says between two heartbeats."""
    return LoadUpdate(node_id=node_id, **{"instance": f"{node_id}-a", "seq": 2, "slots": 1, **more})


def node_view(node_id: str = "n1", state: NodeState = NodeState.UP, **more: Any) -> NodeView:
    """A node as the scorer shows it; further fields are those of its telemetry."""
    return NodeView(node_id=node_id, state=state, heartbeat_age_s=0.1, telemetry=telemetry(node_id, **more))


def grant_request(
    request_id: str = "r", *, name: str = MODEL, prompt: int = 100, priority: int = 5, **more: Any
) -> GrantRequest:
    """A dispatcher's question for a slot, for a chat of `prompt` tokens."""
    usual = {
        "number": 1,
        "context": TaskContext(kind=RequestKind.CHAT, model=name, prompt_tokens=prompt),
        "routing": Routing(priority=priority),
        "dispatcher": "d1",
    }
    return GrantRequest(request_id=request_id, **{**usual, **more})


def decision(attempt_id: str = "r-1", node_id: str = "n1", *, predicted_s: float = 0.0, **more: Any) -> Decision:
    """Who is to run an attempt."""
    usual = {"request_id": request_id_of(attempt_id), "forecast": Forecast(total_s=predicted_s)}
    return Decision(attempt_id=attempt_id, node_id=node_id, **{**usual, **more})


def outcome(
    attempt_id: str = "r-1",
    node_id: str = "n1",
    *,
    code: ErrorCode | None = None,
    status: OutcomeStatus | None = None,
    by: ReportedBy = ReportedBy.NODE,
    figures: Figures | None = None,
    message: str = "",
    **more: Any,
) -> Outcome:
    """How an attempt ended: a success without a code; further fields are those of its decision."""
    if status is None:
        ended = OutcomeStatus.CANCELLED if code is ErrorCode.CANCELLED else OutcomeStatus.FAILED
        status = OutcomeStatus.SUCCESS if code is None else ended
    return Outcome(
        decision=decision(attempt_id, node_id, **more),
        status=status,
        reported_by=by,
        code=code,
        message=message,
        figures=figures,
    )
