"""SOLLOL Bus: the bus conventions and the client.

What is exported here is the public API; everything else may change.
"""

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
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.mux import ReplyInbox
from sollol_bus.transport.streaming import ReplyStream, request_many
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
