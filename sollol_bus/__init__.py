"""SOLLOL Bus: the bus conventions and the client.

What is exported here is the public API; everything else may change. A name is imported when it is used, so that who
needs one error does not load a client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sollol_bus.actor import Actor, ActorState, ActorStatistics
    from sollol_bus.errors import (
        ActorStopped,
        BackendBrokeProtocol,
        BackendError,
        BackendRefused,
        BackendUnavailable,
        BadRequest,
        BusError,
        Cancelled,
        ConfigError,
        Conflict,
        ConnectionLost,
        DeadlineExceeded,
        DecodeFailed,
        InternalError,
        NoEligibleNode,
        NoResponders,
        NotConnected,
        NotPermitted,
        PayloadTooLarge,
        QueueFull,
        RequestError,
        RequestTimedOut,
        RoutingError,
        SollolError,
        Unauthorized,
        UnknownModel,
    )
    from sollol_bus.parts import Part, Spawn
    from sollol_bus.sdk.batch import Batch, BatchProgress
    from sollol_bus.sdk.batches import Batches
    from sollol_bus.sdk.call import Call
    from sollol_bus.sdk.client import Client
    from sollol_bus.sdk.jobs import JobAnswer, Jobs, make_job, priority_of
    from sollol_bus.sdk.results import Answer, AnswerStream, Chunk, Embeddings
    from sollol_bus.sdk.warming import Warmed
    from sollol_bus.transport.connection import Bus, BusConfig
    from sollol_bus.transport.many import request_many
    from sollol_bus.transport.messages import Msg
    from sollol_bus.transport.mux import ReplyInbox
    from sollol_bus.transport.streaming import ReplyStream
    from sollol_bus.transport.subscription import Subscription
    from sollol_bus.version import VERSION
    from sollol_schemas.batch_progress import BatchStage, BatchView
    from sollol_schemas.jobs import Job, JobState
    from sollol_schemas.modes import mode_for, mode_for_complexity, mode_for_style, mode_for_task
    from sollol_schemas.prices import NodePrice
    from sollol_schemas.routing import PRIORITY_NAMES, Routing, RoutingMode

__all__ = [
    "PRIORITY_NAMES",
    "VERSION",
    "Actor",
    "ActorState",
    "ActorStatistics",
    "ActorStopped",
    "Answer",
    "AnswerStream",
    "BackendBrokeProtocol",
    "BackendError",
    "BackendRefused",
    "BackendUnavailable",
    "BadRequest",
    "Batch",
    "BatchProgress",
    "BatchStage",
    "BatchView",
    "Batches",
    "Bus",
    "BusConfig",
    "BusError",
    "Call",
    "Cancelled",
    "Chunk",
    "Client",
    "ConfigError",
    "Conflict",
    "ConnectionLost",
    "DeadlineExceeded",
    "DecodeFailed",
    "Embeddings",
    "InternalError",
    "Job",
    "JobAnswer",
    "JobState",
    "Jobs",
    "Msg",
    "NoEligibleNode",
    "NoResponders",
    "NodePrice",
    "NotConnected",
    "NotPermitted",
    "Part",
    "PayloadTooLarge",
    "QueueFull",
    "ReplyInbox",
    "ReplyStream",
    "RequestError",
    "RequestTimedOut",
    "Routing",
    "RoutingError",
    "RoutingMode",
    "SollolError",
    "Spawn",
    "Subscription",
    "Unauthorized",
    "UnknownModel",
    "Warmed",
    "make_job",
    "mode_for",
    "mode_for_complexity",
    "mode_for_style",
    "mode_for_task",
    "priority_of",
    "request_many",
]

_PLACE_OF: Final = {
    name: place
    for place, names in {
        "sollol_bus.actor": ("Actor", "ActorState", "ActorStatistics"),
        "sollol_bus.errors": (
            "ActorStopped",
            "BackendBrokeProtocol",
            "BackendError",
            "BackendRefused",
            "BackendUnavailable",
            "BadRequest",
            "BusError",
            "Cancelled",
            "ConfigError",
            "Conflict",
            "ConnectionLost",
            "DeadlineExceeded",
            "DecodeFailed",
            "InternalError",
            "NoEligibleNode",
            "NoResponders",
            "NotConnected",
            "NotPermitted",
            "PayloadTooLarge",
            "QueueFull",
            "RequestError",
            "RequestTimedOut",
            "RoutingError",
            "SollolError",
            "Unauthorized",
            "UnknownModel",
        ),
        "sollol_bus.parts": ("Part", "Spawn"),
        "sollol_bus.sdk.batch": ("Batch", "BatchProgress"),
        "sollol_bus.sdk.batches": ("Batches",),
        "sollol_bus.sdk.call": ("Call",),
        "sollol_bus.sdk.client": ("Client",),
        "sollol_bus.sdk.jobs": ("JobAnswer", "Jobs", "make_job", "priority_of"),
        "sollol_bus.sdk.results": ("Answer", "AnswerStream", "Chunk", "Embeddings"),
        "sollol_bus.sdk.warming": ("Warmed",),
        "sollol_bus.transport.connection": ("Bus", "BusConfig"),
        "sollol_bus.transport.messages": ("Msg",),
        "sollol_bus.transport.mux": ("ReplyInbox",),
        "sollol_bus.transport.many": ("request_many",),
        "sollol_bus.transport.streaming": ("ReplyStream",),
        "sollol_bus.transport.subscription": ("Subscription",),
        "sollol_bus.version": ("VERSION",),
        "sollol_schemas.batch_progress": ("BatchStage", "BatchView"),
        "sollol_schemas.jobs": ("Job", "JobState"),
        "sollol_schemas.modes": ("mode_for", "mode_for_complexity", "mode_for_style", "mode_for_task"),
        "sollol_schemas.prices": ("NodePrice",),
        "sollol_schemas.routing": ("PRIORITY_NAMES", "Routing", "RoutingMode"),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 whatever is exported
    place = _PLACE_OF.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(place), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
